//! What can go wrong. Messages name columns and windows, never a customer's values.

use arrow::datatypes::DataType;
use arrow::error::ArrowError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("column {0:?} is missing")]
    MissingColumn(String),
    #[error("column {0:?} is there twice")]
    DuplicateColumn(String),
    #[error("column {column:?} is {found}; {expected} is needed")]
    ColumnType { column: String, found: DataType, expected: &'static str },
    #[error("column {column:?} has {count} null or non-finite values; fill them before training or scoring")]
    NotFinite { column: String, count: usize },
    #[error("there is no feature column beside user_id, t0 and label")]
    NoFeatures,
    #[error("batches differ in their columns")]
    ColumnsDiffer,
    #[error("the table has {rows} rows but {labels} labels")]
    LabelCount { rows: usize, labels: usize },
    #[error("{found} values were given where {expected} are needed")]
    ValueCount { found: usize, expected: usize },
    #[error("{count} values are not probabilities")]
    NotProbability { count: usize },
    #[error("there are no rows")]
    Empty,
    #[error("no window ends at or before the as-of time; give more history or a shorter horizon")]
    NoTrainingWindow,
    #[error("no window starts at the as-of time: nothing to test on")]
    NoTestWindow,
    #[error(
        "all {rows} training rows have the same outcome, so there is nothing to learn; give more history or another horizon"
    )]
    SingleClass { rows: usize },
    #[error("{0} must be a positive number")]
    Parameter(&'static str),
    #[error("the solver found no optimum; raise the regularisation l2")]
    NotConverged,
    #[error(
        "the churn model has format {found}, this program reads formats up to {supported}; upgrade the program"
    )]
    NewerFormat { found: u32, supported: u32 },
    #[error("the churn model is damaged: {0}")]
    Damaged(&'static str),
    #[error("the churn model is not readable")]
    Json(#[from] serde_json::Error),
    #[error("a column could not be read")]
    Arrow(#[from] ArrowError),
}
