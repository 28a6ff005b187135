//! What Prometheus sees of commits, and what it is called. `table` is a path in the lake.

use std::time::Duration;

use deltalake::kernel::Action;
use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};

const COMMIT_SECONDS: &str = "lakeward_commit_seconds";
const COMMIT_FAILURES: &str = "lakeward_commit_failures_total";
const FILES: &str = "lakeward_files_written_total";
const BYTES: &str = "lakeward_written_bytes_total";

/// Tells the metrics recorder what they mean; one that is installed later is not told.
pub fn describe() {
    describe_histogram!(
        COMMIT_SECONDS,
        Unit::Seconds,
        "time to commit to a Delta table, a merge's rewriting and all retries included, by table"
    );
    describe_counter!(COMMIT_FAILURES, "commits that failed or had no answer, by table");
    describe_counter!(FILES, "data files committed, by table");
    describe_counter!(BYTES, Unit::Bytes, "their bytes, by table");
}

pub(crate) fn committed(table: &str, took: Duration) {
    histogram!(COMMIT_SECONDS, "table" => table.to_owned()).record(took);
}

pub(crate) fn failed(table: &str) {
    counter!(COMMIT_FAILURES, "table" => table.to_owned()).increment(1);
}

/// Files of a commit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Written {
    files: u64,
    bytes: u64,
}

impl Written {
    pub(crate) fn of(actions: &[Action]) -> Self {
        let added = actions.iter().filter_map(|action| match action {
            Action::Add(file) => Some(file),
            _ => None,
        });
        added.fold(Self::default(), |sum, file| Self {
            files: sum.files + 1,
            bytes: sum.bytes + u64::try_from(file.size).unwrap_or_default(),
        })
    }

    pub(crate) fn count(self, table: &str) {
        counter!(FILES, "table" => table.to_owned()).increment(self.files);
        counter!(BYTES, "table" => table.to_owned()).increment(self.bytes);
    }
}
