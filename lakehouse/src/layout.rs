//! Where tables lie in the lake.

use std::fmt;

use lakeward_change::TableId;
use sha2::{Digest, Sha256};

use crate::canonical::hex;

/// A layer of the lake: its folder's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layer {
    /// Every change, appended.
    Bronze,
    /// Current rows.
    Silver,
    /// What is computed from them for people to ask.
    Gold,
    Features,
    /// The system about itself.
    Ops,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bronze => "bronze",
            Self::Silver => "silver",
            Self::Gold => "gold",
            Self::Features => "features",
            Self::Ops => "ops",
        })
    }
}

/// A table's path relative to the lake: `{layer}/{short name}`, or `{layer}/{source}/{schema}/{table}` without one.
pub(crate) fn table_path(layer: Layer, source: &str, table: &TableId, short: Option<&String>) -> String {
    match short {
        Some(name) => format!("{layer}/{}", slug(name)),
        None => format!("{layer}/{}/{}/{}", slug(source), slug(&table.schema), slug(&table.name)),
    }
}

/// A name as one part of a path: itself if it has no character outside `[a-z0-9_-]`, else what is left of it with a
/// hash of the whole, so that two names never share a path.
pub(crate) fn slug(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(plain) {
        return name.to_owned();
    }
    let readable: String = name
        .chars()
        .take(40)
        .map(|c| c.to_ascii_lowercase())
        .map(|c| if plain(c) { c } else { '-' })
        .collect();
    format!("{readable}-{}", hex(&Sha256::digest(name.as_bytes())[..5]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_stay_and_others_keep_apart() {
        assert_eq!(slug("order_items-2"), "order_items-2");
        let slugs = ["Orders", "orders", "ORDERS", "or/ders", "or ders", "", "..", "größe"].map(slug);
        for (i, a) in slugs.iter().enumerate() {
            assert!(
                !a.is_empty()
                    && a.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c))
            );
            assert!(slugs[i + 1..].iter().all(|b| a != b));
        }
    }

    #[test]
    fn short_names_replace_the_full_path() {
        let table = TableId::new("public", "Orders");
        assert_eq!(table_path(Layer::Silver, "shop", &table, Some(&"orders".to_owned())), "silver/orders");
        assert!(table_path(Layer::Bronze, "shop", &table, None).starts_with("bronze/shop/public/orders-"));
    }
}
