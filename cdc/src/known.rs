//! What the catalog knew when it was read: a relation of the stream that it did not know came later, or is gone.

use std::collections::HashSet;

/// The relations of a catalog, and which transactions it had seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// All tables and partitions, captured or not.
    relations: HashSet<u32>,
    /// The first transaction that had not begun, and those before it that had not ended.
    next: u32,
    running: HashSet<u32>,
}

impl Known {
    /// `snapshot`: Postgres' own text `xmin:xmax:xip,…`, taken before `relations` were read. `None` if it is not that.
    pub(crate) fn new(relations: HashSet<u32>, snapshot: &str) -> Option<Self> {
        // A transaction's messages carry the lower 32 bits of its number.
        let low = |number: &str| number.parse::<u64>().ok().map(|number| number as u32);
        let mut parts = snapshot.split(':').skip(1);
        let next = low(parts.next()?)?;
        let running = parts.next()?.split(',').filter(|number| !number.is_empty()).map(low);
        Some(Self { relations, next, running: running.collect::<Option<_>>()? })
    }

    pub(crate) fn has(&self, relation: u32) -> bool {
        self.relations.contains(&relation)
    }

    /// Whether the catalog showed what this transaction had done.
    pub(crate) fn has_seen(&self, xid: u32) -> bool {
        // Numbers go round: half of them lie before any other.
        (xid.wrapping_sub(self.next) as i32) < 0 && !self.running.contains(&xid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_tells_what_was_seen() {
        let known = Known::new(HashSet::from([7]), "10:20:10,14").expect("a snapshot");
        assert!(known.has(7) && !known.has(8));
        let seen = [9, 10, 11, 14, 19, 20, 21].map(|xid| known.has_seen(xid));
        assert_eq!(seen, [true, false, true, false, true, false, false]);
        let round = Known::new(HashSet::new(), "4294967290:4294967300:").expect("a snapshot");
        assert_eq!([u32::MAX, 3, 4, 5].map(|xid| round.has_seen(xid)), [true, true, false, false]);
        assert!(Known::new(HashSet::new(), "10:x:").is_none());
    }
}
