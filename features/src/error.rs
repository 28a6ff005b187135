//! What can go wrong here.

use arrow::error::ArrowError;
use deltalake::datafusion::error::DataFusionError;

use crate::ShopTable;

pub type Result<T, E = FeatureError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeatureError {
    /// The shop lacks tables that nothing can be computed without.
    #[error(
        "the captured tables do not include {} with a key; name them in the configuration or capture them",
        .0.join(", ")
    )]
    MissingTables(Vec<String>),
    /// A table lacks columns that nothing can be computed without.
    #[error("table {table} has no column {}", .columns.join(", "))]
    MissingColumns { table: ShopTable, columns: Vec<&'static str> },
    #[error("column {table}.{column} is {found}, which cannot be read as {wanted}")]
    ColumnType { table: ShopTable, column: &'static str, found: String, wanted: &'static str },
    /// A row without its key.
    #[error("table {table} has a row whose {column} is null")]
    NullKey { table: ShopTable, column: &'static str },
    /// The table was copied anew since the store was loaded.
    #[error("table {table} was copied anew (epoch {found}, the store holds {held}); load the store again")]
    NewEpoch { table: ShopTable, held: i64, found: i64 },
    /// A partition of the table was emptied, and the store does not know which rows were in it.
    #[error("a partition of table {table} was emptied; load the store again")]
    PartitionEmptied { table: ShopTable },
    /// Labels would look past what is known.
    #[error(
        "the horizon of {horizon_days} days after a training moment ends after the newest known change; choose earlier moments"
    )]
    HorizonUnknown { horizon_days: u32 },
    #[error("cannot read table {table}")]
    Read {
        table: ShopTable,
        #[source]
        source: DataFusionError,
    },
    #[error("cannot compute view {view}")]
    Query {
        view: &'static str,
        #[source]
        source: DataFusionError,
    },
    #[error("cannot convert table {table}")]
    Convert {
        table: ShopTable,
        #[source]
        source: ArrowError,
    },
    /// Order lines from a file cannot be used.
    #[error("column {column}: {problem}")]
    OrdersFile { column: &'static str, problem: String },
    #[error(transparent)]
    Lake(#[from] lakeward_lakehouse::LakeError),
}

impl FeatureError {
    /// Whether the same work may succeed when it is tried again later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NewEpoch { .. } | Self::PartitionEmptied { .. } => true,
            Self::Lake(error) => error.is_retryable(),
            _ => false,
        }
    }
}
