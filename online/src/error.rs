//! What can go wrong here.

use arrow::error::ArrowError;
use deltalake::datafusion::error::DataFusionError;
use lakeward_features::View;
use lakeward_lakehouse::LakeError;
use redis::RedisError;

pub type Result<T, E = OnlineError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnlineError {
    /// The URL, without saying it: it may hold a password.
    #[error(
        "the online store's URL is not one of Redis: write redis://user:password@host:6379/0, or rediss:// for TLS"
    )]
    Url(#[source] RedisError),
    #[error("cannot read the certificates in {path}")]
    Certificates {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the online store does not do what it was asked")]
    Redis(#[source] RedisError),
    /// It was asked moments ago and did not answer.
    #[error("the online store cannot be reached")]
    Unreachable,
    /// A value that no version of ours has written.
    #[error("what the online store holds at {key:?} is not ours to read: {problem}")]
    Foreign { key: String, problem: String },
    /// Nothing can be taken from the lake.
    #[error("there is no run of {view}{}: run `lakeward features build` first", .as_of.as_deref().map(|as_of| format!(" as of {as_of}")).unwrap_or_default())]
    NotBuilt { view: View, as_of: Option<String> },
    #[error(
        "features/{view} does not say which watermark its rows come from: run `lakeward features build` again"
    )]
    NoPosition { view: View },
    #[error("{view} is not kept online; there are {}", crate::VIEWS.map(View::name).join(", "))]
    NotOnline { view: View },
    #[error("cannot read features/{view}")]
    Query {
        view: View,
        #[source]
        source: DataFusionError,
    },
    #[error("features/{view} has other columns than this version of its view gives")]
    Columns {
        view: View,
        #[source]
        source: ArrowError,
    },
    #[error(transparent)]
    Lake(#[from] LakeError),
}

impl OnlineError {
    /// Whether the same work may succeed when it is tried again later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Redis(error) => {
                error.is_io_error()
                    || error.is_timeout()
                    || error.is_connection_dropped()
                    || error.is_unrecoverable_error()
            }
            Self::Unreachable => true,
            Self::Lake(error) => error.is_retryable(),
            _ => false,
        }
    }
}

impl From<RedisError> for OnlineError {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}
