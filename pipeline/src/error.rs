//! What can go wrong between a source and the lake.

use lakeward_cdc::CdcError;
use lakeward_change::Lsn;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    #[error("the source failed")]
    Source(#[from] CdcError),
    #[error("the lake failed")]
    Lake(#[from] lakeward_lakehouse::LakeError),
    #[error("the control database failed")]
    Control(#[from] lakeward_postgres::Error),
    #[error("no table of {source_name} can be captured: {reasons}")]
    NothingToCapture { source_name: String, reasons: String },
    #[error(
        "the slot {slot} is being read by the server process {pid}: stop the other ingester, or name another slot"
    )]
    SlotInUse { slot: String, pid: i32 },
    #[error("nothing of {source_name} is in the lake yet: run `lakeward ingest` first")]
    NothingCaptured { source_name: String },
    #[error("the ingester made no cut at {lsn}: {reason}")]
    CutRefused { lsn: Lsn, reason: String },
    #[error("{0} stopped unexpectedly; what it had not committed is read again from the source")]
    Stopped(&'static str),
}

impl PipelineError {
    /// Whether the same work may succeed when it is tried again later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Source(error) => error.is_retryable(),
            Self::Lake(error) => error.is_retryable(),
            Self::Control(error) => error.is_retryable(),
            Self::SlotInUse { .. } | Self::CutRefused { .. } | Self::Stopped(_) => true,
            Self::NothingToCapture { .. } | Self::NothingCaptured { .. } => false,
        }
    }
}
