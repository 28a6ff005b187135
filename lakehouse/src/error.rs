//! What can go wrong in the lake.

use deltalake::{DeltaTableError, datafusion::error::DataFusionError, kernel::transaction::TransactionError};
use lakeward_change::{FoldError, Position};
use lakeward_faults::Injected;
use parquet::errors::ParquetError;

/// `table` is a table's path relative to the lake, as `silver/orders`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LakeError {
    #[error("{root:?} is no place for a lake: give a folder or a URL")]
    Root { root: String, source: Option<Box<dyn std::error::Error + Send + Sync>> },
    #[error("the Delta table {table} could not be {doing}")]
    Delta {
        table: String,
        doing: &'static str,
        #[source]
        source: Box<DeltaTableError>,
    },
    #[error("the Delta table {table} could not be {doing}")]
    Query {
        table: String,
        doing: &'static str,
        #[source]
        source: Box<DataFusionError>,
    },
    #[error("rows for the Delta table {table} do not fit its columns")]
    Arrow {
        table: String,
        #[source]
        source: arrow::error::ArrowError,
    },
    #[error("the object {path} could not be {doing}")]
    Store {
        path: String,
        doing: &'static str,
        #[source]
        source: object_store::Error,
    },
    #[error("the store of {root} {promise}: nothing that is written to it is safe, so it cannot hold a lake")]
    Untrue { root: String, promise: &'static str },
    #[error("{table} is not in the lake yet: capture it first")]
    NoTable { table: String },
    #[error("another writer has committed to {table}: only one may write; stop the other one")]
    OtherWriter { table: String },
    #[error("{table} holds no whole copy of its source: copy it first")]
    NotCopied { table: String },
    #[error("{table} has no key to find its rows by: copy it anew")]
    NoKey { table: String },
    #[error("changes of {table} are of epoch {found}, the table is at epoch {epoch}")]
    Epoch { table: String, epoch: i64, found: i64 },
    #[error("the definition of {table} has changed: {difference}")]
    SchemaChanged { table: String, difference: String },
    #[error("{table} cannot be captured: the lake cannot have a column {column:?} of its")]
    Column { table: String, column: String },
    #[error("a change of {table} at {position:?} lies before an earlier one of the same call")]
    Order { table: String, position: Position },
    #[error("changes could not be folded")]
    Fold(#[from] FoldError),
    #[error("the rows to copy into {table} could not be read")]
    Rows {
        table: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the feature table {table} {reason}")]
    Features { table: String, reason: String },
    #[error("a record in {table} cannot be read: {reason}")]
    Damaged { table: String, reason: String },
    #[error("a part of the work on {table} stopped midway")]
    Stopped {
        table: String,
        #[source]
        source: tokio::task::JoinError,
    },
    #[error("the lake failed on demand")]
    Injected(#[from] Injected),
}

fn store_may_recover(error: &object_store::Error) -> bool {
    use object_store::Error;
    !matches!(
        error,
        Error::NotFound { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::InvalidPath { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::UnknownConfigurationKey { .. }
    )
}

/// Of a store's failure while a file's footer was read the text is all that is passed on.
fn footer_may_be_read(error: &ParquetError) -> bool {
    matches!(error, ParquetError::General(text) if text.contains("Object Store error"))
}

/// The kernel does not give its causes as sources.
fn kernel_may_recover(error: &delta_kernel::Error) -> bool {
    match error {
        delta_kernel::Error::ObjectStore(error) => store_may_recover(error),
        delta_kernel::Error::IOError(_) => true,
        delta_kernel::Error::Backtraced { source, .. } => kernel_may_recover(source),
        _ => false,
    }
}

impl LakeError {
    /// Whether the same work may succeed when it is tried again later: the store failed, not the work.
    pub fn is_retryable(&self) -> bool {
        let first: &(dyn std::error::Error + 'static) = self;
        std::iter::successors(Some(first), |error| error.source()).any(|error| {
            error.downcast_ref().is_some_and(store_may_recover)
                || error.downcast_ref().is_some_and(kernel_may_recover)
                || error.downcast_ref().is_some_and(footer_may_be_read)
                || error.is::<std::io::Error>()
                || error.is::<TransactionError>()
                || error.is::<Injected>()
        })
    }

    pub(crate) fn delta(table: &str, doing: &'static str) -> impl FnOnce(DeltaTableError) -> Self {
        let table = table.to_owned();
        move |source| Self::Delta { table, doing, source: Box::new(source) }
    }

    pub(crate) fn query(table: &str, doing: &'static str) -> impl Fn(DataFusionError) -> Self {
        let table = table.to_owned();
        move |source| Self::Query { table: table.clone(), doing, source: Box::new(source) }
    }

    pub(crate) fn stopped(table: &str) -> impl Fn(tokio::task::JoinError) -> Self {
        let table = table.to_owned();
        move |source| Self::Stopped { table: table.clone(), source }
    }

    pub(crate) fn arrow(table: &str) -> impl Fn(arrow::error::ArrowError) -> Self {
        let table = table.to_owned();
        move |source| Self::Arrow { table: table.clone(), source }
    }
}
