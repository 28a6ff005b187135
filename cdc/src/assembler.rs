//! Messages of the stream to columnar batches with positions: no I/O.

mod describe;
mod rows;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use speed::allocations;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use lakeward_change::{
    ChangeBatch, DeadLetter, Lsn, Op, Position, StopCause, StoppedTable, TableId, TableSchema,
};

use crate::{
    CdcError,
    definition::Definition,
    known::Known,
    letter::Flood,
    protocol::{Begin, Datum, Message, undecoded},
    table_builder::{Stamp, TableBuilder},
};

/// Bookkeeping of a change in memory, beside its values: six numbers and an operation.
const BYTES_PER_CHANGE: usize = 48;

/// A table to follow: what the catalog says of it, and how far it is durable. Its changes up to there are passed over.
#[derive(Debug, Clone)]
pub(crate) struct Followed {
    pub(crate) definition: Definition,
    pub(crate) durable: Position,
}

#[derive(Debug)]
pub(crate) struct Assembler {
    tables: Vec<Followed>,
    by_name: HashMap<TableId, usize>,
    /// Partitions that hold rows: their table, and their name in it.
    leaves: HashMap<u32, (usize, Arc<str>)>,
    /// What the catalog knew besides the tables.
    known: Known,
    /// Relations the stream has described.
    relations: HashMap<u32, Described>,
    /// Their descriptions, as they came.
    descriptions: HashMap<u32, Vec<u8>>,
    builders: Vec<TableBuilder>,
    transaction: Option<Transaction>,
    /// Tables that cannot be followed any further; and those that nobody was told of yet.
    stopped: HashSet<usize>,
    newly_stopped: Vec<StoppedTable>,
    /// Changes that could not be taken in.
    letters: Vec<DeadLetter>,
    floods: HashMap<usize, Flood>,
    /// A table was described anew: something may have changed that descriptions do not show.
    described_anew: bool,
    rows: usize,
    bytes: usize,
    committed_at: Option<i64>,
    nulled: u64,
}

/// What a relation of the stream is to us.
#[derive(Debug, Clone)]
enum Described {
    /// No table that is followed.
    Other,
    /// A table, where its columns stand in the relation, and how many the relation has.
    Table { table: usize, leaf: Option<Arc<str>>, places: Arc<[Option<usize>]>, width: usize },
    /// A table whose rows cannot be taken in as they are described, and why.
    Unfit(usize, String),
}

#[derive(Debug, Clone, Copy)]
struct Transaction {
    begin: Begin,
    /// Changes so far, of all tables, captured or not: restarts must number alike.
    order: i64,
    /// It has given rows.
    touched: bool,
}

/// A change that is to be taken in.
struct Change {
    table: usize,
    leaf: Option<Arc<str>>,
    relation: u32,
    stamp: Stamp,
    places: Arc<[Option<usize>]>,
    width: usize,
}

impl Assembler {
    pub(crate) fn new(tables: Vec<Followed>, known: Known) -> Self {
        let builder = |table: &Followed| {
            TableBuilder::new(
                Arc::clone(&table.definition.schema),
                table.durable.epoch,
                &table.definition.salt,
            )
        };
        let leaves = |(table, followed): (usize, &Followed)| {
            let leaves = followed.definition.schema.origin.leaves.clone();
            leaves.into_iter().map(move |leaf| (leaf.table, (table, leaf.name.into())))
        };
        Self {
            leaves: tables.iter().enumerate().flat_map(leaves).collect(),
            known,
            by_name: tables.iter().enumerate().map(|(i, t)| (t.definition.schema.id.clone(), i)).collect(),
            builders: tables.iter().map(builder).collect(),
            tables,
            relations: HashMap::new(),
            descriptions: HashMap::new(),
            transaction: None,
            stopped: HashSet::new(),
            newly_stopped: Vec::new(),
            letters: Vec::new(),
            floods: HashMap::new(),
            described_anew: false,
            rows: 0,
            bytes: 0,
            committed_at: None,
            nulled: 0,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Approximate size of the pending changes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn has_stopped(&self) -> bool {
        !self.newly_stopped.is_empty()
    }

    /// Whether a table was described a second time since the last call.
    pub(crate) fn take_described_anew(&mut self) -> bool {
        std::mem::take(&mut self.described_anew)
    }

    pub(crate) fn nulled(&self) -> u64 {
        self.nulled
    }

    /// Final LSN of the transaction that is open.
    pub(crate) fn open_transaction(&self) -> Option<Lsn> {
        self.transaction.map(|transaction| transaction.begin.final_lsn)
    }

    /// Whether rows of the open transaction have been taken in.
    pub(crate) fn is_inside_transaction(&self) -> bool {
        self.transaction.is_some_and(|transaction| transaction.touched)
    }

    /// Takes in a message, as it came, that lies at `lsn` in the log. A change of a row that cannot be taken in becomes a
    /// letter.
    pub(crate) fn read(&mut self, bytes: &[u8], lsn: Lsn) -> Result<(), CdcError> {
        match Message::decode(bytes) {
            Ok(Message::Begin(begin)) => self.begin(begin),
            Ok(Message::Commit { .. }) => self.commit(),
            Ok(Message::Relation(relation)) => {
                self.descriptions.insert(relation.id, bytes.to_vec());
                self.describe(&relation)
            }
            Ok(Message::Insert { relation, new }) => {
                self.take_in(relation, Op::Insert, bytes, lsn, |this, change| this.insert(change, new))
            }
            Ok(Message::Update { relation, old, new }) => {
                self.take_in(relation, Op::Update, bytes, lsn, |this, change| this.update(change, old, new))
            }
            Ok(Message::Delete { relation, old }) => {
                self.take_in(relation, Op::Delete, bytes, lsn, |this, change| {
                    this.delete(change, old.tuple())
                })
            }
            Ok(Message::Truncate { relations }) => self.truncate(relations, lsn),
            Ok(Message::Other) => Ok(()),
            Err(error) => match undecoded(bytes) {
                Some((op, relation)) => self.take_in(relation, op, bytes, lsn, |_, _| Err(error.into())),
                None => Err(error.into()),
            },
        }
    }

    pub(crate) fn begin(&mut self, begin: Begin) -> Result<(), CdcError> {
        match self.transaction.replace(Transaction { begin, order: 0, touched: false }) {
            None => Ok(()),
            Some(_) => Err(CdcError::Sequence("a transaction begins inside another".into())),
        }
    }

    pub(crate) fn commit(&mut self) -> Result<(), CdcError> {
        match self.transaction.take() {
            Some(_) => Ok(()),
            None => Err(CdcError::Sequence("a commit without a begin".into())),
        }
    }

    /// The tables that stopped since the last call.
    pub(crate) fn take_stopped(&mut self) -> Vec<StoppedTable> {
        std::mem::take(&mut self.newly_stopped)
    }

    /// Changes since the last call that could not be taken in.
    pub(crate) fn take_letters(&mut self) -> Vec<DeadLetter> {
        std::mem::take(&mut self.letters)
    }

    /// The open transaction's next change will be the one with this ordinal.
    pub(crate) fn skip_to(&mut self, order: i64) {
        if let Some(transaction) = &mut self.transaction {
            transaction.order = order - 1;
        }
    }

    /// The pending changes, at most one batch a table, and the newest commit time among them.
    pub(crate) fn take(&mut self) -> Result<(Vec<ChangeBatch>, Option<i64>), CdcError> {
        let mut batches = Vec::new();
        for builder in self.builders.iter_mut().filter(|builder| !builder.is_empty()) {
            self.nulled += std::mem::take(&mut builder.nulled);
            let batch = builder.finish()?;
            if batch.num_rows() > 0 {
                batches.push(batch);
            }
        }
        self.rows = 0;
        self.bytes = 0;
        Ok((batches, self.committed_at.take()))
    }

    fn push(
        &mut self,
        table: usize,
        op: Op,
        stamp: Stamp,
        row: &[Datum<'_>],
        old_key: Option<&[Datum<'_>]>,
        size: usize,
    ) -> Result<(), CdcError> {
        self.builders[table].push(op, stamp, row.iter().copied(), old_key)?;
        self.count(stamp, size);
        Ok(())
    }

    fn count(&mut self, stamp: Stamp, size: usize) {
        if let Some(transaction) = &mut self.transaction {
            transaction.touched = true;
        }
        self.rows += 1;
        self.bytes += size + BYTES_PER_CHANGE;
        self.committed_at = self.committed_at.max(Some(stamp.committed_at));
    }

    /// Takes in the change of a row, or sets it aside with its message.
    fn take_in(
        &mut self,
        relation: u32,
        op: Op,
        bytes: &[u8],
        lsn: Lsn,
        take: impl FnOnce(&mut Self, &Change) -> Result<(), CdcError>,
    ) -> Result<(), CdcError> {
        let Some(change) = self.change(relation, lsn)? else { return Ok(()) };
        take(self, &change).or_else(|error| self.set_aside(&change, op, bytes, &error))
    }

    /// Keeps a change that cannot be taken in, and why; too many of them stop their table.
    fn set_aside(&mut self, change: &Change, op: Op, bytes: &[u8], error: &CdcError) -> Result<(), CdcError> {
        let (table, stamp) = (change.table, change.stamp);
        let reason = error.with_causes();
        if let Err(flood) = self.floods.entry(table).or_default().admit(stamp.committed_at, &reason) {
            self.stop(table, flood.to_string(), StopCause::Rows);
            return Ok(());
        }
        self.count(stamp, bytes.len());
        let kept = if self.tables[table].definition.is_private() { Vec::new() } else { bytes.to_vec() };
        self.letters.push(DeadLetter {
            table: self.schema(table).id.clone(),
            position: stamp.position,
            op,
            lsn: stamp.lsn,
            xid: Some(stamp.xid),
            committed_at: Some(stamp.committed_at),
            reason,
            message: kept,
            relation: self.descriptions.get(&change.relation).cloned().unwrap_or_default(),
        });
        Ok(())
    }

    /// Numbers a change; gives it if it is one of a followed table, beyond what is durable there.
    fn change(&mut self, relation: u32, lsn: Lsn) -> Result<Option<Change>, CdcError> {
        let Some(transaction) = &mut self.transaction else {
            return Err(CdcError::Sequence("a change outside a transaction".into()));
        };
        let Some(described) = self.relations.get(&relation) else {
            return Err(CdcError::Sequence(format!("a change of relation {relation}, never described")));
        };
        transaction.order += 1;
        let table = match described {
            Described::Other => return Ok(None),
            Described::Table { table, .. } | Described::Unfit(table, _) => *table,
        };
        let durable = self.tables[table].durable;
        let position = Position {
            epoch: durable.epoch,
            commit: transaction.begin.final_lsn.as_i64(),
            order: transaction.order,
        };
        if position <= durable || self.stopped.contains(&table) {
            return Ok(None);
        }
        let stamp = Stamp {
            position,
            lsn: lsn.as_i64(),
            xid: i64::from(transaction.begin.xid),
            committed_at: transaction.begin.committed_at,
        };
        match described {
            Described::Table { leaf, places, width, .. } => {
                let (leaf, places) = (leaf.clone(), Arc::clone(places));
                Ok(Some(Change { table, leaf, relation, stamp, places, width: *width }))
            }
            Described::Unfit(_, reason) => {
                let reason = reason.clone();
                self.stop(table, reason, StopCause::Definition);
                Ok(None)
            }
            Described::Other => Ok(None),
        }
    }

    fn stop(&mut self, table: usize, reason: String, cause: StopCause) {
        if self.stopped.insert(table) {
            let id = self.schema(table).id.clone();
            let complete_to = self.open_transaction().unwrap_or_default();
            self.newly_stopped.push(StoppedTable { id, reason, cause, complete_to });
        }
    }

    fn schema(&self, table: usize) -> &TableSchema {
        &self.tables[table].definition.schema
    }

    fn bad(&self, table: usize, problem: &'static str) -> CdcError {
        CdcError::Row { table: self.schema(table).id.clone(), problem }
    }
}
