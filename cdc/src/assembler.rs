//! Messages of the stream to columnar batches with positions: no I/O.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use lakeward_change::{
    ChangeBatch, DeadLetter, Lsn, Op, Position, StopCause, StoppedTable, TableId, TableSchema,
};

use crate::{
    CdcError,
    catalog::Definition,
    known::Known,
    letter::Flood,
    protocol::{Begin, Datum, Message, Old, ProtocolError, Relation, Tuple, undecoded},
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
        let message = match Message::decode(bytes) {
            Ok(message) => message,
            Err(error) => return self.undecoded(bytes, lsn, error),
        };
        if let Message::Relation(relation) = &message {
            self.descriptions.insert(relation.id, bytes.to_vec());
        }
        let (op, relation) = match message {
            Message::Insert { relation, .. } => (Op::Insert, relation),
            Message::Update { relation, .. } => (Op::Update, relation),
            Message::Delete { relation, .. } => (Op::Delete, relation),
            message => return self.accept(message, lsn),
        };
        let Some(change) = self.change(relation, lsn)? else { return Ok(()) };
        let taken = match message {
            Message::Insert { new, .. } => self.insert(&change, new),
            Message::Update { old, new, .. } => self.update(&change, old, new),
            Message::Delete { old, .. } => self.delete(&change, old.tuple()),
            _ => Ok(()),
        };
        taken.or_else(|error| self.set_aside(&change, op, bytes, &error))
    }

    /// Takes in a message that is no change of a row.
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
            Message::Relation(relation) => self.describe(&relation),
            Message::Truncate { relations } => {
                for relation in relations {
                    let Some(change) = self.change(relation, lsn)? else { continue };
                    let mut nothing = vec![Datum::Null; change.places.len()];
                    self.name_leaf(&change, &mut nothing);
                    self.push(change.table, Op::Truncate, change.stamp, &nothing, None, 0)?;
                }
                Ok(())
            }
            Message::Insert { .. } | Message::Update { .. } | Message::Delete { .. } | Message::Other => {
                Ok(())
            }
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

    fn undecoded(&mut self, bytes: &[u8], lsn: Lsn, error: ProtocolError) -> Result<(), CdcError> {
        let Some((op, relation)) = undecoded(bytes) else { return Err(error.into()) };
        let Some(change) = self.change(relation, lsn)? else { return Ok(()) };
        self.set_aside(&change, op, bytes, &error.into())
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

    fn insert(&mut self, change: &Change, new: Tuple<'_>) -> Result<(), CdcError> {
        let row = self.row(change, new)?;
        if row.contains(&Datum::Unchanged) {
            return Err(self.bad(change.table, "is inserted and lacks a value"));
        }
        self.push(change.table, Op::Insert, change.stamp, &row, None, new.size())
    }

    fn update(&mut self, change: &Change, old: Option<Old<'_>>, new: Tuple<'_>) -> Result<(), CdcError> {
        let table = change.table;
        let key = &self.schema(table).key;
        let mut row = self.row(change, new)?;
        let Some(old) = old else {
            if self.schema(table).counts_rows() || key.iter().any(|&i| row[i] == Datum::Unchanged) {
                return Err(self.bad(table, "is updated and lacks a value of its key"));
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
            return Err(self.bad(table, "is updated and lacks a value of its key"));
        }
        let changed = (old_key != new_key).then_some(old_key.as_slice());
        let size = new.size() + if self.schema(table).counts_rows() { old.tuple().size() } else { 0 };
        self.push(table, Op::Update, change.stamp, &row, changed, size)
    }

    fn delete(&mut self, change: &Change, old: Tuple<'_>) -> Result<(), CdcError> {
        let key = &self.schema(change.table).key;
        let mut row = self.row(change, old)?;
        let whole = self.schema(change.table).counts_rows();
        for (i, datum) in row.iter_mut().enumerate() {
            if !whole && !key.contains(&i) {
                *datum = Datum::Null;
            }
        }
        if row.contains(&Datum::Unchanged) {
            return Err(self.bad(change.table, "is deleted and lacks a value of its key"));
        }
        self.push(change.table, Op::Delete, change.stamp, &row, None, if whole { old.size() } else { 0 })
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

    /// A row's values in the order of the table's columns; what the relation lacks is null.
    fn row<'a>(&self, change: &'a Change, tuple: Tuple<'a>) -> Result<Vec<Datum<'a>>, CdcError> {
        if tuple.len() != change.width {
            return Err(
                self.bad(change.table, "has another number of columns than the description of its table")
            );
        }
        let datums: Vec<_> = tuple.iter().collect();
        let at = |place: &Option<usize>| place.and_then(|place| datums.get(place).copied());
        let mut row: Vec<_> = change.places.iter().map(|place| at(place).unwrap_or(Datum::Null)).collect();
        self.name_leaf(change, &mut row);
        Ok(row)
    }

    /// Says in which partition a row is: the relation is that.
    fn name_leaf<'a>(&self, change: &'a Change, row: &mut [Datum<'a>]) {
        if let (Some(leaf), Some(column)) = (&change.leaf, self.schema(change.table).leaf()) {
            row[column] = Datum::Text(leaf.as_bytes());
        }
    }

    fn describe(&mut self, relation: &Relation) -> Result<(), CdcError> {
        let id = TableId::new(relation.schema.as_str(), relation.name.as_str());
        let by_oid = self.tables.iter().position(|table| table.definition.oid == relation.id);
        let described = if let Some((table, leaf)) = self.leaves.get(&relation.id) {
            self.fit(*table, Some(leaf), relation, &id)
        } else if let Some(table) = by_oid.or_else(|| self.by_name.get(&id).copied()) {
            self.fit(table, None, relation, &id)
        } else if self.known.has(relation.id)
            || self.transaction.is_some_and(|t| self.known.has_seen(t.begin.xid))
        {
            // Not followed; or it was there once, and is gone with its rows.
            Described::Other
        } else {
            return Err(CdcError::NewRelation { relation: id.to_string() });
        };
        let followed = !matches!(described, Described::Other);
        if self.relations.insert(relation.id, described).is_some() && followed {
            self.described_anew = true;
        }
        Ok(())
    }

    /// What a relation is that has a table's rows.
    fn fit(&self, table: usize, leaf: Option<&Arc<str>>, relation: &Relation, id: &TableId) -> Described {
        let definition = &self.tables[table].definition;
        let leaf = leaf.cloned();
        // A partition's new name is the catalog's to tell.
        let same = if leaf.is_some() { Ok(()) } else { is_same(definition, relation.id, id) };
        let fitting = same.and_then(|()| places(definition, relation));
        match fitting {
            Ok(places) => {
                Described::Table { table, leaf, places: places.into(), width: relation.columns.len() }
            }
            Err(difference) => Described::Unfit(table, format!("its definition changed: {difference}")),
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

fn is_same(table: &Definition, oid: u32, id: &TableId) -> Result<(), String> {
    if oid != table.oid {
        return Err("it was dropped and created anew".into());
    }
    if *id != table.schema.id {
        return Err(format!("it was renamed to {id}"));
    }
    if table.partitioned {
        return Err("its publication did not tell of its partitions".into());
    }
    Ok(())
}

/// Where the table's columns stand in a relation of the stream, or why its rows are not the table's. Columns that the
/// relation does not have yet, since it describes older rows, are null there.
fn places(table: &Definition, relation: &Relation) -> Result<Vec<Option<usize>>, String> {
    let schema = &table.schema;
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
            Some(column) if column.key != is_key && !schema.is_history() => {
                return Err("its key has other columns".into());
            }
            Some(_) => {}
        }
    }
    if relation.identity != table.identity {
        return Err("its REPLICA IDENTITY is another one".into());
    }
    Ok(places)
}

#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;
