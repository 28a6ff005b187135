//! What the pipeline tells those who watch it.

use std::sync::Arc;

use lakeward_change::{Lsn, StoppedTable, TableId};
use lakeward_lakehouse::Watermark;

/// A step of the pipeline, told as it happens.
#[derive(Debug, Clone)]
pub enum Event {
    /// A table is left out, with the reason.
    Skipped {
        table: TableId,
        reason: String,
    },
    /// Of a table inserts and truncates alone are captured, into bronze: with the reason.
    BronzeOnly {
        table: TableId,
        reason: String,
    },
    /// A column is not captured: it is generated, or the publication leaves it out.
    ColumnSkipped {
        table: TableId,
        column: String,
    },
    /// A table leaves the capture; the others go on.
    Stopped(StoppedTable),
    /// So many rows cannot be taken in, and are dead letters now.
    SetAside {
        table: TableId,
        rows: u64,
    },
    /// So many values since the last time that their columns' types cannot hold are text in the column `_raw`.
    Nulled {
        values: u64,
    },
    /// What was captured before no longer fits the source; all tables are copied anew.
    Lost {
        reason: String,
    },
    /// A table is copied anew while the others are followed.
    Copying {
        table: TableId,
        reason: String,
    },
    /// The copy of all tables within one snapshot begins.
    CopyStarted {
        tables: usize,
        snapshot: Lsn,
    },
    CopyProgress {
        table: TableId,
        rows: u64,
    },
    CopyFinished {
        table: TableId,
        rows: u64,
    },
    /// Changes are read from here on.
    Streaming {
        from: Lsn,
    },
    /// Everything before the watermark's LSN is durable, and the source has been told so.
    Committed(Arc<Watermark>),
    /// The attempt failed with something that may pass; the next one begins after the delay.
    Retrying {
        reason: String,
        seconds: f64,
    },
}

/// Told of every [`Event`]; must return at once.
pub type Observer = Arc<dyn Fn(Event) + Send + Sync>;
