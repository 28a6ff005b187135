//! Quality rules of the standard's library, as far as one message can be judged by them: no value may break them.

use std::collections::HashSet;

use serde_json::Value;

use super::keys::{Object, Problems, join};

/// What no value may be.
#[derive(Debug)]
pub(super) struct Test {
    pub(super) rule: &'static str,
    what: What,
}

#[derive(Debug)]
enum What {
    Null,
    Among(Values),
    NotAmong(Values),
    NotLike(regex::Regex),
}

/// A value that is no object and no array.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scalar<'a> {
    Null,
    Boolean(bool),
    Integer(i128),
    Float(f64),
    Text(&'a str),
}

#[derive(Debug, Default)]
struct Values {
    texts: HashSet<String>,
    others: Vec<Value>,
}

const KEYS: &[&str] = &["type", "metric", "arguments", "unit", "mustBe", "mustBeLessOrEqualTo", "severity"];
const ABOUT: &[&str] = &[
    "id",
    "name",
    "description",
    "dimension",
    "method",
    "businessImpact",
    "tags",
    "authoritativeDefinitions",
    "customProperties",
];
/// For people: nothing else is in such a rule.
const TEXT: &[&str] = &["type", "severity"];

impl Test {
    pub(super) fn is_broken_by(&self, value: Scalar<'_>) -> bool {
        match (&self.what, value) {
            (What::Null, value) => matches!(value, Scalar::Null),
            (What::Among(values), value) => values.have(value),
            // What is not there is neither valid nor invalid: `required` and `nullValues` are about it.
            (What::NotAmong(_) | What::NotLike(_), Scalar::Null) => false,
            (What::NotAmong(values), value) => !values.have(value),
            (What::NotLike(pattern), Scalar::Text(text)) => !pattern.is_match(text),
            (What::NotLike(_), _) => true,
        }
    }
}

impl Values {
    fn of(list: &[Value]) -> Self {
        let mut values = Self::default();
        for value in list {
            match value {
                Value::String(text) => drop(values.texts.insert(text.clone())),
                other => values.others.push(other.clone()),
            }
        }
        values
    }

    fn have(&self, value: Scalar<'_>) -> bool {
        let is = |other: &Value| match (other, value) {
            (Value::Null, Scalar::Null) => true,
            (Value::Bool(one), Scalar::Boolean(other)) => *one == other,
            (Value::Number(one), Scalar::Integer(other)) => {
                one.as_i64().map(i128::from).or_else(|| one.as_u64().map(i128::from)) == Some(other)
            }
            (Value::Number(one), Scalar::Float(other)) => one.as_f64() == Some(other),
            _ => false,
        };
        match value {
            Scalar::Text(text) => self.texts.contains(text),
            _ => self.others.iter().any(is),
        }
    }
}

/// Rules of the whole object are about many messages.
pub(super) fn of_object(at: &str, object: &Object, problems: &mut Problems) {
    for (index, rule) in problems.list(at, object, "quality").iter().enumerate() {
        let at = format!("{at}.quality[{index}]");
        if !is_text(&at, rule, problems) {
            problems.tell(&at, "cannot be judged by one message: only rules of type text can stand here");
        }
    }
}

pub(super) fn of_property(at: &str, object: &Object, problems: &mut Problems) -> Vec<Test> {
    let mut tests = Vec::new();
    for (index, rule) in problems.list(at, object, "quality").iter().enumerate() {
        let at = format!("{at}.quality[{index}]");
        if !is_text(&at, rule, problems) {
            read(&at, rule, &mut tests, problems);
        }
    }
    tests
}

fn is_text(at: &str, rule: &Value, problems: &mut Problems) -> bool {
    let is_text = rule.get("type").and_then(Value::as_str) == Some("text");
    if is_text {
        problems.object(at, rule, &[TEXT, ABOUT]);
    }
    is_text
}

fn read(at: &str, rule: &Value, tests: &mut Vec<Test>, problems: &mut Problems) {
    let Some(rule) = problems.object(at, rule, &[KEYS, ABOUT]) else { return };
    if !matches!(problems.text(at, rule, "type"), None | Some("library")) {
        problems.tell(&join(at, "type"), "must be library or text: no SQL and no other engine runs here");
        return;
    }
    if !matches!(problems.text(at, rule, "severity"), None | Some("error")) {
        problems.tell(&join(at, "severity"), "must be error: a message conforms or does not");
    }
    let zero = |key: &str| rule.get(key).and_then(Value::as_f64) == Some(0.0);
    if !zero("mustBe") && !zero("mustBeLessOrEqualTo") {
        problems.tell(at, "must say mustBe: 0, since a message is judged alone");
    }
    let no_arguments = Object::new();
    let at_arguments = join(at, "arguments");
    let arguments = rule.get("arguments").and_then(Value::as_object).unwrap_or(&no_arguments);
    let only = |known: &[&str], problems: &mut Problems| {
        for key in arguments.keys().filter(|key| !known.contains(&key.as_str())) {
            problems.tell(&join(&at_arguments, key), "is no argument of this metric");
        }
    };
    match problems.needed(at, rule, "metric").as_str() {
        "nullValues" => {
            only(&[], problems);
            tests.push(Test { rule: "nullValues", what: What::Null });
        }
        "missingValues" => {
            only(&["missingValues"], problems);
            let values = problems.list(&at_arguments, arguments, "missingValues");
            if values.is_empty() {
                problems.tell(&at_arguments, "must have missingValues");
            }
            tests.push(Test { rule: "missingValues", what: What::Among(Values::of(values)) });
        }
        "invalidValues" => {
            only(&["validValues", "pattern"], problems);
            let values = problems.list(&at_arguments, arguments, "validValues");
            let pattern = problems.pattern(&at_arguments, arguments, "pattern");
            if values.is_empty() && !arguments.contains_key("pattern") {
                problems.tell(&at_arguments, "must have validValues or a pattern");
            }
            if !values.is_empty() {
                tests.push(Test { rule: "invalidValues", what: What::NotAmong(Values::of(values)) });
            }
            if let Some(pattern) = pattern {
                tests.push(Test { rule: "invalidValues", what: What::NotLike(pattern) });
            }
        }
        // Told as missing already.
        "" => {}
        _ => problems.tell(
            &join(at, "metric"),
            "must be nullValues, missingValues or invalidValues: others are about many messages",
        ),
    }
}
