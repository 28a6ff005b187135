//! A connector that begins again between a transaction's beginning and its first event.
//!
//! Debezium (3.7) keeps, of a beginning, the end of the transaction before as how far it has come. Where a change of the
//! new transaction lies right there in the log, it takes that one for the last it has written: it passes over the
//! transaction's events up to it, and counts from there. Neither numbers nor the end betray that, but the time does.

/// So soon no connector is back: its start alone took 900 ms. One that runs sends the next event within its poll interval,
/// of 500 ms at most as a rule. Milliseconds.
const RESTART: u64 = 500;
/// What an event before the first that is known may take besides; milliseconds.
const EVENT: u64 = 10;

/// A message of a transaction: its beginning, an event, or its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) lsn: i64,
    /// Events of the transaction up to it.
    pub(super) events: i64,
    /// When it came to Kafka, milliseconds UTC.
    pub(super) at: i64,
}

/// Whether events between a transaction's beginning and the first message that came of it may have been passed over.
/// `after`: the end of the transaction before.
pub(super) fn may_lack(beginning: Written, first: Written, after: i64) -> bool {
    let before = u64::try_from(first.events - 1).unwrap_or_default();
    let taken = first.at.abs_diff(beginning.at);
    // What was written before that end came first if nothing was passed over.
    beginning.lsn <= after
        && after < first.lsn
        && taken > RESTART.saturating_add(EVENT.saturating_mul(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Debezium 3.7.0 wrote it: the transaction had two changes, at 153304168 and 153359552.
    #[test]
    fn a_transaction_that_was_passed_over_is_noticed() {
        let beginning = Written { lsn: 153_304_168, events: 0, at: 1_795_450_943_643 };
        let end = Written { lsn: 153_359_776, events: 0, at: 1_795_450_946_734 };
        assert!(may_lack(beginning, end, 153_359_552));
    }

    #[test]
    fn what_came_at_once_or_began_after_the_one_before_lacks_nothing() {
        let (beginning, after) = (Written { lsn: 90, events: 0, at: 5_000 }, 100);
        let first = |lsn, events, at| Written { lsn, events, at };
        assert!(may_lack(beginning, first(110, 1, 7_000), after));
        // Another clock than before.
        assert!(may_lack(beginning, first(110, 1, 3_000), after));
        assert!(!may_lack(beginning, first(110, 1, 5_400), after), "no restart is so short");
        assert!(!may_lack(beginning, first(90, 1, 7_000), after), "the change before that end is there");
        assert!(
            !may_lack(Written { lsn: 101, ..beginning }, first(110, 1, 7_000), after),
            "no change lies there"
        );
        assert!(!may_lack(beginning, first(110, 1_000, 7_000), after), "others of it took their time");
    }
}
