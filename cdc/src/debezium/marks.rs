//! What a connector writes besides changes: heartbeats, and where transactions begin and end.

use super::json::{self, Parser, Value};

/// A sign of life of the connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// When the connector wrote it, microseconds UTC.
    pub written_at: i64,
}

/// A transaction's beginning or end. Its LSN is another one in each message of it: the number alone tells which it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub xid: i64,
    pub lsn: i64,
    /// Microseconds UTC.
    pub at: i64,
    /// `None` where it begins.
    pub end: Option<TransactionEnd>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionEnd {
    pub events: i64,
    /// Tables as the connector names them (`schema.table`), and how many events each one has.
    pub tables: Vec<(String, i64)>,
}

/// The message is not what the topic holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message is no {0} of a Debezium connector")]
pub struct NoMark(&'static str);

/// Reads the value of a message in a topic `__debezium-heartbeat.…`.
///
/// # Errors
/// It is no heartbeat.
pub fn heartbeat(value: &[u8]) -> Result<Heartbeat, NoMark> {
    read(value, |mark| Some(Heartbeat { written_at: micros(mark)? })).ok_or(NoMark("heartbeat"))
}

/// Reads the value of a message in a topic `….transaction`.
///
/// # Errors
/// It tells of no transaction.
pub fn transaction(value: &[u8]) -> Result<Transaction, NoMark> {
    let transaction = |mark: Value<'_>| {
        let text = |name| json::field(mark, name).and_then(json::string);
        let (xid, lsn) = text("id")?.split_once(':')?;
        let end = match text("status")? {
            "BEGIN" => None,
            "END" => Some(end(mark)?),
            _ => return None,
        };
        Some(Transaction { xid: xid.parse().ok()?, lsn: lsn.parse().ok()?, at: micros(mark)?, end })
    };
    read(value, transaction).ok_or(NoMark("transaction's beginning or end"))
}

fn end(mark: Value<'_>) -> Option<TransactionEnd> {
    let table = |table| {
        let name = json::string(json::field(table, "data_collection")?)?;
        Some((name.to_owned(), json::integer(json::field(table, "event_count")?)?))
    };
    let tables = json::elements(json::field(mark, "data_collections")?).map(table);
    Some(TransactionEnd {
        events: json::integer(json::field(mark, "event_count")?)?,
        tables: tables.collect::<Option<_>>()?,
    })
}

fn micros(mark: Value<'_>) -> Option<i64> {
    json::integer(json::field(mark, "ts_ms")?)?.checked_mul(1000)
}

fn read<T>(value: &[u8], with: impl FnOnce(Value<'_>) -> Option<T>) -> Option<T> {
    Parser::new().read(value, |document| with(json::unframed(document))).ok().flatten()
}
