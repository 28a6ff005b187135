//! What can go wrong: input tables, options, model files.

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, RecommenderError>;

/// Every error here is permanent: the same input fails again. Rows are counted from 1, without a header.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecommenderError {
    /// A required column is not there.
    #[error(
        "{table}: column `{column}` is missing; needed are `user_id` and `item_id`, and `timestamp`, `weight`, `basket_id` may follow"
    )]
    MissingColumn { table: String, column: String },
    /// A column has a type that cannot be read.
    #[error("{table}: column `{column}` has type {found}; give {expected}")]
    WrongType { table: String, column: String, found: String, expected: &'static str },
    /// A value is missing.
    #[error("{table}: column `{column}` is null in row {row}; fill or remove the row")]
    Null { table: String, column: String, row: usize },
    /// A value cannot be used.
    #[error("{table}: column `{column}` in row {row}: {problem}")]
    InvalidValue { table: String, column: String, row: usize, problem: &'static str },
    /// A table has no row.
    #[error("{table}: no rows; give at least one interaction")]
    Empty { table: String },
    /// Tables that must share users or items do not.
    #[error("{table}: {problem}")]
    Mismatch { table: String, problem: &'static str },
    /// An option is out of its range.
    #[error("option `{option}`: {problem}")]
    InvalidOption { option: &'static str, problem: &'static str },
    /// The model's bytes are incomplete or altered.
    #[error("model file is damaged ({problem}); take another copy of this version or train a new one")]
    DamagedModel { problem: String },
    /// The model was written by a newer Lakeward.
    #[error("model file has format {found}, this program reads up to {supported}; upgrade the program")]
    NewerModel { found: u32, supported: u32 },
}
