//! Parsed JSON: one pass over the bytes into a flat list of nodes, in memory that is used again.

use simd_json::{Buffers, INPUT_PADDING, Node, StaticNode, Tape};

/// A value: its first node, and all that belong to it.
pub(super) type Value<'a> = &'a [Node<'a>];

/// The bytes are no JSON. Nothing of them is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoJson;

/// Memory of the parser.
pub(super) struct Parser {
    text: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
}

impl std::fmt::Debug for Parser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parser")
    }
}

impl Parser {
    pub(super) fn new() -> Self {
        Self { text: Vec::new(), buffers: Buffers::default(), tape: Tape(Vec::new()) }
    }

    pub(super) fn read<R>(
        &mut self,
        document: &[u8],
        with: impl FnOnce(Value<'_>) -> R,
    ) -> Result<R, NoJson> {
        self.text.clear();
        self.text.extend_from_slice(document);
        self.text.resize(document.len() + INPUT_PADDING, 0);
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let parsed =
            simd_json::fill_tape_padded(&mut self.text, document.len(), &mut self.buffers, &mut tape);
        let result = match parsed {
            Ok(()) if !tape.0.is_empty() => Ok(with(&tape.0)),
            _ => Err(NoJson),
        };
        self.tape = tape.reset();
        result
    }
}

/// How many nodes a value has that begins with this one.
pub(super) fn size(first: &Node<'_>) -> usize {
    match first {
        Node::Object { count, .. } | Node::Array { count, .. } => count + 1,
        Node::String(_) | Node::Static(_) => 1,
    }
}

/// The fields of an object; none of anything else.
pub(super) fn fields<'a>(value: Value<'a>) -> impl Iterator<Item = (&'a str, Value<'a>)> {
    let mut rest = if is_object(value) { &value[1..] } else { &[] };
    std::iter::from_fn(move || {
        let (Node::String(name), values) = rest.split_first()? else { return None };
        let (value, after) = values.split_at(size(values.first()?));
        rest = after;
        Some((*name, value))
    })
}

/// The elements of an array; none of anything else.
pub(super) fn elements<'a>(value: Value<'a>) -> impl Iterator<Item = Value<'a>> {
    let mut rest = if matches!(value.first(), Some(Node::Array { .. })) { &value[1..] } else { &[] };
    std::iter::from_fn(move || {
        let (element, after) = rest.split_at(size(rest.first()?));
        rest = after;
        Some(element)
    })
}

/// The first field of a name.
pub(super) fn field<'a>(value: Value<'a>, name: &str) -> Option<Value<'a>> {
    fields(value).find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// The document without the schema that it may carry beside its payload.
pub(super) fn unframed<'a>(document: Value<'a>) -> Value<'a> {
    field(document, "payload").filter(|_| field(document, "schema").is_some()).unwrap_or(document)
}

pub(super) fn is_object(value: Value<'_>) -> bool {
    matches!(value.first(), Some(Node::Object { .. }))
}

pub(super) fn is_null(value: Value<'_>) -> bool {
    matches!(value.first(), None | Some(Node::Static(StaticNode::Null)))
}

pub(super) fn string<'a>(value: Value<'a>) -> Option<&'a str> {
    match value.first() {
        Some(Node::String(text)) => Some(text),
        _ => None,
    }
}

pub(super) fn integer(value: Value<'_>) -> Option<i64> {
    match value.first() {
        Some(Node::Static(StaticNode::I64(number))) => Some(*number),
        Some(Node::Static(StaticNode::U64(number))) => i64::try_from(*number).ok(),
        _ => None,
    }
}

/// A number, or what JSON has no number for.
pub(super) fn float(value: Value<'_>) -> Option<f64> {
    match value.first()? {
        Node::Static(StaticNode::F64(number)) => Some(*number),
        // Java writes a point into every float, other writers may not.
        Node::Static(StaticNode::I64(number)) => Some(*number as f64),
        Node::Static(StaticNode::U64(number)) => Some(*number as f64),
        Node::String("NaN") => Some(f64::NAN),
        Node::String("Infinity") => Some(f64::INFINITY),
        Node::String("-Infinity") => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// The value as JSON again, without spaces.
pub(super) fn write(value: Value<'_>, out: &mut String) {
    match value.first() {
        Some(Node::Object { .. }) => {
            out.push('{');
            for (index, (name, value)) in fields(value).enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(name, out);
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Some(Node::Array { .. }) => {
            out.push('[');
            for (index, value) in elements(value).enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(value, out);
            }
            out.push(']');
        }
        Some(Node::String(text)) => write_string(text, out),
        Some(Node::Static(StaticNode::Bool(value))) => out.push_str(if *value { "true" } else { "false" }),
        Some(Node::Static(StaticNode::I64(number))) => out.push_str(&number.to_string()),
        Some(Node::Static(StaticNode::U64(number))) => out.push_str(&number.to_string()),
        Some(Node::Static(StaticNode::F64(number))) => out.push_str(&format!("{number:?}")),
        Some(Node::Static(StaticNode::Null)) | None => out.push_str("null"),
    }
}

fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}
