//! What every change event has around its row.

use simd_json::{Node, StaticNode};

use super::json::{self, Value};

/// How a row came: by the stream, or by a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Snapshot {
    /// It was streamed.
    No,
    /// A row of a snapshot of whole tables.
    Row,
    /// The last row of such a snapshot.
    Last,
    /// A row of an incremental snapshot, which runs beside the stream.
    Incremental,
}

/// Where an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub xid: i64,
    /// Where the transaction before ended in the log.
    pub after: i64,
    /// Where the event itself is there; some may share that, as rows that a COPY wrote together.
    pub lsn: i64,
    /// The event's number in its transaction from 1: among all of the connector's, and among its table's.
    pub order: i64,
    pub table_order: i64,
}

pub(super) struct Envelope<'a> {
    pub(super) op: &'a str,
    pub(super) before: Option<Value<'a>>,
    pub(super) after: Option<Value<'a>>,
    pub(super) source: Source<'a>,
    /// `None` if the event tells of no transaction.
    pub(super) place: Option<Place>,
}

pub(super) struct Source<'a> {
    pub(super) connector: &'a str,
    pub(super) database: &'a str,
    pub(super) schema: &'a str,
    pub(super) table: &'a str,
    pub(super) snapshot: Snapshot,
    /// Of the transaction before, as [`lakeward_change::Position::commit`]; 0 if there was none.
    pub(super) commit: Option<i64>,
    pub(super) lsn: Option<i64>,
    pub(super) xid: i64,
    /// Microseconds UTC.
    pub(super) committed_at: i64,
}

impl<'a> Envelope<'a> {
    /// # Errors
    /// Why it is no change event.
    pub(super) fn read(event: Value<'a>) -> Result<Self, &'static str> {
        let [mut op, mut before, mut after, mut source, mut transaction] = [None; 5];
        for (name, value) in json::fields(event) {
            let slot = match name {
                "op" => &mut op,
                "before" => &mut before,
                "after" => &mut after,
                "source" => &mut source,
                "transaction" => &mut transaction,
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err("has a field twice");
            }
        }
        let op = op.and_then(json::string).ok_or("is no change event: it has no operation")?;
        let source = source.filter(|source| json::is_object(source));
        let source = Source::read(source.ok_or("is no change event: it does not tell its source")?)?;
        let row = |row: Option<Value<'a>>| row.filter(|row| !json::is_null(row));
        let place = transaction.and_then(|transaction| place(transaction, &source));
        Ok(Self { op, before: row(before), after: row(after), source, place })
    }
}

fn place(transaction: Value<'_>, source: &Source<'_>) -> Option<Place> {
    let number = |name| json::field(transaction, name).and_then(json::integer);
    let (order, table_order) = (number("total_order")?, number("data_collection_order")?);
    Some(Place { xid: source.xid, after: source.commit?, lsn: source.lsn?, order, table_order })
}

impl<'a> Source<'a> {
    fn read(source: Value<'a>) -> Result<Self, &'static str> {
        let [mut connector, mut database, mut schema, mut table] = [""; 4];
        let (mut snapshot, mut commit, mut lsn, mut xid) = (Snapshot::No, None, None, 0);
        let (mut millis, mut micros) = (None, None);
        for (name, value) in json::fields(source) {
            match name {
                "connector" => connector = json::string(value).unwrap_or_default(),
                "db" => database = json::string(value).unwrap_or_default(),
                "schema" => schema = json::string(value).unwrap_or_default(),
                "table" => table = json::string(value).unwrap_or_default(),
                "snapshot" => snapshot = self::snapshot(value),
                "sequence" => {
                    commit = json::string(value).and_then(commit_before);
                }
                "lsn" => lsn = json::integer(value),
                "txId" => xid = json::integer(value).unwrap_or_default(),
                "ts_ms" => millis = json::integer(value),
                "ts_us" => micros = json::integer(value),
                _ => {}
            }
        }
        let committed_at = micros.or_else(|| millis.and_then(|millis| millis.checked_mul(1000)));
        let committed_at = committed_at.ok_or("does not tell its time")?;
        Ok(Self { connector, database, schema, table, snapshot, commit, lsn, xid, committed_at })
    }
}

fn snapshot(value: Value<'_>) -> Snapshot {
    match value.first() {
        None | Some(Node::Static(StaticNode::Null | StaticNode::Bool(false)) | Node::String("false")) => {
            Snapshot::No
        }
        Some(Node::String("incremental")) => Snapshot::Incremental,
        Some(Node::String("last")) => Snapshot::Last,
        Some(_) => Snapshot::Row,
    }
}

/// The first of `["26519824","26519824"]`; 0 if it is null.
fn commit_before(sequence: &str) -> Option<i64> {
    let (first, _) = sequence.strip_prefix('[')?.split_once(',')?;
    if first == "null" {
        return Some(0);
    }
    first.strip_prefix('"')?.strip_suffix('"')?.parse().ok().filter(|lsn| *lsn >= 0)
}
