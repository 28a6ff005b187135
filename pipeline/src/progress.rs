//! What an ingester tells of itself: how far it is, and what waits to become durable.

use std::collections::BTreeMap;

use lakeward_change::TableId;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How an ingester stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub pid: u32,
    /// Everything that committed before this has been read.
    pub read: String,
    /// Everything that committed before this is durable in the lake.
    pub durable: String,
    /// Changes in memory, and the most that may be there.
    pub buffered_bytes: usize,
    pub memory_bytes: usize,
    /// Why reading stands still, if it does.
    pub waiting: Option<String>,
    /// Tables with changes that have been read and are not durable yet.
    pub behind: Vec<TableBehind>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableBehind {
    #[serde(flatten)]
    pub table: TableId,
    pub rows: u64,
    /// Age of the oldest of them.
    pub seconds: f64,
}

/// Rows that have been read and are not durable yet, by table: those that the cut under way covers, and later ones.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    cutting: BTreeMap<TableId, Waiting>,
    later: BTreeMap<TableId, Waiting>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    rows: u64,
    since: Instant,
    /// The earliest commit among them, microseconds UTC.
    pub(crate) committed_at: Option<i64>,
}

impl Behind {
    /// `committed_at`: the earliest commit among the rows, microseconds UTC.
    pub(crate) fn read(&mut self, table: &TableId, rows: u64, committed_at: Option<i64>, now: Instant) {
        match self.later.get_mut(table) {
            Some(waiting) => {
                waiting.rows += rows;
                waiting.committed_at = waiting.committed_at.into_iter().chain(committed_at).min();
            }
            None => drop(self.later.insert(table.clone(), Waiting { rows, since: now, committed_at })),
        }
    }

    pub(crate) fn begin_cut(&mut self) {
        self.cutting = std::mem::take(&mut self.later);
    }

    /// What the cut covers waits no more.
    pub(crate) fn finish_cut(&mut self) -> impl Iterator<Item = (TableId, Waiting)> {
        std::mem::take(&mut self.cutting).into_iter()
    }

    pub(crate) fn forget(&mut self, table: &TableId) {
        self.cutting.remove(table);
        self.later.remove(table);
    }

    pub(crate) fn tables(&self, now: Instant) -> Vec<TableBehind> {
        let mut all = self.cutting.clone();
        for (table, later) in &self.later {
            all.entry(table.clone()).and_modify(|waiting| waiting.rows += later.rows).or_insert(*later);
        }
        let behind = |(table, waiting): (TableId, Waiting)| TableBehind {
            table,
            rows: waiting.rows,
            seconds: now.saturating_duration_since(waiting.since).as_secs_f64(),
        };
        all.into_iter().map(behind).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rows_are_behind_until_the_cut_that_covers_them() {
        let (a, b) = (TableId::new("s", "a"), TableId::new("s", "b"));
        let begin = Instant::now();
        let second = |n| begin + Duration::from_secs(n);
        let mut behind = Behind::default();
        behind.read(&a, 2, Some(20), begin);
        behind.read(&a, 3, Some(10), second(1));
        behind.begin_cut();
        behind.read(&a, 1, None, second(2));
        behind.read(&b, 7, Some(30), second(2));
        let rows = |behind: &Behind| -> Vec<_> {
            behind
                .tables(second(3))
                .into_iter()
                .map(|table| (table.table.name, table.rows, table.seconds))
                .collect()
        };
        assert_eq!(rows(&behind), [("a".to_owned(), 6, 3.0), ("b".to_owned(), 7, 1.0)]);
        let cut: Vec<_> = behind.finish_cut().map(|(table, cut)| (table, cut.committed_at)).collect();
        assert_eq!(cut, [(a, Some(10))]);
        assert_eq!(rows(&behind), [("a".to_owned(), 1, 1.0), ("b".to_owned(), 7, 1.0)]);
        behind.forget(&b);
        behind.begin_cut();
        drop(behind.finish_cut());
        assert_eq!(rows(&behind), []);
    }
}
