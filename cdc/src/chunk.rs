//! What a change source gives.

use async_trait::async_trait;
use lakeward_change::{ChangeBatch, DeadLetter, Lsn, StoppedTable};

use crate::CdcError;

/// A stretch of the stream.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// At most one batch a table, rows in stream order.
    pub batches: Vec<ChangeBatch>,
    /// Changes that cannot be taken in, in stream order.
    pub letters: Vec<DeadLetter>,
    /// Tables that cannot be followed any further, with the reason: their batch here is the last one.
    pub stopped: Vec<StoppedTable>,
    pub boundary: Boundary,
    /// Newest commit time among the rows, microseconds UTC.
    pub committed_at: Option<i64>,
}

impl Chunk {
    pub fn num_rows(&self) -> usize {
        self.batches.iter().map(ChangeBatch::num_rows).sum()
    }
}

/// Where a chunk ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundary {
    /// Inside the transaction whose final LSN is `commit`.
    Open { commit: Lsn },
    /// Between transactions: all with a final LSN below `end` have been delivered, and none at or beyond it.
    Closed { end: Lsn },
}

/// A source of changes in commit order.
#[async_trait]
pub trait ChangeStream: Send {
    /// The next stretch: as soon as a transaction is complete and nothing more is at hand, or when the chunk is full
    /// (then perhaps inside a transaction). Where the source moves on without changes for us, an empty closed chunk.
    ///
    /// The future may be dropped at any time without loss. After an error the stream has ended.
    async fn next(&mut self) -> Result<Chunk, CdcError>;

    /// Delivers nothing of transactions whose final LSN is `lsn` or greater: once the source is that far, [`next`]
    /// gives `Closed { end: lsn }` and then waits until another bound, or none, is set.
    ///
    /// If something at or beyond `lsn` was delivered before, [`next`] gives `Closed` with the end that it was, which
    /// is greater than `lsn`: no cut can be made there any more.
    ///
    /// [`next`]: Self::next
    fn stop_before(&mut self, lsn: Option<Lsn>);

    /// Everything before `durable` is kept elsewhere: the source may forget it.
    fn confirm(&mut self, durable: Lsn);
}
