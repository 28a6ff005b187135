//! The names of everything in Redis, and positions as texts that compare as the positions do.

use lakeward_change::Position;
use lakeward_features::View;

/// What the store holds of an entity under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    View(View),
    /// A customer's purchases, for recommendations.
    History,
}

impl Held {
    pub fn name(self) -> &'static str {
        match self {
            Self::View(view) => view.name(),
            Self::History => "history",
        }
    }

    pub(crate) fn of_product(self) -> bool {
        self == Self::View(View::ProductPopularity)
    }

    /// Whether the value is a hash of its own.
    pub(crate) fn is_apart(self) -> bool {
        self == Self::View(View::UserItemInteractions)
    }
}

impl From<View> for Held {
    fn from(view: View) -> Self {
        Self::View(view)
    }
}

/// Where the features of one source are.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    source: String,
}

impl Keys {
    pub(crate) fn new(source: &str) -> Self {
        Self { source: source.to_owned() }
    }

    /// The hash of an entity: a customer or a product.
    pub(crate) fn entity(&self, held: Held, id: i64) -> String {
        format!("{}{id}", self.prefix(held))
    }

    fn prefix(&self, held: Held) -> String {
        let kind = if held.of_product() { "product" } else { "user" };
        format!("{}:{kind}:", self.source)
    }

    /// What SCAN finds the entities by. A source's name may hold characters that mean something there.
    pub(crate) fn pattern(&self, held: Held) -> String {
        let mut pattern = String::new();
        for letter in self.prefix(held).chars() {
            if matches!(letter, '*' | '?' | '[' | ']' | '\\' | '^') {
                pattern.push('\\');
            }
            pattern.push(letter);
        }
        pattern + "*"
    }

    /// The entity that a key is of.
    pub(crate) fn id(&self, held: Held, key: &str) -> Option<i64> {
        key.strip_prefix(&self.prefix(held))?.parse().ok()
    }

    /// The hash that says what of each view is in.
    pub(crate) fn loaded(&self) -> String {
        format!("{}:online", self.source)
    }

    /// What a publisher finds again unless Redis has lost something.
    pub(crate) fn publisher(&self, id: &str) -> String {
        format!("{}:publisher:{id}", self.source)
    }
}

/// The hash of what a customer has to do with products: field = product. A name outside Lakeward knows it by.
pub(crate) fn interactions(user_id: i64) -> String {
    format!("user:{user_id}:interactions")
}

/// The fields of a value, its event time (microseconds UTC) and its position.
pub(crate) fn fields(held: Held) -> [String; 3] {
    let name = held.name();
    [name.to_owned(), format!("_ts:{name}"), format!("_pos:{name}")]
}

/// A position as text of one length, hexadecimal: texts compare as the positions do. Below zero nothing is written, and
/// beyond 2^32 - 1 neither an epoch nor a change of one transaction is told from the next.
pub(crate) fn place(at: Position) -> String {
    let [epoch, order] = [at.epoch, at.order].map(|part| u32::try_from(part.max(0)).unwrap_or(u32::MAX));
    format!("{epoch:08x}.{:016x}.{order:08x}", at.commit.max(0))
}

/// The position of a text that [`place`] gave.
pub(crate) fn parse_place(text: &str) -> Option<Position> {
    let mut parts = text.split('.').map(|part| i64::from_str_radix(part, 16).ok());
    let position = Position { epoch: parts.next()??, commit: parts.next()??, order: parts.next()?? };
    parts.next().is_none().then_some(position)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn positions() -> impl Strategy<Value = Position> {
        let part = || prop_oneof![0_i64..3, 0_i64..=i64::from(u32::MAX)];
        let commit = prop_oneof![0_i64..3, 0..=i64::MAX];
        (part(), commit, part()).prop_map(|(epoch, commit, order)| Position { epoch, commit, order })
    }

    proptest! {
        #[test]
        fn texts_compare_as_positions(a in positions(), b in positions()) {
            prop_assert_eq!(place(a).cmp(&place(b)), a.cmp(&b));
            prop_assert_eq!(parse_place(&place(a)), Some(a));
        }
    }

    #[test]
    fn keys_are_those_of_the_documents() {
        let keys = Keys::new("shop[1]");
        assert_eq!(keys.entity(View::UserRfm.into(), 42), "shop[1]:user:42");
        assert_eq!(keys.entity(View::ProductPopularity.into(), 7), "shop[1]:product:7");
        assert_eq!(keys.pattern(View::UserRfm.into()), r"shop\[1\]:user:*");
        assert_eq!(keys.id(View::UserRfm.into(), "shop[1]:user:-3"), Some(-3));
        assert_eq!(keys.id(View::UserRfm.into(), "shop[1]:product:3"), None);
        assert_eq!(interactions(42), "user:42:interactions");
        let position = Position { epoch: 3, commit: 255, order: 0 };
        assert_eq!(place(position), "00000003.00000000000000ff.00000000");
    }
}
