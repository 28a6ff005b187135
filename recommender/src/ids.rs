//! Ids of users, items and baskets: text outside, a dense index inside.

use std::collections::HashMap;

/// Distinct ids in their order: numeric if all are integers, else by bytes. The index follows the order,
/// so a tie broken by index is broken by id.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Ids {
    names: Vec<String>,
    index: HashMap<String, u32>,
}

/// The integer an id spells, if it is spelt as that integer is printed (`007` is text).
fn integer(id: &str) -> Option<i128> {
    let value: i128 = id.parse().ok()?;
    (value.to_string() == id).then_some(value)
}

impl Ids {
    pub(crate) fn new<'a>(ids: impl IntoIterator<Item = &'a str>) -> Self {
        let distinct: std::collections::HashSet<&str> = ids.into_iter().collect();
        let integers: Option<Vec<(i128, &str)>> =
            distinct.iter().map(|id| integer(id).map(|value| (value, *id))).collect();
        let names: Vec<String> = match integers {
            Some(mut pairs) => {
                pairs.sort_unstable();
                pairs.into_iter().map(|(_, id)| id.to_owned()).collect()
            }
            None => {
                let mut names: Vec<String> = distinct.into_iter().map(str::to_owned).collect();
                names.sort_unstable();
                names
            }
        };
        let index = names.iter().cloned().zip(0..).collect();
        Self { names, index }
    }

    pub(crate) fn get(&self, id: &str) -> Option<u32> {
        self.index.get(id).copied()
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_order_by_value_and_text_by_bytes() {
        assert_eq!(Ids::new(["10", "9", "-1", "9"]).names(), ["-1", "9", "10"]);
        assert_eq!(Ids::new(["10", "9", "x"]).names(), ["10", "9", "x"]);
        assert_eq!(Ids::new(["10", "9", "007"]).names(), ["007", "10", "9"]);
        assert_eq!(Ids::new(["b", "a"]).get("b"), Some(1));
    }
}
