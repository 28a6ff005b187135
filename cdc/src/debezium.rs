//! Events of a Debezium connector for Postgres, as JSON with or without schemas or as Avro, to columnar batches: no I/O.
//!
//! One [`TopicDecoder`] reads the topic of one table, in whose events values are written as the connector's settings say
//! ([`Modes`]) or as the event's schema does. [`Marks`] reads the connector's own topics. Schemas of events in Avro are at a
//! registry: both say which one they lack, and are told it.

mod avro;
mod carried;
mod cell;
mod envelope;
mod frame;
mod image;
mod json;
mod kind;
mod marks;
mod modes;
mod names;
mod reading;
mod rows;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;
mod text;
mod whence;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::array::{Int32Array, Int64Array};
use lakeward_change::{ChangeBatch, DeadLetter, Op, Position, TableSchema};

pub(crate) use self::{carried::uncarried, whence::Whence};
pub use self::{
    envelope::{Place, Snapshot},
    marks::{Heartbeat, Marks, NoMark, Transaction, TransactionEnd},
    modes::{BinaryMode, DecimalMode, Modes, TimeMode},
};
use self::{
    frame::{Frame, Plan},
    json::Parser,
    rows::{Read, Refusal, Rows},
};
use crate::{CdcError, hash::Salt};

/// What the events of a topic are held against.
#[derive(Debug, Clone)]
pub struct Topic {
    /// As the source's catalog defines it.
    pub table: Arc<TableSchema>,
    pub epoch: i64,
    /// The source's database: events of another one are not the table's.
    pub database: String,
    /// Columns that are there and not captured, by their names in the source; and whether those that come are not either.
    pub left_out: BTreeSet<String>,
    pub ignores_new: bool,
    /// Columns that came lately, by their names in the source: null where an event does not have them.
    pub came: BTreeSet<String>,
    /// Of hashed columns.
    pub salt: Salt,
    pub modes: Modes,
    /// Changes must tell their places in their transactions.
    pub placed: bool,
}

/// A record of a topic.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// The header `__debezium.oldkey`, if there is one.
    pub old_key: Option<&'a [u8]>,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is a change, and in the batch.
    Change,
    /// It says nothing of a row: a tombstone, a logical message.
    Nothing,
    /// It cannot be taken in, and is among the letters.
    Letter,
    /// The table has another definition from here on, as the text says. The message is not taken in: either it is read
    /// again by a decoder of the new definition, or, if there is none, refused.
    Changed(String),
    /// It is in Avro, of the schema with this number at the registry, which has not been told. The message is not taken in:
    /// either it is read again once it has been ([`TopicDecoder::tell`]), or refused.
    Lacks(u32),
}

/// Changes of one table and where each one came from; all parts have one entry a change.
#[derive(Debug, Clone)]
pub struct TopicBatch {
    /// In the order in which the messages were read. A position's commit is that of the transaction before, its order the
    /// change's own LSN; rows of an initial snapshot are at (0, 0). [`ChangeBatch::old_keys`] has the old key of inserts
    /// that lack values ([`ChangeBatch::unavailable`]): they are in the row of that key.
    pub changes: ChangeBatch,
    pub partitions: Int32Array,
    pub offsets: Int64Array,
    pub snapshots: Vec<Snapshot>,
}

/// A message that cannot be taken in. Where its place in the log could not be read, its position is (0, 0).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicLetter {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub old_key: Option<Vec<u8>>,
    pub letter: DeadLetter,
}

/// How many messages said nothing of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ignored {
    pub tombstones: u64,
    pub messages: u64,
}

/// Reads one topic.
#[derive(Debug)]
pub struct TopicDecoder {
    rows: Rows,
    parser: Parser,
    keys: Parser,
    /// How values are written where events have no schema, and where they have one.
    stated: Option<Plan>,
    frame: Option<Frame>,
    /// Schemas of events in Avro, or why nothing is read by them.
    schemas: BTreeMap<u32, Result<(avro::Schema, Plan), &'static str>>,
    avro: avro::Reader,
    letters: Vec<TopicLetter>,
    ignored: Ignored,
}

impl TopicDecoder {
    pub fn new(topic: Topic) -> Self {
        Self {
            rows: Rows::new(topic),
            parser: Parser::new(),
            keys: Parser::new(),
            stated: None,
            frame: None,
            schemas: BTreeMap::new(),
            avro: avro::Reader::new(),
            letters: Vec::new(),
            ignored: Ignored::default(),
        }
    }

    /// Takes in a message. Within a partition they must come in the order of their offsets.
    ///
    /// # Errors
    /// The connector's settings are not those that are stated, or too few are.
    pub fn read(&mut self, message: &Message<'_>) -> Result<Taken, CdcError> {
        self.rows.place = None;
        let Some(value) = message.value else {
            self.ignored.tombstones += 1;
            return Ok(Taken::Nothing);
        };
        match self.decode(message, value)? {
            Ok(Read::Change) => Ok(Taken::Change),
            Ok(Read::Message) => {
                self.ignored.messages += 1;
                Ok(Taken::Nothing)
            }
            Ok(Read::Changed(difference)) => Ok(Taken::Changed(difference)),
            Ok(Read::Lacks(schema)) => Ok(Taken::Lacks(schema)),
            Err(refusal) => {
                self.set_aside(message, refusal);
                Ok(Taken::Letter)
            }
        }
    }

    /// Tells what the registry has under a number: events of that schema can be read from now on.
    ///
    /// # Errors
    /// The connector's settings are not those that are stated, or too few are; or two columns have one name in Avro.
    pub fn tell(&mut self, number: u32, registered: &str) -> Result<(), CdcError> {
        let topic = &self.rows.topic;
        let told = match avro::Schema::read(registered) {
            Ok(schema) => {
                let plan = self.parser.read(schema.connect.as_bytes(), |found| Plan::in_avro(topic, found));
                match plan {
                    Ok(plan) => Ok((schema, plan?)),
                    Err(_) => Err("is no Avro schema"),
                }
            }
            Err(problem) => Err(problem),
        };
        self.schemas.insert(number, told);
        Ok(())
    }

    /// Sets a message aside that is of another definition, which the table does not have, or of a schema that there is not.
    pub fn refuse(&mut self, message: &Message<'_>, reason: &str) {
        let error = self.rows.bad(reason);
        self.set_aside(message, Refusal { op: None, stamp: None, error });
    }

    fn decode(&mut self, message: &Message<'_>, value: &[u8]) -> Result<Result<Read, Refusal>, CdcError> {
        if let Some((number, datum)) = avro::framed(value) {
            return Ok(self.decode_avro(message, number, datum));
        }
        let framed = value.starts_with(frame::START);
        if framed && !self.frame.as_ref().is_some_and(|frame| frame.is_of(value)) {
            self.frame = Frame::read(value, &self.rows.topic)?;
        }
        let plan = match &self.frame {
            Some(frame) if framed => &frame.plan,
            None if framed => return Ok(Err(self.rows.refused("has a schema that cannot be read"))),
            _ => match &mut self.stated {
                Some(plan) => plan,
                stated => stated.insert(Plan::stated(&self.rows.topic)?),
            },
        };
        let payload = match &self.frame {
            Some(frame) if framed => frame.payload(value),
            _ => value,
        };
        let (rows, keys) = (&mut self.rows, &mut self.keys);
        let read = self.parser.read(payload, |event| rows.take_in(event, plan, message, keys));
        Ok(read.unwrap_or_else(|_| Err(self.rows.refused("is no JSON"))))
    }

    fn decode_avro(&mut self, message: &Message<'_>, number: u32, datum: &[u8]) -> Result<Read, Refusal> {
        let (schema, plan) = match self.schemas.get(&number) {
            Some(Ok(known)) => known,
            Some(Err(problem)) => {
                return Err(self.rows.refused(&format!("is in Avro, and its schema {number} {problem}")));
            }
            None => return Ok(Read::Lacks(number)),
        };
        let (rows, keys) = (&mut self.rows, &mut self.keys);
        let read = self.avro.read(datum, schema, |event| rows.take_in(event, plan, message, keys));
        read.unwrap_or_else(|_| {
            Err(self.rows.refused(&format!("is in Avro, and no datum of its schema {number}")))
        })
    }

    /// The changes since the last call, if there are any.
    ///
    /// # Errors
    /// The columns do not make a batch.
    pub fn take(&mut self) -> Result<Option<TopicBatch>, CdcError> {
        self.rows.take()
    }

    /// Messages since the last call that could not be taken in.
    pub fn take_letters(&mut self) -> Vec<TopicLetter> {
        std::mem::take(&mut self.letters)
    }

    /// Where the message that was read last stands in its transaction; `None` if it does not tell.
    pub fn place(&self) -> Option<Place> {
        self.rows.place
    }

    /// How many changes are pending.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// So far.
    pub fn ignored(&self) -> Ignored {
        self.ignored
    }

    fn set_aside(&mut self, message: &Message<'_>, refusal: Refusal) {
        let topic = &self.rows.topic;
        let is_private = topic.table.has_hashes() || !topic.left_out.is_empty();
        let kept = |bytes: Option<&[u8]>| bytes.filter(|_| !is_private).map(<[u8]>::to_vec);
        let stamp = refusal.stamp;
        let nowhere = Position { epoch: topic.epoch, commit: 0, order: 0 };
        self.letters.push(TopicLetter {
            partition: message.partition,
            offset: message.offset,
            key: kept(message.key),
            old_key: kept(message.old_key),
            letter: DeadLetter {
                table: topic.table.id.clone(),
                position: stamp.map_or(nowhere, |stamp| stamp.position),
                op: refusal.op.unwrap_or(Op::Update),
                lsn: stamp.map_or(0, |stamp| stamp.lsn),
                xid: stamp.map(|stamp| stamp.xid),
                committed_at: stamp.map(|stamp| stamp.committed_at),
                reason: refusal.error.with_causes(),
                message: kept(message.value).unwrap_or_default(),
                relation: Vec::new(),
            },
        });
    }
}
