//! What a change source gives.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use lakeward_change::{ChangeBatch, DeadLetter, Lsn, StoppedTable};

use crate::CdcError;

/// For each topic and partition the offset to read next.
pub type Offsets = BTreeMap<String, BTreeMap<i32, i64>>;

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
    /// Where topics have to be read from by whoever wants what comes after a closed chunk; `None` for another source.
    pub offsets: Option<Arc<Offsets>>,
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

    /// Everything before `durable` is kept elsewhere, and is before `offsets`: the source may forget it.
    fn confirm(&mut self, durable: Lsn, offsets: Option<&Offsets>);

    /// Whether a table was described a second time since the last call: its definition may have changed in ways that
    /// descriptions do not show.
    fn take_described_anew(&mut self) -> bool;

    /// How many values their types could not hold (NaN in a numeric, infinite times) and are null, so far.
    fn nulled(&self) -> u64;

    /// Tells the source the last confirmed position and ends the session.
    async fn close(self: Box<Self>);
}
