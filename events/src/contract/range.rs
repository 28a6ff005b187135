//! Bounds.

use serde_json::Value;

use super::keys::{Object, Problems, join};

#[derive(Debug)]
pub(super) struct Range<T> {
    minimum: Option<T>,
    exclusive_minimum: Option<T>,
    maximum: Option<T>,
    exclusive_maximum: Option<T>,
}

pub(super) const KEYS: &[&str] = &["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"];

impl<T: PartialOrd + Copy> Range<T> {
    /// `read` makes a bound of what stands in the contract; what it cannot is told as `problem`.
    pub(super) fn read(
        at: &str,
        options: &Object,
        problem: &str,
        read: impl Fn(&Value) -> Option<T>,
        problems: &mut Problems,
    ) -> Self {
        let mut bound = |key| {
            let value = options.get(key)?;
            let bound = read(value);
            if bound.is_none() {
                problems.tell(&join(at, key), problem);
            }
            bound
        };
        Self {
            minimum: bound("minimum"),
            exclusive_minimum: bound("exclusiveMinimum"),
            maximum: bound("maximum"),
            exclusive_maximum: bound("exclusiveMaximum"),
        }
    }

    /// The rules that a value breaks.
    pub(super) fn broken(&self, value: T) -> impl Iterator<Item = &'static str> {
        [
            ("minimum", self.minimum.is_some_and(|bound| value < bound)),
            ("exclusiveMinimum", self.exclusive_minimum.is_some_and(|bound| value <= bound)),
            ("maximum", self.maximum.is_some_and(|bound| value > bound)),
            ("exclusiveMaximum", self.exclusive_maximum.is_some_and(|bound| value >= bound)),
        ]
        .into_iter()
        .filter_map(|(rule, broken)| broken.then_some(rule))
    }
}
