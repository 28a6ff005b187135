//! What Prometheus sees of a pipeline, and what it is called; `docs/metrics.md` is for who reads it.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lakeward_change::{DeadLetter, Lsn, TableId};
use lakeward_lakehouse::Watermark;
use metrics::{Label, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tokio::time::Instant;

use crate::progress::{TableBehind, Waiting};

const CHANGES: &str = "lakeward_changes_total";
const LETTERS: &str = "lakeward_dead_letters_total";
const FLUSHED: &str = "lakeward_flushed_changes_total";
const FLUSH_SECONDS: &str = "lakeward_flush_seconds";
const FRESHNESS: &str = "lakeward_freshness_seconds";
const BEHIND_ROWS: &str = "lakeward_behind_rows";
const BEHIND_SECONDS: &str = "lakeward_behind_seconds";
const LAG_BYTES: &str = "lakeward_source_lag_bytes";
const LAG_SECONDS: &str = "lakeward_source_lag_seconds";
const BUFFERED: &str = "lakeward_buffered_bytes";
const BUDGET: &str = "lakeward_budget_bytes";
const PAUSED: &str = "lakeward_reading_paused";
const CUTS: &str = "lakeward_cuts_total";
const STOPPED: &str = "lakeward_stopped_tables";

/// Reasons of dead letters that are told apart.
const REASONS: usize = 50;

/// Tells the metrics recorder what they mean; one that is installed later is not told.
pub(crate) fn describe() {
    lakeward_lakehouse::telemetry::describe();
    describe_counter!(CHANGES, "changes read and decoded, by table");
    describe_counter!(LETTERS, "rows that could not be taken in, by table and reason");
    describe_counter!(FLUSHED, "changes written to bronze and silver, by table");
    describe_histogram!(FLUSH_SECONDS, Unit::Seconds, "time to write what a table's lane held");
    describe_histogram!(
        FRESHNESS,
        Unit::Seconds,
        "from the source's commit of the oldest change of a cut until it can be read in silver, by table"
    );
    describe_gauge!(BEHIND_ROWS, "changes read and not durable yet, by table");
    describe_gauge!(BEHIND_SECONDS, Unit::Seconds, "for how long the oldest of them has waited");
    describe_gauge!(LAG_BYTES, Unit::Bytes, "the server's log beyond what is durable, of all databases");
    describe_gauge!(LAG_SECONDS, Unit::Seconds, "for how long the server has had log that is not durable");
    describe_gauge!(BUFFERED, Unit::Bytes, "what changes take that are not durable yet");
    describe_gauge!(BUDGET, Unit::Bytes, "the most that they may take");
    describe_gauge!(PAUSED, "1 while reading stands still since memory is at its limit");
    describe_counter!(CUTS, "watermarks written, by reason");
    describe_gauge!(STOPPED, "tables that the newest watermark lacks");
}

fn of(table: &TableId) -> [Label; 1] {
    [Label::new("table", table.to_string())]
}

pub(crate) fn read(table: &TableId, rows: u64) {
    counter!(CHANGES, of(table).iter()).increment(rows);
}

pub(crate) fn set_aside(letters: &[DeadLetter]) {
    for letter in letters {
        let [table] = of(&letter.table);
        let labels = [table, Label::new("reason", known_reason(&letter.reason))];
        counter!(LETTERS, labels.iter()).increment(1);
    }
}

/// The reason, or `other` once there are many in this process: each is a series of its own for as long as it runs.
fn known_reason(reason: &str) -> String {
    static KNOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= REASONS && !known.contains(reason) {
        return "other".to_owned();
    }
    known.insert(reason.to_owned());
    reason.to_owned()
}

pub(crate) fn flushed(table: &TableId, rows: u64, took: Duration) {
    counter!(FLUSHED, of(table).iter()).increment(rows);
    histogram!(FLUSH_SECONDS, of(table).iter()).record(took);
}

/// A watermark was written, and covers these changes.
pub(crate) fn cut(watermark: &Watermark, covered: impl Iterator<Item = (TableId, Waiting)>) {
    counter!(CUTS, "reason" => watermark.reason.clone()).increment(1);
    gauge!(STOPPED).set(watermark.stopped.len() as f64);
    for (table, waiting) in covered {
        if let Some(committed) = waiting.committed_at {
            let age = watermark.written_at.saturating_sub(committed).max(0);
            histogram!(FRESHNESS, of(&table).iter()).record(age as f64 / 1e6);
        }
    }
}

pub(crate) fn memory(used: usize, limit: usize, paused: bool) {
    gauge!(BUFFERED).set(used as f64);
    gauge!(BUDGET).set(limit as f64);
    gauge!(PAUSED).set(f64::from(u8::from(paused)));
}

/// `tables` are all that have a lane, `behind` those of them with changes that wait.
pub(crate) fn behind<'a>(tables: impl Iterator<Item = &'a TableId>, behind: &[TableBehind]) {
    for table in tables {
        let waits = behind.iter().find(|waiting| waiting.table == *table);
        gauge!(BEHIND_ROWS, of(table).iter()).set(waits.map_or(0.0, |waits| waits.rows as f64));
        gauge!(BEHIND_SECONDS, of(table).iter()).set(waits.map_or(0.0, |waits| waits.seconds));
    }
}

/// How far the lake is behind its source.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    /// Where the server's log ended, and when: what is not durable yet.
    ends: VecDeque<(Instant, Lsn)>,
}

impl Lag {
    /// The server's log ends at `end`, and `durable` is.
    pub(crate) fn seen(&mut self, end: Lsn, durable: Lsn, now: Instant) {
        self.ends.push_back((now, end));
        let seconds = self.since(durable).map_or(0.0, |since| now.duration_since(since).as_secs_f64());
        gauge!(LAG_BYTES).set(end.0.saturating_sub(durable.0) as f64);
        gauge!(LAG_SECONDS).set(seconds);
    }

    /// When log was seen first that is not durable.
    fn since(&mut self, durable: Lsn) -> Option<Instant> {
        while self.ends.front().is_some_and(|(_, end)| *end <= durable) {
            self.ends.pop_front();
        }
        self.ends.front().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_apart_until_there_are_many() {
        let told: Vec<_> = (0..2 * REASONS).map(|number| known_reason(&format!("reason {number}"))).collect();
        assert_eq!(told[0], "reason 0");
        assert!(told.iter().filter(|reason| *reason == "other").count() >= REASONS);
        assert_eq!(known_reason("reason 0"), "reason 0");
    }

    #[test]
    fn a_lag_begins_where_log_was_seen_first_that_is_not_durable() {
        let begin = Instant::now();
        let second = |n| begin + Duration::from_secs(n);
        let mut lag = Lag::default();
        for (at, end) in [(0, 10), (5, 20), (10, 20), (15, 30)] {
            lag.seen(Lsn(end), Lsn(0), second(at));
        }
        assert_eq!(lag.since(Lsn(0)), Some(begin));
        assert_eq!(lag.since(Lsn(10)), Some(second(5)));
        assert_eq!(lag.since(Lsn(29)), Some(second(15)));
        assert_eq!(lag.since(Lsn(30)), None);
    }
}
