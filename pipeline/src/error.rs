//! What can go wrong between a source and the lake.

use std::time::Duration;

use backon::ExponentialBuilder;
use lakeward_cdc::CdcError;
use lakeward_change::{FoldError, Lsn, TableId};
use lakeward_faults::Injected;
use lakeward_lakehouse::LakeError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    #[error("the source failed")]
    Source(#[from] CdcError),
    #[error("the lake failed")]
    Lake(#[from] LakeError),
    #[error("the control database failed")]
    Control(#[from] lakeward_postgres::Error),
    #[error("no table of {source_name} can be captured: {reasons}")]
    NothingToCapture { source_name: String, reasons: String },
    #[error(
        "{} captured so far and not chosen any more: choose what was chosen before, or begin anew with \
         `lakeward source drop`", tables.join(", ")
    )]
    LeftOut { tables: Vec<String> },
    #[error(
        "replication slot {slot} cannot be read any more: the server has removed its log; drop it, or name another"
    )]
    SlotLost { slot: String },
    #[error("nothing of {source_name} is in the lake yet: run `lakeward ingest` first")]
    NothingCaptured { source_name: String },
    #[error("{table} is not captured; `lakeward table list` shows what is")]
    NotCaptured { table: TableId },
    #[error("there is no dead letter {id} of this source; `lakeward dead-letters list` shows what there is")]
    NoLetter { id: String },
    #[error("the ingester answers requests in words of another version of Lakeward")]
    Answer(#[from] serde_json::Error),
    #[error("the ingester made no cut at {lsn}: {reason}")]
    CutRefused { lsn: Lsn, reason: String },
    #[error("{table} was not repaired: {reason}")]
    RepairRefused { table: String, reason: String },
    #[error("{0} stopped unexpectedly; what it had not committed is read again from the source")]
    Stopped(&'static str),
    #[error("the pipeline failed on demand")]
    Injected(#[from] Injected),
}

impl PipelineError {
    /// A table that holds less than its changes build on, since an earlier one is a dead letter: it needs a new copy.
    pub(crate) fn lacks_rows(&self) -> Option<&TableId> {
        match self {
            Self::Lake(LakeError::Fold(
                FoldError::NotStored { table, .. } | FoldError::RowGone { table, .. },
            ))
            | Self::Source(CdcError::Incomplete { table, .. } | CdcError::Uncounted { table, .. }) => {
                Some(table)
            }
            _ => None,
        }
    }

    /// Why changes are missing that nobody has any more.
    pub(crate) fn loss(&self) -> Option<String> {
        match self {
            Self::Source(
                lost @ (CdcError::SnapshotAgain { .. }
                | CdcError::NoTransaction { .. }
                | CdcError::Interrupted { .. }),
            ) => Some(lost.to_string()),
            _ => None,
        }
    }

    /// Whether the same work may succeed when it is tried again later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Source(error) => error.is_retryable(),
            // Rows to copy come from the source.
            Self::Lake(LakeError::Rows { source, .. }) => {
                source.downcast_ref().is_some_and(CdcError::is_retryable)
            }
            Self::Lake(error) => error.is_retryable(),
            Self::Control(error) => error.is_retryable(),
            Self::CutRefused { .. } | Self::Stopped(_) | Self::Injected(_) => true,
            Self::NothingToCapture { .. }
            | Self::NothingCaptured { .. }
            | Self::NotCaptured { .. }
            | Self::NoLetter { .. }
            | Self::Answer(_)
            | Self::LeftOut { .. }
            | Self::RepairRefused { .. }
            | Self::SlotLost { .. } => false,
        }
    }
}

/// The longest pause before another try.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(15);

/// The pauses between tries of what has failed and may pass; there is no last one.
pub(crate) fn retry_delays() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(LONGEST_DELAY)
        .with_jitter()
        .without_max_times()
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
