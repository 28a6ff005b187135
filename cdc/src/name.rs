//! What slots and publications are called.

/// A name of lower-case letters, digits and underscores, at most 54 long; a changed one carries a hash of the original.
pub(crate) fn slug(name: &str) -> String {
    const LONGEST: usize = 54;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.len() <= LONGEST && !name.is_empty() && name.chars().all(plain) {
        return name.to_owned();
    }
    let lower = name.to_lowercase();
    let kept = lower.chars().take(LONGEST - 9).map(|c| if plain(c) { c } else { '_' });
    // FNV-1a: stable over versions of everything.
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{}_{hash:08x}", kept.collect::<String>())
}

/// The publication for tables without a key; Postgres cuts names off after 63 bytes.
pub(crate) fn inserts_name(publication: &str) -> String {
    let name = format!("{publication}_inserts");
    if name.len() <= 63 { name } else { slug(&name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_names_are_valid_and_distinct() {
        assert_eq!(slug("shop_2"), "shop_2");
        assert_eq!(slug(&"a".repeat(54)), "a".repeat(54));
        for name in ["Shop", "shop-eu", "läden", "", &"a".repeat(55)] {
            let slug = slug(name);
            assert!(
                slug.len() <= 54
                    && slug.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_'),
                "{slug}"
            );
        }
        assert_ne!(slug("shop-eu"), slug("shop.eu"));
    }
}
