//! How far a stream has come, and the bound that it may be given.

use lakeward_change::Lsn;

/// How far the stream has come, and how far it may go.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// Everything that committed before it has been taken in.
    end: Lsn,
    /// The end of the last closed chunk.
    reported: Lsn,
    /// Final LSN of the newest transaction taken in.
    last_commit: Lsn,
    bound: Option<Lsn>,
    /// A transaction at or beyond the bound waits.
    pub(crate) blocked: bool,
    pub(crate) bound_reported: bool,
}

impl Cursor {
    pub(crate) fn new(from: Lsn) -> Self {
        Self {
            end: from,
            reported: from,
            last_commit: Lsn(0),
            bound: None,
            blocked: false,
            bound_reported: false,
        }
    }

    pub(crate) fn set_bound(&mut self, bound: Option<Lsn>) {
        self.bound = bound;
        self.blocked = false;
        self.bound_reported = false;
    }

    /// Whether a transaction may be taken in.
    pub(crate) fn admits(&mut self, final_lsn: Lsn) -> bool {
        self.blocked = self.bound.is_some_and(|bound| final_lsn >= bound);
        if !self.blocked {
            self.last_commit = final_lsn;
        }
        !self.blocked
    }

    pub(crate) fn advance(&mut self, end: Lsn) {
        self.end = self.end.max(end);
    }

    /// The end to report, if there is one to report: outside a transaction, with or without rows.
    pub(crate) fn report(&mut self, rows: bool) -> Option<Lsn> {
        let end = match self.bound {
            Some(_) if self.bound_reported => return None,
            Some(bound) if self.blocked || self.end >= bound => {
                self.bound_reported = true;
                // Too late for the bound if something beyond it had been delivered already.
                if self.last_commit >= bound { self.end } else { bound }
            }
            _ if rows || self.end > self.reported => self.end,
            _ => return None,
        };
        self.reported = self.reported.max(end);
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_met_by_a_transaction_or_a_keepalive() {
        let mut cursor = Cursor::new(Lsn(10));
        assert_eq!(cursor.report(false), None);
        cursor.set_bound(Some(Lsn(30)));
        assert!(cursor.admits(Lsn(20)));
        cursor.advance(Lsn(25));
        assert_eq!(cursor.report(true), Some(Lsn(25)));
        assert!(!cursor.admits(Lsn(30)));
        assert_eq!((cursor.report(false), cursor.report(false)), (Some(Lsn(30)), None));

        cursor.set_bound(Some(Lsn(40)));
        assert!(cursor.admits(Lsn(30)));
        cursor.advance(Lsn(35));
        assert_eq!(cursor.report(true), Some(Lsn(35)));
        cursor.advance(Lsn(50));
        assert_eq!((cursor.report(false), cursor.report(false)), (Some(Lsn(40)), None));
        cursor.set_bound(None);
        assert_eq!((cursor.report(false), cursor.report(false)), (Some(Lsn(50)), None));
    }

    #[test]
    fn a_bound_that_came_too_late_says_so() {
        let mut cursor = Cursor::new(Lsn(10));
        assert!(cursor.admits(Lsn(40)));
        cursor.advance(Lsn(45));
        assert_eq!(cursor.report(true), Some(Lsn(45)));
        cursor.set_bound(Some(Lsn(30)));
        assert_eq!(cursor.report(false), Some(Lsn(45)));
        // Without a transaction beyond it, an earlier end is no obstacle.
        let mut cursor = Cursor::new(Lsn(10));
        cursor.advance(Lsn(45));
        assert_eq!(cursor.report(false), Some(Lsn(45)));
        cursor.set_bound(Some(Lsn(30)));
        assert_eq!(cursor.report(false), Some(Lsn(30)));
    }
}
