//! What can go wrong between a source and its changes.

use std::time::Duration;

use lakeward_change::TableId;

use lakeward_postgres::is_retryable_code;

use crate::{protocol::ProtocolError, values::ValueError};

/// A change source failed. Messages name tables, slots and what to do; never row values or secrets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CdcError {
    #[error("the source's URL cannot be used: {0}")]
    Url(String),
    #[error("cannot connect to the source")]
    Connect(#[source] lakeward_postgres::Error),
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
        "no answer for {waited:?} to the request to {action}: the connection is broken, or the server is stuck"
    )]
    Silent { action: &'static str, waited: Duration },
    #[error(
        "publication {name} {problem}; mend it with: {fix}, or name another with the source's publication setting"
    )]
    Publication { name: String, problem: String, fix: String },
    #[error("replication slot {slot} is read by process {pid}; stop that reader first")]
    SlotInUse { slot: String, pid: i32 },
    #[error("replication slot {slot} {problem}")]
    SlotUnfit { slot: String, problem: String },
    #[error(
        "replication slot {slot} is no longer where it was: somebody else has read from it or dropped it"
    )]
    SlotMoved { slot: String },
    #[error(
        "the key column {column} of table {table} holds NaN, infinity or a time out of range, which the lake has no value for"
    )]
    Key { table: TableId, column: String },
    #[error("a row of table {table} {problem}")]
    Row { table: TableId, problem: &'static str },
    #[error("an event of table {table} {problem}")]
    Event { table: TableId, problem: String },
    #[error("cannot read column {column} of table {table} as the connector writes it: {problem}")]
    ConnectorSettings { table: TableId, column: String, problem: &'static str },
    #[error("a letter of table {table} still cannot be taken in: {reason}")]
    Unreadable { table: TableId, reason: String },
    #[error(
        "more than {limit} rows {within} cannot be taken in, the last one because {reason}; `lakeward dead-letters \
         list` shows them"
    )]
    Flood { limit: usize, within: &'static str, reason: String },
    #[error(
        "table {table} was rewritten or emptied just now, and the snapshot shows nothing of it: try again"
    )]
    Rewritten { table: TableId },
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
    #[error(
        "no answer from Kafka at {brokers} for {waited:?}{reason}: [source.kafka] brokers and security_protocol say where \
         and how it is asked"
    )]
    Brokers { brokers: String, waited: Duration, reason: String },
    #[error("Kafka at {brokers} refused the connection ({reason}): {fix}")]
    Refused { brokers: String, reason: String, fix: &'static str },
    #[error("topic {topic} cannot be read: {problem}")]
    Topic { topic: String, problem: String },
    #[error(
        "topic {topic} holds rows of a snapshot that the connector took again: what changed before it, since its slot was \
         lost, is not in the topics"
    )]
    SnapshotAgain { topic: String },
    #[error(
        "topic {topic} has a message at offset {offset} that tells of no transaction: what the connector may have said there \
         of a transaction's end is lost"
    )]
    NoTransaction { topic: String, offset: i64 },
    #[error(
        "a transaction has {expected} changes of table {table}, and Kafka {found}: its topic has lost some, by retention or \
         compaction"
    )]
    Incomplete { table: TableId, found: i64, expected: i64 },
    #[error(
        "the connector's topic of transactions does not count all changes of table {table} in transaction {xid}: it has lost \
         something, or the connector has counted anew"
    )]
    Uncounted { table: TableId, xid: i64 },
    #[error(
        "the connector began again right after it had told of the beginning of transaction {xid}, and may have passed over \
         changes of it"
    )]
    Interrupted { xid: i64 },
    #[error(
        "topic {topic} has messages in Avro: [source.kafka] registry must say where their schema registry is"
    )]
    NoRegistry { topic: String },
    #[error(
        "the schema registry at {url} {problem}; [source.kafka] registry says where it is: the address that Confluent's \
         clients would have"
    )]
    Registry { url: String, problem: String, is_passing: bool },
    #[error(
        "topic {topic} has messages of schema {number}, which the registry at {registry} does not have: it is another \
         registry than the connector's, or has lost it"
    )]
    NoSchema { topic: String, number: u32, registry: String },
    #[cfg(feature = "kafka")]
    #[error("Kafka refused to {action}")]
    Kafka {
        action: String,
        #[source]
        source: rdkafka::error::KafkaError,
    },
    #[error("relation {relation} came after the catalog was read; open the source again")]
    NewRelation { relation: String },
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
            Self::Connect(source) => source.is_retryable(),
            Self::Ended
            | Self::Silent { .. }
            | Self::Rewritten { .. }
            | Self::SlotInUse { .. }
            | Self::SlotMoved { .. }
            | Self::NewRelation { .. }
            | Self::HeldUp { .. }
            | Self::Brokers { .. }
            | Self::Topic { .. }
            | Self::SnapshotAgain { .. }
            | Self::NoTransaction { .. }
            | Self::NoSchema { .. }
            | Self::Incomplete { .. }
            | Self::Uncounted { .. }
            | Self::Interrupted { .. } => true,
            Self::Registry { is_passing, .. } => *is_passing,
            #[cfg(feature = "kafka")]
            Self::Kafka { source, .. } => !matches!(
                source,
                rdkafka::error::KafkaError::ClientConfig(..) | rdkafka::error::KafkaError::ClientCreation(_)
            ),
            Self::Query { source, .. } => lakeward_postgres::is_retryable(source),
            Self::Replication { source, .. } => is_passing(source),
            _ => false,
        }
    }

    /// The error with its causes, on one line.
    pub(crate) fn with_causes(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        causes.fold(self.to_string(), |text, cause| format!("{text}: {cause}"))
    }

    pub(crate) fn query(action: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let action = action.into();
        move |source| Self::Query { action, source }
    }

    #[cfg(feature = "kafka")]
    pub(crate) fn kafka(action: impl Into<String>) -> impl FnOnce(rdkafka::error::KafkaError) -> Self {
        let action = action.into();
        move |source| Self::Kafka { action, source }
    }

    pub(crate) fn replication(
        action: impl Into<String>,
    ) -> impl FnOnce(pgwire_replication::PgWireError) -> Self {
        let action = action.into();
        move |source| Self::Replication { action, source }
    }
}

fn is_passing(error: &pgwire_replication::PgWireError) -> bool {
    use pgwire_replication::PgWireError;
    match error {
        // A session that ended under a command is told as internal.
        PgWireError::Internal(_) => true,
        PgWireError::Server(_) => sqlstate(error).is_some_and(|code| is_retryable_code(&code)),
        error => error.is_transient(),
    }
}

/// The replication client gives a server error as text that ends in `(SQLSTATE xxxxx)`.
pub(crate) fn sqlstate(error: &pgwire_replication::PgWireError) -> Option<String> {
    let pgwire_replication::PgWireError::Server(text) = error else {
        return None;
    };
    let (_, code) = text.rsplit_once("(SQLSTATE ")?;
    Some(code.trim_end_matches(')').to_owned())
}
