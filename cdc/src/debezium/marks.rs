//! What a connector writes besides changes: heartbeats, and where transactions begin and end.

use std::collections::BTreeMap;

use super::{
    avro,
    json::{self, Parser, Value},
};

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

/// The message is not what the topic holds; or it is not known yet what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoMark {
    #[error("the message is no {0} of a Debezium connector")]
    Other(&'static str),
    /// It is to be read again once [`Marks::tell`] has been called.
    #[error("the message is in Avro, of schema {0}, which has not been told")]
    Lacks(u32),
}

/// Reads marks: values of messages, in JSON or Avro.
#[derive(Debug, Default)]
pub struct Marks {
    /// Those of Avro; `None` where nothing is read by one.
    schemas: BTreeMap<u32, Option<avro::Schema>>,
}

impl Marks {
    /// Tells what the registry has under a number.
    pub fn tell(&mut self, number: u32, registered: &str) {
        self.schemas.insert(number, avro::Schema::read(registered).ok());
    }

    /// Of a message in a topic `__debezium-heartbeat.…`.
    ///
    /// # Errors
    /// It is no heartbeat.
    pub fn heartbeat(&self, value: &[u8]) -> Result<Heartbeat, NoMark> {
        self.read(value, "heartbeat", |mark| Some(Heartbeat { written_at: micros(mark)? }))
    }

    /// Of a message in a topic `….transaction`.
    ///
    /// # Errors
    /// It tells of no transaction.
    pub fn transaction(&self, value: &[u8]) -> Result<Transaction, NoMark> {
        self.read(value, "transaction's beginning or end", |mark| {
            let text = |name| json::field(mark, name).and_then(json::string);
            let (xid, lsn) = text("id")?.split_once(':')?;
            let end = match text("status")? {
                "BEGIN" => None,
                "END" => Some(end(mark)?),
                _ => return None,
            };
            Some(Transaction { xid: xid.parse().ok()?, lsn: lsn.parse().ok()?, at: micros(mark)?, end })
        })
    }

    fn read<T>(
        &self,
        value: &[u8],
        what: &'static str,
        with: impl FnOnce(Value<'_>) -> Option<T>,
    ) -> Result<T, NoMark> {
        let read = match avro::framed(value) {
            Some((number, datum)) => {
                let schema = self.schemas.get(&number).ok_or(NoMark::Lacks(number))?;
                schema.as_ref().and_then(|schema| avro::Reader::new().read(datum, schema, with).ok())
            }
            None => Parser::new().read(value, |document| with(json::unframed(document))).ok(),
        };
        read.flatten().ok_or(NoMark::Other(what))
    }
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
