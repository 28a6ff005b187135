//! Checksums of a table's rows: what source and lake tell each other of them.

/// Into how many buckets the keys of a table fall; the list of a bucket's rows is this part of the table.
pub const BUCKETS: u16 = 16_384;

/// Rows and sum of the row hashes of those rows of a table whose keys' hashes fall into one bucket.
///
/// Source and lake compute it alike, so equal sums of all buckets mean equal rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketSum {
    /// Less than [`BUCKETS`].
    pub bucket: u16,
    pub rows: u64,
    pub sum: i128,
}

/// The values of a row's or key's canonical text (`-` for null, else `n:text`, `n` in bytes), `None` for null. What
/// follows a damaged entry is left out.
pub fn entry_values(text: &str) -> Vec<Option<&str>> {
    let mut values = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('-') {
            values.push(None);
            rest = tail;
            continue;
        }
        let Some((value, tail)) =
            rest.split_once(':').and_then(|(length, tail)| tail.split_at_checked(length.parse().ok()?))
        else {
            break;
        };
        values.push(Some(value));
        rest = tail;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_apart() {
        assert_eq!(entry_values("1:1-2:é4:1:-2"), [Some("1"), None, Some("é"), Some("1:-2")]);
        assert_eq!(entry_values("0:9:short"), [Some("")]);
    }
}
