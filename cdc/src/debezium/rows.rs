//! Change events to rows.

use std::sync::Arc;

use arrow::array::{Int32Array, Int64Array};
use lakeward_change::{Op, Position};

use super::{
    Message, Snapshot, Topic, TopicBatch,
    cell::{Cell, Placeholder},
    envelope::{Envelope, Place, Source},
    frame::Plan,
    image::{Difference, Places},
    json::{self, Parser, Value},
    names::Names,
};
use crate::{
    CdcError,
    table_builder::{SourceValue, Stamp, TableBuilder},
};

/// What an event was.
pub(super) enum Read {
    Change,
    /// `pg_logical_emit_message`
    Message,
    Changed(String),
    /// In Avro, by a schema that nobody has told.
    Lacks(u32),
}

/// An event that cannot be taken in, and what is known of it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) op: Option<Op>,
    pub(super) stamp: Option<Stamp>,
    pub(super) error: CdcError,
}

/// The changes of a topic's table.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) topic: Topic,
    is_key: Vec<bool>,
    placeholder: Placeholder,
    builder: TableBuilder,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
    snapshots: Vec<Snapshot>,
    places: Places,
    places_before: Places,
    /// Of the event that was read last.
    pub(super) place: Option<Place>,
}

impl Rows {
    pub(super) fn new(topic: Topic) -> Self {
        let table = &topic.table;
        let columns = table.columns.len();
        Self {
            is_key: (0..columns).map(|column| table.key.contains(&column)).collect(),
            placeholder: Placeholder::new(&topic.modes.unavailable),
            builder: TableBuilder::new(Arc::clone(table), topic.epoch, &topic.salt),
            partitions: Vec::new(),
            offsets: Vec::new(),
            snapshots: Vec::new(),
            places: Places::new(columns),
            places_before: Places::new(columns),
            place: None,
            topic,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    pub(super) fn bad(&self, problem: &str) -> CdcError {
        CdcError::Event { table: self.topic.table.id.clone(), problem: problem.to_owned() }
    }

    pub(super) fn refused(&self, problem: &str) -> Refusal {
        Refusal { op: None, stamp: None, error: self.bad(problem) }
    }

    pub(super) fn take_in(
        &mut self,
        event: Value<'_>,
        plan: &Plan,
        message: &Message<'_>,
        keys: &mut Parser,
    ) -> Result<Read, Refusal> {
        let envelope = Envelope::read(event).map_err(|problem| self.refused(problem))?;
        self.place = envelope.place;
        if envelope.op == "m" {
            return Ok(Read::Message);
        }
        let Some(op) = Op::from_letter(envelope.op) else {
            return Err(self.refused("has an operation that is not known"));
        };
        let refusal =
            |this: &Self, stamp, problem: &str| Refusal { op: Some(op), stamp, error: this.bad(problem) };
        let source = &envelope.source;
        if self.topic.placed && envelope.place.is_none() && op != Op::Read {
            return Err(refusal(
                self,
                None,
                "tells of no transaction: it is not of the connector that is read",
            ));
        }
        let leaf = self.leaf(source).map_err(|problem| refusal(self, None, problem))?;
        let position = self.position(op, source).map_err(|problem| refusal(self, None, problem))?;
        let stamp = Stamp {
            position,
            lsn: source.lsn.unwrap_or_default(),
            xid: source.xid,
            committed_at: source.committed_at,
        };
        let taken = match self.push(op, stamp, &envelope, leaf.as_deref(), plan, message, keys) {
            Ok(taken) => taken,
            Err(Problem::Row(problem)) => return Err(refusal(self, Some(stamp), problem)),
            Err(Problem::Value(error)) => return Err(Refusal { op: Some(op), stamp: Some(stamp), error }),
        };
        if matches!(taken, Read::Change) {
            self.partitions.push(message.partition);
            self.offsets.push(message.offset);
            self.snapshots.push(source.snapshot);
        }
        Ok(taken)
    }

    /// The partition that the event is of, if the table has partitions.
    fn leaf(&self, source: &Source<'_>) -> Result<Option<String>, &'static str> {
        let table = &self.topic.table;
        if source.connector != "postgresql" || source.database != self.topic.database {
            return Err("is of another connector or database than the topic's table");
        }
        if table.leaf().is_some() {
            let name = format!("{}.{}", source.schema, source.table);
            return match table.origin.leaves.iter().any(|leaf| leaf.name == name) {
                true => Ok(Some(name)),
                false => Err("is of another table than the topic's"),
            };
        }
        if source.schema != table.id.schema || source.table != table.id.name {
            return Err("is of another table than the topic's");
        }
        Ok(None)
    }

    fn position(&self, op: Op, source: &Source<'_>) -> Result<Position, &'static str> {
        let epoch = self.topic.epoch;
        if op == Op::Read && source.snapshot != Snapshot::Incremental {
            return Ok(Position { epoch, commit: 0, order: 0 });
        }
        match (source.commit, source.lsn) {
            (Some(commit), Some(order)) => Ok(Position { epoch, commit, order }),
            _ => Err("does not tell its place in the log"),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what an event is has many parts")]
    fn push(
        &mut self,
        op: Op,
        stamp: Stamp,
        envelope: &Envelope<'_>,
        leaf: Option<&str>,
        plan: &Plan,
        message: &Message<'_>,
        keys: &mut Parser,
    ) -> Result<Read, Problem> {
        let table = Arc::clone(&self.topic.table);
        let (columns, leaf_column) = (table.columns.len(), table.leaf());
        let named = |column| match leaf {
            Some(leaf) if Some(column) == leaf_column => Cell::Text(leaf),
            _ => Cell::Null,
        };
        if op == Op::Truncate {
            self.builder.push(op, stamp, (0..columns).map(named), None)?;
            return Ok(Read::Change);
        }
        if table.has_key() && message.key.is_none() {
            return Err(Problem::Row("has no key"));
        }
        if table.is_history() && matches!(op, Op::Update | Op::Delete) {
            return Err(Problem::Row("changes a row of a table that has no key"));
        }
        let image = if op == Op::Delete { envelope.before } else { envelope.after };
        let row = image.ok_or(Problem::Row("does not hold its row"))?;
        let before = match op {
            Op::Update if table.counts_rows() => {
                Some(envelope.before.ok_or(Problem::Row("does not hold its row before"))?)
            }
            _ => None,
        };
        match find(&mut self.places, row, &plan.names, &self.topic)? {
            None => {}
            Some(difference) => return Ok(Read::Changed(difference)),
        }
        if let Some(before) = before
            && let Some(difference) = find(&mut self.places_before, before, &plan.names, &self.topic)?
        {
            return Ok(Read::Changed(difference));
        }
        let Self { topic: _, is_key, placeholder, builder, places, places_before, .. } = self;
        let keys_only = op == Op::Delete && !table.counts_rows();
        let cells = |row, places: &Places, column: usize| match places.value(row, column) {
            Some(value) if !keys_only || is_key[column] => {
                Cell::Value { value, reading: &plan.readings[column], placeholder }
            }
            _ => named(column),
        };
        let cell = |column| cells(row, places, column);
        let lacks = |column: &usize| cell(*column).is_unavailable();
        let is_null = |column: &usize| match cell(*column) {
            Cell::Value { value, .. } => json::is_null(value),
            cell => matches!(cell, Cell::Null),
        };
        if table.key.iter().any(lacks) || table.has_key() && table.key.iter().any(is_null) {
            return Err(Problem::Row("lacks a value of its key"));
        }
        if let Some(before) = before {
            let old: Vec<Cell<'_>> = table.key.iter().map(|&key| cells(before, places_before, key)).collect();
            if old.iter().any(|cell| cell.is_unavailable()) {
                return Err(Problem::Row("lacks a value of its row before"));
            }
            builder.push(op, stamp, (0..columns).map(&cell), Some(&old))?;
            return Ok(Read::Change);
        }
        if matches!(op, Op::Insert | Op::Read) && (0..columns).any(|column| lacks(&column)) {
            const LACKS: Problem = Problem::Row("is inserted and lacks a value");
            let document = message.old_key.filter(|_| op == Op::Insert && table.has_key()).ok_or(LACKS)?;
            let pushed = keys.read(document, |old| {
                let old = json::unframed(old);
                let value = |&key: &usize| {
                    let value = json::field(old, &plan.names.columns()[key])?;
                    Some(Cell::Value { value, reading: &plan.readings[key], placeholder })
                };
                let old: Option<Vec<Cell<'_>>> = table.key.iter().map(value).collect();
                let old = old.ok_or(Problem::Row("has an old key with other columns than the table's"))?;
                #[expect(clippy::redundant_closure, reason = "the old key lives shorter than the row")]
                builder.push(op, stamp, (0..columns).map(|column| cell(column)), Some(&old))?;
                Ok::<_, Problem>(())
            });
            pushed.map_err(|_| Problem::Row("has an old key that is no JSON"))??;
            return Ok(Read::Change);
        }
        builder.push(op, stamp, (0..columns).map(cell), None)?;
        Ok(Read::Change)
    }

    pub(super) fn take(&mut self) -> Result<Option<TopicBatch>, CdcError> {
        if self.builder.is_empty() {
            return Ok(None);
        }
        let changes = self.builder.finish()?;
        let batch = TopicBatch {
            partitions: Int32Array::from(std::mem::take(&mut self.partitions)),
            offsets: Int64Array::from(std::mem::take(&mut self.offsets)),
            snapshots: std::mem::take(&mut self.snapshots),
            changes,
        };
        Ok((batch.changes.num_rows() > 0).then_some(batch))
    }
}

/// Why an event cannot be taken in.
enum Problem {
    Row(&'static str),
    Value(CdcError),
}

impl From<CdcError> for Problem {
    fn from(error: CdcError) -> Self {
        Self::Value(error)
    }
}

/// Finds the columns of a row, or what has changed about them.
fn find(
    places: &mut Places,
    row: Value<'_>,
    names: &Names,
    topic: &Topic,
) -> Result<Option<String>, Problem> {
    match places.find(row, names, topic) {
        Ok(()) => Ok(None),
        Err(Difference::Definition(difference)) => Ok(Some(difference)),
        Err(Difference::Foreign(problem)) => Err(Problem::Row(problem)),
    }
}
