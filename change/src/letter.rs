//! What cannot be taken in.

use arrow::array::RecordBatch;

use crate::{Op, Position, TableId};

/// A change that cannot be taken in, as it came: kept with its place, so that nothing is lost and the rest goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub table: TableId,
    pub position: Position,
    pub op: Op,
    /// The change's own LSN, as in [`crate::ChangeBatch::lsns`].
    pub lsn: i64,
    /// Transaction and commit time (microseconds UTC); a copied row has none.
    pub xid: Option<i64>,
    pub committed_at: Option<i64>,
    /// For people; never a value of the row.
    pub reason: String,
    /// The message as the source sent it; of a copied row the line of `COPY … TO STDOUT`.
    pub message: Vec<u8>,
    /// The source's message that describes the relation of `message`; of a topic's message where it was and its key, as
    /// JSON; empty for a copied row, which has the table's columns in their order.
    pub relation: Vec<u8>,
}

/// Some rows of a copy, in [`crate::TableSchema::arrow`], and those among them that cannot be taken in. Which epoch and
/// place they have, whoever stores them says.
#[derive(Debug, Clone)]
pub struct CopiedRows {
    pub rows: RecordBatch,
    pub letters: Vec<DeadLetter>,
}

impl From<RecordBatch> for CopiedRows {
    fn from(rows: RecordBatch) -> Self {
        Self { rows, letters: Vec::new() }
    }
}
