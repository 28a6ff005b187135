/// A connector could not be managed. Messages name connectors, tables, slots and what to do; never a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    #[error(
        "Kafka Connect does not answer at {url}; is it running? Its place is [connect] url, or --connect-url"
    )]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("what answers at {url} is not Kafka Connect: {problem}")]
    NotConnect { url: String, problem: String },
    #[error("Kafka Connect refused to {action}: {reason}")]
    Refused { action: String, reason: String },
    #[error(
        "there is no connector {connector} in Kafka Connect; `lakeward connector apply {connector}` makes it"
    )]
    Missing { connector: String },
    #[error("connector {connector} did not stop; see the log of Kafka Connect, then try again")]
    DoesNotStop { connector: String },
    #[error("no connector is called {name}; there are {known}")]
    Unknown { name: String, known: String },
    #[error("the template of {connector} cannot be read: {problem}")]
    Template { connector: String, problem: String },
    #[error("the source's URL cannot be used for Debezium: {0}")]
    Url(&'static str),
    #[error("connector {connector}: none of its tables is there, or none has a key")]
    NoTables { connector: String },
    #[error(
        "publication {name} is there and was not made by lakeward; drop it (DROP PUBLICATION {name}) if nobody uses it"
    )]
    ForeignPublication { name: String },
    #[error(
        "replication slot {slot} of connector {connector} is {problem}: changes are lost. `lakeward connector delete \
         {connector}`, then `lakeward connector apply {connector}`, copies its tables anew"
    )]
    SlotGone { connector: String, slot: String, problem: &'static str },
    #[error("replication slot {slot} is still read by process {pid} of the server; try again")]
    SlotInUse { slot: String, pid: i32 },
    #[error("cannot connect to the source")]
    Source(#[source] lakeward_postgres::Error),
    #[error("the source refused to {action}")]
    Query {
        action: &'static str,
        #[source]
        source: tokio_postgres::Error,
    },
}

impl ConnectError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::DoesNotStop { .. } | Self::SlotInUse { .. } => true,
            Self::Source(error) => error.is_retryable(),
            Self::Query { source, .. } => lakeward_postgres::is_retryable(source),
            _ => false,
        }
    }

    pub(crate) fn query(action: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| Self::Query { action, source }
    }
}
