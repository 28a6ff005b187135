//! Messages of the stream to columnar batches with positions: no I/O.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use lakeward_change::{ChangeBatch, Lsn, Op, Position, StopCause, StoppedTable, TableId, TableSchema};

use crate::{
    CdcError,
    catalog::Definition,
    protocol::{Begin, Datum, Message, Old, Relation, Tuple},
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
    /// Relations the stream has described.
    relations: HashMap<u32, Described>,
    builders: Vec<TableBuilder>,
    transaction: Option<Transaction>,
    /// Tables that cannot be followed any further; and those that nobody was told of yet.
    stopped: HashSet<usize>,
    newly_stopped: Vec<StoppedTable>,
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
    Table { table: usize, places: Arc<[Option<usize>]>, width: usize },
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
    stamp: Stamp,
    places: Arc<[Option<usize>]>,
    width: usize,
}

impl Assembler {
    pub(crate) fn new(tables: Vec<Followed>) -> Self {
        let builder = |table: &Followed| {
            TableBuilder::new(
                Arc::clone(&table.definition.schema),
                table.durable.epoch,
                &table.definition.salt,
            )
        };
        Self {
            by_name: tables.iter().enumerate().map(|(i, t)| (t.definition.schema.id.clone(), i)).collect(),
            builders: tables.iter().map(builder).collect(),
            tables,
            relations: HashMap::new(),
            transaction: None,
            stopped: HashSet::new(),
            newly_stopped: Vec::new(),
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
                let Some(change) = self.change(relation, lsn)? else { return Ok(()) };
                let row = self.row(&change, new)?;
                if row.contains(&Datum::Unchanged) {
                    return Err(self.bad(change.table, "an inserted row lacks a value"));
                }
                self.push(change.table, Op::Insert, change.stamp, &row, None, new.size())
            }
            Message::Update { relation, old, new } => {
                let Some(change) = self.change(relation, lsn)? else { return Ok(()) };
                self.update(&change, old, new)
            }
            Message::Delete { relation, old } => {
                let Some(change) = self.change(relation, lsn)? else { return Ok(()) };
                self.delete(&change, old.tuple())
            }
            Message::Truncate { relations } => {
                for relation in relations {
                    let Some(change) = self.change(relation, lsn)? else { continue };
                    let nothing = vec![Datum::Null; change.places.len()];
                    self.push(change.table, Op::Truncate, change.stamp, &nothing, None, 0)?;
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

    fn push(
        &mut self,
        table: usize,
        op: Op,
        stamp: Stamp,
        row: &[Datum<'_>],
        old_key: Option<&[Datum<'_>]>,
        size: usize,
    ) -> Result<(), CdcError> {
        if let Some(column) = self.builders[table].lost_key(row.iter().copied(), old_key) {
            let id = self.schema(table).id.clone();
            let reason = CdcError::Key { table: id, column: column.to_owned() }.to_string();
            self.stop(table, reason, StopCause::Rows);
            return Ok(());
        }
        self.builders[table].push(op, stamp, row.iter().copied(), old_key)?;
        if let Some(transaction) = &mut self.transaction {
            transaction.touched = true;
        }
        self.rows += 1;
        self.bytes += size + BYTES_PER_CHANGE;
        self.committed_at = self.committed_at.max(Some(stamp.committed_at));
        Ok(())
    }

    fn update(&mut self, change: &Change, old: Option<Old<'_>>, new: Tuple<'_>) -> Result<(), CdcError> {
        let table = change.table;
        let key = &self.schema(table).key;
        let mut row = self.row(change, new)?;
        let Some(old) = old else {
            if key.iter().any(|&i| row[i] == Datum::Unchanged) {
                return Err(self.bad(table, "an updated row lacks a value of its key"));
            }
            return self.push(table, Op::Update, change.stamp, &row, None, new.size());
        };
        let before = self.row(change, old.tuple())?;
        let whole = matches!(old, Old::Full(_));
        for (i, datum) in row.iter_mut().enumerate() {
            // Key values and the rows of REPLICA IDENTITY FULL are logged in full, TOASTed or not.
            if *datum == Datum::Unchanged && (whole || key.contains(&i)) {
                *datum = before[i];
            }
        }
        let old_key: Vec<_> = key.iter().map(|&i| before[i]).collect();
        let new_key: Vec<_> = key.iter().map(|&i| row[i]).collect();
        if old_key.iter().chain(&new_key).any(|datum| *datum == Datum::Unchanged) {
            return Err(self.bad(table, "an updated row lacks a value of its key"));
        }
        let changed = (old_key != new_key).then_some(old_key.as_slice());
        self.push(table, Op::Update, change.stamp, &row, changed, new.size())
    }

    fn delete(&mut self, change: &Change, old: Tuple<'_>) -> Result<(), CdcError> {
        let key = &self.schema(change.table).key;
        let mut row = self.row(change, old)?;
        for (i, datum) in row.iter_mut().enumerate() {
            if !key.contains(&i) {
                *datum = Datum::Null;
            }
        }
        if row.contains(&Datum::Unchanged) {
            return Err(self.bad(change.table, "a deleted row lacks a value of its key"));
        }
        self.push(change.table, Op::Delete, change.stamp, &row, None, 0)
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
            Described::Table { places, width, .. } => {
                Ok(Some(Change { table, stamp, places: Arc::clone(places), width: *width }))
            }
            Described::Unfit(_, reason) => {
                let reason = reason.clone();
                self.stop(table, reason, StopCause::Definition);
                Ok(None)
            }
            Described::Other => Ok(None),
        }
    }

    /// A row's values in the order of the table's columns; what the relation lacks is null.
    fn row<'a>(&self, change: &Change, tuple: Tuple<'a>) -> Result<Vec<Datum<'a>>, CdcError> {
        if tuple.len() != change.width {
            return Err(
                self.bad(change.table, "a row has another number of columns than the table's description")
            );
        }
        let datums: Vec<_> = tuple.iter().collect();
        let at = |place: &Option<usize>| place.and_then(|place| datums.get(place).copied());
        Ok(change.places.iter().map(|place| at(place).unwrap_or(Datum::Null)).collect())
    }

    fn describe(&mut self, relation: &Relation) {
        let id = TableId::new(relation.schema.as_str(), relation.name.as_str());
        let by_oid = self.tables.iter().position(|table| table.definition.oid == relation.id);
        let described = match by_oid.or_else(|| self.by_name.get(&id).copied()) {
            None => Described::Other,
            Some(table) => match places(&self.tables[table].definition, relation) {
                Ok(places) => {
                    Described::Table { table, places: places.into(), width: relation.columns.len() }
                }
                Err(difference) => Described::Unfit(table, format!("its definition changed: {difference}")),
            },
        };
        let followed = !matches!(described, Described::Other);
        if self.relations.insert(relation.id, described).is_some() && followed {
            self.described_anew = true;
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

    fn bad(&self, table: usize, what: &str) -> CdcError {
        CdcError::Sequence(format!("{what}, in table {}", self.schema(table).id))
    }
}

/// Where the table's columns stand in a relation of the stream, or why its rows are not the table's. Columns that the
/// relation does not have yet, since it describes older rows, are null there.
fn places(table: &Definition, relation: &Relation) -> Result<Vec<Option<usize>>, String> {
    let schema = &table.schema;
    if relation.id != table.oid {
        return Err("it was dropped and created anew".into());
    }
    if relation.schema != schema.id.schema || relation.name != schema.id.name {
        return Err(format!("it was renamed to {}.{}", relation.schema, relation.name));
    }
    for column in &relation.columns {
        let known = table.ignores_new
            || table.left_out.contains(&column.name)
            || (0..schema.columns.len()).any(|known| schema.source_name(known) == column.name);
        if !known {
            return Err(format!("column {} was added", column.name));
        }
    }
    let place = |name: &str| relation.columns.iter().position(|column| column.name == name);
    let places: Vec<_> = (0..schema.columns.len()).map(|column| place(schema.source_name(column))).collect();
    // A column that came later stands behind all others.
    let present = places.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    for (index, (known, types)) in schema.columns.iter().zip(&table.types).enumerate() {
        let is_key = relation.identity == b'f' || schema.key.contains(&index);
        match places[index].map(|place| &relation.columns[place]) {
            None if index < present || is_key => return Err(format!("column {} is gone", known.name)),
            None => {}
            Some(column) if *types != (column.type_oid, column.type_modifier) => {
                return Err(format!("column {} is no longer {}", known.name, known.source_type));
            }
            Some(column) if column.key != is_key => return Err("its key has other columns".into()),
            Some(_) => {}
        }
    }
    if relation.identity != table.identity {
        return Err("its REPLICA IDENTITY is another one".into());
    }
    Ok(places)
}

#[cfg(test)]
mod tests;
