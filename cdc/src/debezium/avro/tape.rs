//! A datum as the nodes that the same event in JSON is parsed into: all that follows is the same for both.

use std::{fmt, ops::Range};

use base64::{Engine, engine::general_purpose::STANDARD};
use simd_json::{Node, StaticNode, Tape};

use super::{
    super::json::Value,
    schema::{Schema, Shape},
};

/// The bytes are no datum of the schema. Nothing of them is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct NoDatum;

/// Memory of what is read, which is used again. Texts stay in the message.
pub(in super::super) struct Reader {
    tape: Tape<'static>,
    /// Bytes as JSON has them, all in one; and which nodes they are.
    base64: String,
    encoded: Vec<(usize, Range<usize>)>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

impl Reader {
    pub(in super::super) fn new() -> Self {
        Self { tape: Tape(Vec::new()), base64: String::new(), encoded: Vec::new() }
    }

    pub(in super::super) fn read<R>(
        &mut self,
        datum: &[u8],
        schema: &Schema,
        with: impl FnOnce(Value<'_>) -> R,
    ) -> Result<R, NoDatum> {
        let Self { tape, base64, encoded } = self;
        base64.clear();
        encoded.clear();
        let mut nodes = std::mem::replace(tape, Tape(Vec::new())).reset();
        let mut rest = Rest { bytes: datum, nodes: &mut nodes.0, base64, encoded };
        let is_whole = rest.value(&schema.shape).is_some() && rest.bytes.is_empty();
        let result = is_whole.then(|| {
            for (node, range) in encoded.drain(..) {
                nodes.0[node] = Node::String(&base64[range]);
            }
            with(&nodes.0)
        });
        *tape = nodes.reset();
        result.ok_or(NoDatum)
    }
}

/// What has not been read of a datum, and where it goes.
struct Rest<'n, 't> {
    bytes: &'t [u8],
    nodes: &'n mut Vec<Node<'t>>,
    base64: &'n mut String,
    encoded: &'n mut Vec<(usize, Range<usize>)>,
}

impl<'t> Rest<'_, 't> {
    /// Reads one value; `None` if there is none.
    fn value(&mut self, shape: &'t Shape) -> Option<()> {
        let node = match shape {
            Shape::Boolean => Node::Static(StaticNode::Bool(match self.take(1)? {
                [0] => false,
                [1] => true,
                _ => return None,
            })),
            Shape::Integer => Node::Static(StaticNode::I64(self.integer()?)),
            Shape::Float => {
                let bytes = self.take(4)?.try_into().ok()?;
                Node::Static(StaticNode::F64(f32::from_le_bytes(bytes).into()))
            }
            Shape::Double => {
                let bytes = self.take(8)?.try_into().ok()?;
                Node::Static(StaticNode::F64(f64::from_le_bytes(bytes)))
            }
            Shape::Text => Node::String(self.text()?),
            Shape::Symbols(symbols) => Node::String(symbols.get(self.length()?)?),
            Shape::Bytes => {
                let length = self.length()?;
                return self.encoded(length);
            }
            Shape::Fixed(length) => return self.encoded(*length),
            Shape::Maybe(branches) => match branches.get(self.length()?)? {
                Some(shape) => return self.value(shape),
                None => Node::Static(StaticNode::Null),
            },
            Shape::Array(shape) => {
                let first = self.begin();
                let len = self.blocks(|rest| rest.value(shape))?;
                self.nodes[first] = Node::Array { len, count: self.nodes.len() - first - 1 };
                return Some(());
            }
            Shape::Map(shape) => {
                let first = self.begin();
                let len = self.blocks(|rest| {
                    let key = rest.text()?;
                    rest.nodes.push(Node::String(key));
                    rest.value(shape)
                })?;
                self.nodes[first] = Node::Object { len, count: self.nodes.len() - first - 1 };
                return Some(());
            }
            Shape::Fields(fields) => {
                let first = self.begin();
                for (name, shape) in fields.iter() {
                    self.nodes.push(Node::String(name));
                    self.value(shape)?;
                }
                self.nodes[first] = Node::Object { len: fields.len(), count: self.nodes.len() - first - 1 };
                return Some(());
            }
        };
        self.nodes.push(node);
        Some(())
    }

    /// The place of a node that is not known yet.
    fn begin(&mut self) -> usize {
        self.nodes.push(Node::Static(StaticNode::Null));
        self.nodes.len() - 1
    }

    fn encoded(&mut self, length: usize) -> Option<()> {
        let (bytes, start) = (self.take(length)?, self.base64.len());
        STANDARD.encode_string(bytes, self.base64);
        let node = self.begin();
        self.encoded.push((node, start..self.base64.len()));
        Some(())
    }

    /// Values in blocks, each after their number; the last one is empty.
    fn blocks(&mut self, mut value: impl FnMut(&mut Self) -> Option<()>) -> Option<usize> {
        let mut len = 0;
        loop {
            let count = self.integer()?;
            if count < 0 {
                // How many bytes they are, for who passes them over.
                self.integer()?;
            }
            let count = usize::try_from(count.unsigned_abs()).ok()?;
            if count == 0 {
                return Some(len);
            }
            for _ in 0..count {
                value(self)?;
            }
            len += count;
        }
    }

    fn text(&mut self) -> Option<&'t str> {
        let length = self.length()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.integer()?).ok()
    }

    /// Seven bits a byte, the lowest first; the lowest of all is the sign.
    fn integer(&mut self) -> Option<i64> {
        let (mut bits, mut shift) = (0, 0);
        loop {
            let (&byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            if shift == 63 && byte > 1 {
                return None;
            }
            bits |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some((bits >> 1).cast_signed() ^ -(bits & 1).cast_signed());
            }
            shift += 7;
        }
    }

    fn take(&mut self, length: usize) -> Option<&'t [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }
}
