//! Messages of the stream to columnar batches with positions: no I/O.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use lakeward_change::{ChangeBatch, Lsn, Op, Position, StoppedTable, TableId};

use crate::{
    CdcError,
    catalog::Definition,
    protocol::{Begin, Datum, Message, Old, Relation, Tuple},
    table_builder::{Stamp, TableBuilder},
};

/// Bookkeeping of a change in memory, beside its values: six numbers and an operation.
const BYTES_PER_CHANGE: usize = 48;

#[derive(Debug)]
pub(crate) struct Assembler {
    epoch: i64,
    tables: Vec<Definition>,
    by_name: HashMap<TableId, usize>,
    /// Relations the stream has described; `None` for tables that are not captured.
    relations: HashMap<u32, Option<usize>>,
    builders: Vec<TableBuilder>,
    transaction: Option<Transaction>,
    /// Tables whose definition changed, or whose key the lake cannot hold; and those that nobody was told of yet.
    stopped: HashSet<usize>,
    newly_stopped: Vec<StoppedTable>,
    rows: usize,
    bytes: usize,
    committed_at: Option<i64>,
    nulled: u64,
}

#[derive(Debug, Clone, Copy)]
struct Transaction {
    begin: Begin,
    /// Changes so far, of all tables, captured or not: restarts must number alike.
    order: i64,
    /// It has given rows.
    touched: bool,
}

impl Assembler {
    pub(crate) fn new(tables: Vec<Definition>, epoch: i64) -> Self {
        let builder = |table: &Definition| TableBuilder::new(Arc::clone(&table.schema), epoch);
        Self {
            epoch,
            by_name: tables.iter().enumerate().map(|(i, t)| (t.schema.id.clone(), i)).collect(),
            builders: tables.iter().map(builder).collect(),
            tables,
            relations: HashMap::new(),
            transaction: None,
            stopped: HashSet::new(),
            newly_stopped: Vec::new(),
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

    /// Takes in a message that lies at `lsn` in the log.
    pub(crate) fn accept(&mut self, message: Message<'_>, lsn: Lsn) -> Result<(), CdcError> {
        match message {
            Message::Begin(begin) => {
                match self.transaction.replace(Transaction { begin, order: 0, touched: false }) {
                    None => Ok(()),
                    Some(_) => Err(CdcError::Sequence("a transaction begins inside another".into())),
                }
            }
            Message::Commit { .. } => match self.transaction.take() {
                Some(_) => Ok(()),
                None => Err(CdcError::Sequence("a commit without a begin".into())),
            },
            Message::Relation(relation) => {
                self.describe(&relation);
                Ok(())
            }
            Message::Insert { relation, new } => {
                let (table, stamp) = self.change(relation, lsn)?;
                let Some(table) = table else { return Ok(()) };
                self.check_width(table, new)?;
                if new.iter().any(|datum| datum == Datum::Unchanged) {
                    return Err(self.bad(table, "an inserted row lacks a value"));
                }
                self.push(table, Op::Insert, stamp, new.iter(), None, new.size())
            }
            Message::Update { relation, old, new } => {
                let (table, stamp) = self.change(relation, lsn)?;
                let Some(table) = table else { return Ok(()) };
                self.update(table, stamp, old, new)
            }
            Message::Delete { relation, old } => {
                let (table, stamp) = self.change(relation, lsn)?;
                let Some(table) = table else { return Ok(()) };
                self.delete(table, stamp, old.tuple())
            }
            Message::Truncate { relations } => {
                for relation in relations {
                    let (table, stamp) = self.change(relation, lsn)?;
                    let Some(table) = table else { continue };
                    let nothing = vec![Datum::Null; self.tables[table].schema.columns.len()];
                    self.push(table, Op::Truncate, stamp, nothing.into_iter(), None, 0)?;
                }
                Ok(())
            }
            Message::Other => Ok(()),
        }
    }

    /// The tables that stopped since the last call.
    pub(crate) fn take_stopped(&mut self) -> Vec<StoppedTable> {
        std::mem::take(&mut self.newly_stopped)
    }

    /// The pending changes, at most one batch a table, and the newest commit time among them.
    pub(crate) fn take(&mut self) -> Result<(Vec<ChangeBatch>, Option<i64>), CdcError> {
        let mut batches = Vec::new();
        for builder in self.builders.iter_mut().filter(|builder| !builder.is_empty()) {
            self.nulled += std::mem::take(&mut builder.nulled);
            batches.push(builder.finish()?);
        }
        self.rows = 0;
        self.bytes = 0;
        Ok((batches, self.committed_at.take()))
    }

    fn push<'a>(
        &mut self,
        table: usize,
        op: Op,
        stamp: Stamp,
        row: impl Iterator<Item = Datum<'a>> + Clone,
        old_key: Option<&[Datum<'a>]>,
        size: usize,
    ) -> Result<(), CdcError> {
        if let Some(column) = self.builders[table].lost_key(row.clone(), old_key) {
            let id = self.tables[table].schema.id.clone();
            let reason = CdcError::Key { table: id, column: column.to_owned() }.to_string();
            self.stop(table, reason);
            return Ok(());
        }
        self.builders[table].push(op, stamp, row, old_key)?;
        if let Some(transaction) = &mut self.transaction {
            transaction.touched = true;
        }
        self.rows += 1;
        self.bytes += size + BYTES_PER_CHANGE;
        self.committed_at = self.committed_at.max(Some(stamp.committed_at));
        Ok(())
    }

    fn update(
        &mut self,
        table: usize,
        stamp: Stamp,
        old: Option<Old<'_>>,
        new: Tuple<'_>,
    ) -> Result<(), CdcError> {
        self.check_width(table, new)?;
        let key = &self.tables[table].schema.key;
        let Some(old) = old else {
            let datums: Vec<_> = new.iter().collect();
            if key.iter().any(|&i| datums[i] == Datum::Unchanged) {
                return Err(self.bad(table, "an updated row lacks a value of its key"));
            }
            return self.push(table, Op::Update, stamp, datums.into_iter(), None, new.size());
        };
        self.check_width(table, old.tuple())?;
        let before: Vec<_> = old.tuple().iter().collect();
        let whole = matches!(old, Old::Full(_));
        let after: Vec<_> = new
            .iter()
            .enumerate()
            .map(|(i, datum)| match datum {
                // Key values and the rows of REPLICA IDENTITY FULL are logged in full, TOASTed or not.
                Datum::Unchanged if whole || key.contains(&i) => before[i],
                datum => datum,
            })
            .collect();
        let old_key: Vec<_> = key.iter().map(|&i| before[i]).collect();
        let new_key: Vec<_> = key.iter().map(|&i| after[i]).collect();
        if old_key.iter().chain(&new_key).any(|datum| *datum == Datum::Unchanged) {
            return Err(self.bad(table, "an updated row lacks a value of its key"));
        }
        let changed = (old_key != new_key).then_some(old_key.as_slice());
        self.push(table, Op::Update, stamp, after.into_iter(), changed, new.size())
    }

    fn delete(&mut self, table: usize, stamp: Stamp, old: Tuple<'_>) -> Result<(), CdcError> {
        self.check_width(table, old)?;
        let key = &self.tables[table].schema.key;
        let row: Vec<_> = old
            .iter()
            .enumerate()
            .map(|(i, datum)| if key.contains(&i) { datum } else { Datum::Null })
            .collect();
        if row.contains(&Datum::Unchanged) {
            return Err(self.bad(table, "a deleted row lacks a value of its key"));
        }
        self.push(table, Op::Delete, stamp, row.into_iter(), None, 0)
    }

    /// Numbers a change and says which captured table it is of.
    fn change(&mut self, relation: u32, lsn: Lsn) -> Result<(Option<usize>, Stamp), CdcError> {
        let Some(transaction) = &mut self.transaction else {
            return Err(CdcError::Sequence("a change outside a transaction".into()));
        };
        let Some(table) = self.relations.get(&relation) else {
            return Err(CdcError::Sequence(format!("a change of relation {relation}, never described")));
        };
        transaction.order += 1;
        let stamp = Stamp {
            position: Position {
                epoch: self.epoch,
                commit: transaction.begin.final_lsn.as_i64(),
                order: transaction.order,
            },
            lsn: lsn.as_i64(),
            xid: i64::from(transaction.begin.xid),
            committed_at: transaction.begin.committed_at,
        };
        Ok((*table, stamp))
    }

    /// A table that is described otherwise than it was captured stops; a later return to the old form does not help.
    fn describe(&mut self, relation: &Relation) {
        let id = TableId::new(relation.schema.as_str(), relation.name.as_str());
        let named = self.by_name.get(&id).copied();
        let known = self.tables.iter().position(|table| table.oid == relation.id);
        if let Some(table) = known.or(named)
            && let Some(difference) = difference(&self.tables[table], relation)
        {
            let at = self.open_transaction().unwrap_or_default();
            self.stop(table, format!("its definition changed in the source at or before {at}: {difference}"));
        }
        self.relations.insert(relation.id, known.filter(|table| !self.stopped.contains(table)));
    }

    fn stop(&mut self, table: usize, reason: String) {
        if self.stopped.insert(table) {
            for known in self.relations.values_mut() {
                known.take_if(|known| *known == table);
            }
            self.newly_stopped.push(StoppedTable { id: self.tables[table].schema.id.clone(), reason });
        }
    }

    fn check_width(&self, table: usize, tuple: Tuple<'_>) -> Result<(), CdcError> {
        if tuple.len() == self.tables[table].schema.columns.len() {
            return Ok(());
        }
        Err(self.bad(table, "a row has another number of columns than the table's description"))
    }

    fn bad(&self, table: usize, what: &str) -> CdcError {
        CdcError::Sequence(format!("{what}, in table {}", self.tables[table].schema.id))
    }
}

/// How the stream's description of a table differs from the captured one.
fn difference(table: &Definition, relation: &Relation) -> Option<String> {
    let schema = &table.schema;
    if relation.id != table.oid {
        return Some("it was dropped and created anew".into());
    }
    if relation.schema != schema.id.schema || relation.name != schema.id.name {
        return Some(format!("it was renamed to {}.{}", relation.schema, relation.name));
    }
    for column in &relation.columns {
        if !schema.columns.iter().any(|known| known.name == column.name) {
            return Some(format!("column {} was added", column.name));
        }
    }
    for known in &schema.columns {
        if !relation.columns.iter().any(|column| column.name == known.name) {
            return Some(format!("column {} is gone", known.name));
        }
    }
    for ((known, types), column) in schema.columns.iter().zip(&table.types).zip(&relation.columns) {
        if known.name != column.name {
            return Some(format!("column {} stands where {} was", column.name, known.name));
        }
        if *types != (column.type_oid, column.type_modifier) {
            return Some(format!("column {} is no longer {}", known.name, known.source_type));
        }
    }
    if relation.identity != table.identity {
        return Some("its REPLICA IDENTITY is another one".into());
    }
    let is_key = |i: usize| relation.identity == b'f' || schema.key.contains(&i);
    if relation.columns.iter().enumerate().any(|(i, column)| column.key != is_key(i)) {
        return Some("its key has other columns".into());
    }
    None
}

#[cfg(test)]
mod tests;
