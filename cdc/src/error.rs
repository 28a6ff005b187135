//! What can go wrong between a source and its changes.

use std::time::Duration;

use lakeward_change::TableId;

use crate::{protocol::ProtocolError, values::ValueError};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A change source failed. Messages name tables, slots and what to do; never row values or secrets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CdcError {
    #[error("the source's URL cannot be used: {0}")]
    Url(String),
    #[error("cannot connect to the source")]
    Connect(#[source] BoxError),
    #[error("the source refused to {action}")]
    Query {
        action: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("the replication session failed to {action}")]
    Replication {
        action: String,
        #[source]
        source: pgwire_replication::PgWireError,
    },
    #[error("the replication session has ended; open the stream again")]
    Ended,
    #[error(
        "publication {name} {problem}; mend it with: {fix}, or name another with the source's publication setting"
    )]
    Publication { name: String, problem: String, fix: String },
    #[error("replication slot {slot} is read by process {pid}; stop that reader first")]
    SlotInUse { slot: String, pid: i32 },
    #[error("there is no table to capture ({skipped} were skipped); lakeward doctor says what they lack")]
    NoTables { skipped: usize },
    #[error("table {0} is not captured from this source")]
    UnknownTable(TableId),
    #[error(
        "the source is now system {found}, the capture began on system {expected}: another server answers at this URL"
    )]
    OtherSystem { expected: String, found: String },
    #[error("the snapshot waits for transactions that were open before it, {waited:?} so far: {holder}")]
    HeldUp { waited: Duration, holder: String },
    #[error("cannot read column {column} of table {table}")]
    Value {
        table: TableId,
        column: String,
        #[source]
        source: ValueError,
    },
    #[error("the source sent a message that is not pgoutput version 1")]
    Protocol(#[from] ProtocolError),
    #[error("unexpected order of messages from the source: {0}")]
    Sequence(String),
    #[error("cannot build a batch of table {table}")]
    Batch {
        table: TableId,
        #[source]
        source: arrow::error::ArrowError,
    },
}

impl CdcError {
    /// Whether trying again later can succeed without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Ended | Self::SlotInUse { .. } | Self::HeldUp { .. } => true,
            Self::Query { source, .. } => source.is_closed() || source.code().is_none_or(is_passing),
            Self::Replication { source, .. } => source.is_transient() || is_passing_text(source),
            _ => false,
        }
    }

    pub(crate) fn query(action: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let action = action.into();
        move |source| Self::Query { action, source }
    }

    pub(crate) fn replication(
        action: impl Into<String>,
    ) -> impl FnOnce(pgwire_replication::PgWireError) -> Self {
        let action = action.into();
        move |source| Self::Replication { action, source }
    }
}

/// SQLSTATE classes 08 (connection), 40 (rollback), 53 (resources), 57 (operator intervention), and object in use.
fn is_passing(code: &tokio_postgres::error::SqlState) -> bool {
    passing_code(code.code())
}

fn passing_code(code: &str) -> bool {
    matches!(code.get(..2), Some("08" | "40" | "53" | "57")) || code == "55006"
}

/// The replication client gives a server error as text that ends in `(SQLSTATE xxxxx)`.
fn is_passing_text(error: &pgwire_replication::PgWireError) -> bool {
    sqlstate(error).is_some_and(|code| passing_code(&code))
}

pub(crate) fn sqlstate(error: &pgwire_replication::PgWireError) -> Option<String> {
    let pgwire_replication::PgWireError::Server(text) = error else {
        return None;
    };
    let (_, code) = text.rsplit_once("(SQLSTATE ")?;
    Some(code.trim_end_matches(')').to_owned())
}
