use std::path::{Path, PathBuf};

use lakeward_postgres::is_retryable;

/// What went wrong in the shop. [`Error::is_retryable`] tells whether the same call can succeed later.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that cannot be used as it is. Nothing of it was imported.
    #[error("{}: {reason}; nothing was imported", Place { file, row: *row, column: column.as_deref() })]
    Input {
        file: PathBuf,
        /// 1 is the first row of data (a CSV file's header does not count).
        row: Option<u64>,
        column: Option<String>,
        reason: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    #[error("table {table} already has rows; load into an empty database")]
    NotEmpty { table: &'static str },
    #[error("the shop has no {what}; seed or import it first")]
    Unprepared { what: &'static str },
    #[error("option {name}: {reason}")]
    Option { name: &'static str, reason: String },
    #[error("cannot connect to the shop's database")]
    Connect(#[source] lakeward_postgres::Error),
    #[error("cannot {action}: {}", server_message(source))]
    Postgres {
        action: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("cannot write {}", file.display())]
    Write {
        file: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cancelled; nothing was loaded")]
    Cancelled,
}

impl Error {
    /// True for a lost connection, a full or stopping server and conflicts; false for bad input and bad options.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect(lakeward_postgres::Error::Connect { source, .. }) => is_retryable(source),
            Self::Postgres { source, .. } => is_retryable(source),
            Self::Cancelled => true,
            _ => false,
        }
    }

    pub(crate) fn file(file: &Path, reason: impl Into<String>) -> Self {
        Self::Input { file: file.to_owned(), row: None, column: None, reason: reason.into(), source: None }
    }

    pub(crate) fn unreadable(
        file: &Path,
        reason: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Input {
            file: file.to_owned(),
            row: None,
            column: None,
            reason: reason.into(),
            source: Some(source.into()),
        }
    }

    pub(crate) fn column(file: &Path, column: &str, reason: impl Into<String>) -> Self {
        Self::Input {
            file: file.to_owned(),
            row: None,
            column: Some(column.to_owned()),
            reason: reason.into(),
            source: None,
        }
    }

    /// `row` counts from 0 here, and from 1 in the message.
    pub(crate) fn cell(file: &Path, row: usize, column: &str, reason: impl Into<String>) -> Self {
        Self::Input {
            file: file.to_owned(),
            row: Some(row as u64 + 1),
            column: Some(column.to_owned()),
            reason: reason.into(),
            source: None,
        }
    }

    pub(crate) fn postgres(action: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let action = action.into();
        move |source| Self::Postgres { action, source }
    }
}

/// The server's own words without its detail, which may hold values of a row.
fn server_message(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    }
}

struct Place<'a> {
    file: &'a Path,
    row: Option<u64>,
    column: Option<&'a str>,
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(row) = self.row {
            write!(f, ", row {row}")?;
        }
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        Ok(())
    }
}
