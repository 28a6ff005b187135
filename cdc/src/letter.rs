//! Rows that cannot be taken in: how many are borne, and how one is read again.

use std::sync::Arc;

use arrow::array::Int64Array;
use lakeward_change::{ChangeBatch, DeadLetter, Lsn, Op, Position};

#[cfg(feature = "kafka")]
use crate::kafka::Registry;
use crate::{
    CdcError,
    assembler::{Assembler, Followed},
    copy::CopyDecoder,
    debezium::{Taken, Topic, TopicDecoder, Whence},
    definition::Definition,
    known::Known,
    protocol::{Begin, Datum},
    table_builder::{Stamp, TableBuilder},
};

/// So many letters a table may have in one hour of commit times, or in one copy: beyond that something is wrong with the
/// table, not with a row.
pub(crate) const MOST_LETTERS: usize = 1000;
const MICROSECONDS_AN_HOUR: i64 = 3_600_000_000;

/// Counts the letters of one table.
#[derive(Debug, Default)]
pub(crate) struct Flood {
    hour: i64,
    letters: usize,
}

impl Flood {
    /// # Errors
    /// This one is too many.
    pub(crate) fn admit(&mut self, committed_at: i64, reason: &str) -> Result<(), CdcError> {
        let hour = committed_at.div_euclid(MICROSECONDS_AN_HOUR);
        if hour != self.hour {
            *self = Self { hour, letters: 0 };
        }
        self.letters += 1;
        if self.letters <= MOST_LETTERS {
            return Ok(());
        }
        Err(flood(reason))
    }
}

/// There are too many letters, the last one for this reason.
pub(crate) fn flood(reason: &str) -> CdcError {
    CdcError::Flood { limit: MOST_LETTERS, within: "within an hour", reason: reason.to_owned() }
}

/// Reads letters of one table again, the way its changes are read.
#[derive(Clone)]
pub struct LetterReader {
    table: Definition,
    /// What events are held against, if changes come by topics.
    topic: Option<Topic>,
    /// Where the schemas of events in Avro are.
    #[cfg(feature = "kafka")]
    registry: Option<Arc<Registry>>,
}

impl LetterReader {
    pub(crate) fn new(table: Definition, topic: Option<Topic>) -> Self {
        Self {
            table,
            topic,
            #[cfg(feature = "kafka")]
            registry: None,
        }
    }

    #[cfg(feature = "kafka")]
    pub(crate) fn with_registry(self, registry: Option<Arc<Registry>>) -> Self {
        Self { registry, ..self }
    }

    /// The one change that the letter is, at its place.
    ///
    /// # Errors
    /// It still cannot be taken in, and why.
    pub async fn read(&self, letter: &DeadLetter) -> Result<ChangeBatch, CdcError> {
        if letter.message.is_empty() {
            let reason = "columns of its table are hashed or not captured, so what it holds was not kept: \
                          `lakeward table resync` makes the table whole";
            return Err(self.unreadable(reason.to_owned()));
        }
        match (Whence::of(letter), &self.topic) {
            (Some(whence), Some(topic)) => self.of_topic(letter, &whence, topic.clone()).await,
            (Some(_), None) => {
                Err(self.unreadable("it came by a topic, and topics are not read now".to_owned()))
            }
            (None, _) if letter.op == Op::Read => self.copied(letter),
            (None, _) => self.streamed(letter),
        }
    }

    #[cfg_attr(not(feature = "kafka"), expect(clippy::unused_async, reason = "there is no registry to ask"))]
    async fn of_topic(
        &self,
        letter: &DeadLetter,
        whence: &Whence,
        topic: Topic,
    ) -> Result<ChangeBatch, CdcError> {
        let mut decoder = TopicDecoder::new(Topic { epoch: letter.position.epoch, ..topic });
        let taken = whence.message(letter, |message| decoder.read(message))?;
        #[cfg(feature = "kafka")]
        let taken = match (taken, &self.registry) {
            (Taken::Lacks(schema), Some(registry)) if registry.tell(&mut decoder, schema).await? => {
                whence.message(letter, |message| decoder.read(message))?
            }
            (taken, _) => taken,
        };
        let reason = match taken {
            Taken::Change => None,
            Taken::Nothing => Some("its message is no change of the table".to_owned()),
            Taken::Changed(difference) => Some(format!("{difference}: the table's copy has what it has now")),
            Taken::Lacks(schema) => Some(format!(
                "its message is in Avro, and [source.kafka] registry is not given or does not have schema {schema}"
            )),
            Taken::Letter => decoder.take_letters().pop().map(|letter| letter.letter.reason),
        };
        if let Some(reason) = reason {
            return Err(self.unreadable(reason));
        }
        let order = decoder.place().map_or(letter.position.order, |place| place.order);
        let read = decoder.take()?;
        let mut change = read.ok_or_else(|| self.unreadable("its message is empty".to_owned()))?.changes;
        change.commits = Int64Array::from(vec![letter.position.commit]);
        change.orders = Int64Array::from(vec![order]);
        // An insert that knows of an old key is one half of a change of the key.
        if change.ops[0] == Op::Insert && change.old_keys.is_some() {
            change.ops[0] = Op::Update;
        }
        Ok(change)
    }

    fn streamed(&self, letter: &DeadLetter) -> Result<ChangeBatch, CdcError> {
        let Position { epoch, commit, order } = letter.position;
        let before = Position { epoch, commit: i64::MIN, order: 0 };
        let followed = vec![Followed { definition: self.table.clone(), durable: before }];
        let mut assembler = Assembler::new(followed, Known::default());
        let begin = Begin {
            final_lsn: Lsn::from_i64(commit),
            committed_at: letter.committed_at.unwrap_or_default(),
            xid: letter.xid.and_then(|xid| u32::try_from(xid).ok()).unwrap_or_default(),
        };
        assembler.read(&letter.relation, Lsn(0))?;
        assembler.begin(begin)?;
        assembler.skip_to(order);
        assembler.read(&letter.message, Lsn::from_i64(letter.lsn))?;
        if let Some(stopped) = assembler.take_stopped().pop() {
            return Err(self.unreadable(stopped.reason));
        }
        if let Some(letter) = assembler.take_letters().pop() {
            return Err(self.unreadable(letter.reason));
        }
        let (mut batches, _) = assembler.take()?;
        batches.pop().ok_or_else(|| self.unreadable("its message is no change of the table".to_owned()))
    }

    fn copied(&self, letter: &DeadLetter) -> Result<ChangeBatch, CdcError> {
        let mut decoder = CopyDecoder::new(Arc::clone(&self.table.schema), &self.table.salt, 1);
        decoder.push(&letter.message);
        decoder.push(b"\n");
        let copied = decoder.finish()?;
        let letters = copied.as_ref().map(|copied| copied.letters.as_slice()).unwrap_or_default();
        if let Some(letter) = letters.first() {
            return Err(self.unreadable(letter.reason.clone()));
        }
        let position = Position { order: 0, ..letter.position };
        let stamp = Stamp { position, lsn: letter.lsn, xid: 0, committed_at: 0 };
        let mut builder = TableBuilder::new(Arc::clone(&self.table.schema), position.epoch, &self.table.salt);
        let nothing = vec![Datum::Null; self.table.schema.columns.len()];
        builder.push(Op::Read, stamp, nothing.into_iter(), None)?;
        let change = builder.finish()?;
        Ok(match copied {
            Some(copied) => ChangeBatch { values: copied.rows, ..change },
            None => change,
        })
    }

    fn unreadable(&self, reason: String) -> CdcError {
        CdcError::Unreadable { table: self.table.schema.id.clone(), reason }
    }
}
