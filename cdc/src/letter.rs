//! Rows that cannot be taken in: how many are borne, and how one is read again.

use std::sync::Arc;

use lakeward_change::{ChangeBatch, DeadLetter, Lsn, Op, Position};

use crate::{
    CdcError,
    assembler::{Assembler, Followed},
    copy::CopyDecoder,
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
        let reason = reason.to_owned();
        Err(CdcError::Flood { limit: MOST_LETTERS, within: "within an hour", reason })
    }
}

/// Reads letters of one table again, the way its changes are read.
#[derive(Debug, Clone)]
pub struct LetterReader(Definition);

impl LetterReader {
    pub(crate) fn new(table: Definition) -> Self {
        Self(table)
    }

    /// The one change that the letter is, at its place.
    ///
    /// # Errors
    /// It still cannot be taken in, and why.
    pub fn read(&self, letter: &DeadLetter) -> Result<ChangeBatch, CdcError> {
        if letter.message.is_empty() {
            let reason = "columns of its table are hashed or not captured, so what it holds was not kept: \
                          `lakeward table resync` makes the table whole";
            return Err(self.unreadable(reason.to_owned()));
        }
        if letter.op == Op::Read { self.copied(letter) } else { self.streamed(letter) }
    }

    fn streamed(&self, letter: &DeadLetter) -> Result<ChangeBatch, CdcError> {
        let Position { epoch, commit, order } = letter.position;
        let before = Position { epoch, commit: i64::MIN, order: 0 };
        let followed = vec![Followed { definition: self.0.clone(), durable: before }];
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
        let mut decoder = CopyDecoder::new(Arc::clone(&self.0.schema), &self.0.salt, 1);
        decoder.push(&letter.message);
        decoder.push(b"\n");
        let copied = decoder.finish()?;
        let letters = copied.as_ref().map(|copied| copied.letters.as_slice()).unwrap_or_default();
        if let Some(letter) = letters.first() {
            return Err(self.unreadable(letter.reason.clone()));
        }
        let position = Position { order: 0, ..letter.position };
        let stamp = Stamp { position, lsn: letter.lsn, xid: 0, committed_at: 0 };
        let mut builder = TableBuilder::new(Arc::clone(&self.0.schema), position.epoch, &self.0.salt);
        let nothing = vec![Datum::Null; self.0.schema.columns.len()];
        builder.push(Op::Read, stamp, nothing.into_iter(), None)?;
        let change = builder.finish()?;
        Ok(match copied {
            Some(copied) => ChangeBatch { values: copied.rows, ..change },
            None => change,
        })
    }

    fn unreadable(&self, reason: String) -> CdcError {
        CdcError::Unreadable { table: self.0.schema.id.clone(), reason }
    }
}
