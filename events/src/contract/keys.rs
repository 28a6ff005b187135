//! Reading a contract's document: each key is known, or wrong.

use serde_json::{Map, Value};

pub(super) type Object = Map<String, Value>;

/// What is wrong so far.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<String>);

impl Problems {
    pub(super) fn tell(&mut self, path: &str, problem: impl std::fmt::Display) {
        self.0.push(format!("{path}: {problem}"));
    }

    /// An object whose keys are all among the given ones.
    pub(super) fn object<'v>(
        &mut self,
        path: &str,
        value: &'v Value,
        known: &[&[&str]],
    ) -> Option<&'v Object> {
        let Value::Object(object) = value else {
            self.tell(path, "must be an object");
            return None;
        };
        for key in object.keys().filter(|key| !known.iter().any(|keys| keys.contains(&key.as_str()))) {
            self.tell(&join(path, key), "is not supported here, or not of the standard");
        }
        Some(object)
    }

    pub(super) fn list<'v>(&mut self, path: &str, object: &'v Object, key: &str) -> &'v [Value] {
        match object.get(key) {
            None | Some(Value::Null) => &[],
            Some(Value::Array(list)) => list,
            Some(_) => {
                self.tell(&join(path, key), "must be a list");
                &[]
            }
        }
    }

    pub(super) fn text<'v>(&mut self, path: &str, object: &'v Object, key: &str) -> Option<&'v str> {
        match object.get(key)? {
            Value::Null => None,
            Value::String(text) => Some(text),
            _ => {
                self.tell(&join(path, key), "must be a text: put it in quotes");
                None
            }
        }
    }

    /// A text that must be there.
    pub(super) fn needed(&mut self, path: &str, object: &Object, key: &str) -> String {
        match object.get(key) {
            None | Some(Value::Null) => self.tell(&join(path, key), "is missing"),
            Some(_) => return self.text(path, object, key).unwrap_or_default().to_owned(),
        }
        String::new()
    }

    pub(super) fn flag(&mut self, path: &str, object: &Object, key: &str) -> Option<bool> {
        match object.get(key)? {
            Value::Null => None,
            Value::Bool(flag) => Some(*flag),
            _ => {
                self.tell(&join(path, key), "must be true or false");
                None
            }
        }
    }

    pub(super) fn count(&mut self, path: &str, object: &Object, key: &str) -> Option<usize> {
        let value = object.get(key)?;
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        if count.is_none() {
            self.tell(&join(path, key), "must be a whole number from 0 on");
        }
        count
    }

    pub(super) fn pattern(&mut self, path: &str, object: &Object, key: &str) -> Option<regex::Regex> {
        let pattern = self.text(path, object, key)?;
        match regex::Regex::new(pattern) {
            Ok(regex) => Some(regex),
            Err(_) => {
                self.tell(
                    &join(path, key),
                    "is no regular expression that is supported (no look-around, no back references)",
                );
                None
            }
        }
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
