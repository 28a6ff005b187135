//! Folding: what remains of a run of changes is the last one of each key.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arrow::{
    array::{
        Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array,
        new_null_array,
    },
    compute::interleave,
    error::ArrowError,
    row::{Row, RowConverter, Rows, SortField},
};

use crate::{ChangeBatch, Op, Position, RawBuilder, TableId, TableSchema, raw_of, raw_text, with_raw};

/// Changes that cannot be folded: the run is not what its source promised, or was cut wrongly.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    #[error("a run of changes of {table} holds a truncate: split it there first")]
    Truncate { table: String },
    #[error("a change of {table} at {position:?} keeps values of a row that was deleted before it")]
    RowGone { table: TableId, position: Position },
    #[error(
        "{missing} rows of {table} that hold unchanged values are not in the stored table: copy the table anew"
    )]
    NotStored { table: TableId, missing: usize },
    #[error("batches of {table} do not match its columns")]
    Arrow {
        table: String,
        #[source]
        source: ArrowError,
    },
}

/// The changes that lie after a durable position.
pub fn after(batches: &[ChangeBatch], durable: Position) -> Vec<ChangeBatch> {
    batches
        .iter()
        .filter_map(|batch| {
            let first = first_after(batch, durable);
            (first < batch.num_rows()).then(|| batch.slice(first, batch.num_rows() - first))
        })
        .collect()
}

fn first_after(batch: &ChangeBatch, durable: Position) -> usize {
    let (mut low, mut high) = (0, batch.num_rows());
    while low < high {
        let middle = low + (high - low) / 2;
        if batch.position(middle) <= durable { low = middle + 1 } else { high = middle }
    }
    low
}

/// Cuts a run of changes in two at its middle change; `None` if there is but one.
pub fn halves(batches: &[ChangeBatch]) -> Option<(Vec<ChangeBatch>, Vec<ChangeBatch>)> {
    let mut left = batches.iter().map(ChangeBatch::num_rows).sum::<usize>() / 2;
    if left == 0 {
        return None;
    }
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for batch in batches {
        let here = left.min(batch.num_rows());
        left -= here;
        if here > 0 {
            first.push(batch.slice(0, here));
        }
        if here < batch.num_rows() {
            rest.push(batch.slice(here, batch.num_rows() - here));
        }
    }
    Some((first, rest))
}

/// A part of a run of changes.
#[derive(Debug, Clone)]
pub enum Segment {
    /// Changes of rows; none is a truncate.
    Changes(Vec<ChangeBatch>),
    /// All rows that are older were removed.
    Truncate(Position),
    /// All rows in these partitions that are older were removed, by truncates of which this is the last one's place.
    TruncateLeaves(Position, BTreeSet<String>),
}

/// Splits a run at its truncates. Before the last truncate of a whole table nothing matters, but all is kept; truncates of
/// partitions that follow each other are one segment.
pub fn split_at_truncates(batches: &[ChangeBatch]) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut changes = Vec::new();
    for batch in batches {
        let mut start = 0;
        let truncates = batch.ops.iter().enumerate().filter(|(_, op)| **op == Op::Truncate);
        for (row, _) in truncates {
            if row > start {
                changes.push(batch.slice(start, row - start));
            }
            if !changes.is_empty() {
                segments.push(Segment::Changes(std::mem::take(&mut changes)));
            }
            let position = batch.position(row);
            match (batch.truncated_leaf(row), segments.last_mut()) {
                (None, _) => segments.push(Segment::Truncate(position)),
                (Some(leaf), Some(Segment::TruncateLeaves(last, leaves))) => {
                    *last = position;
                    leaves.insert(leaf.to_owned());
                }
                (Some(leaf), _) => {
                    segments.push(Segment::TruncateLeaves(position, BTreeSet::from([leaf.to_owned()])));
                }
            }
            start = row + 1;
        }
        if start < batch.num_rows() {
            changes.push(batch.slice(start, batch.num_rows() - start));
        }
    }
    if !changes.is_empty() {
        segments.push(Segment::Changes(changes));
    }
    segments
}

/// One row for each key that a run of changes touched, in the order of first touch.
#[derive(Debug, Clone)]
pub struct Folded {
    pub table: Arc<TableSchema>,
    pub epoch: i64,
    /// The rows as the run leaves them, in the schema [`TableSchema::arrow`], perhaps with [`crate::RAW`]; of deleted rows,
    /// the key.
    pub values: RecordBatch,
    pub deleted: BooleanArray,
    /// The position of each row's last change.
    pub commits: Int64Array,
    pub orders: Int64Array,
    /// Keys, in the schema [`TableSchema::key_arrow`], of stored rows that hold values which the run kept.
    pub stored_keys: RecordBatch,
    /// For each column, the index in `stored_keys` of the row that holds the value; null where `values` has it.
    /// `None` for columns that are whole.
    pub unresolved: Vec<Option<UInt32Array>>,
}

/// Where a column's value is.
#[derive(Clone, Copy)]
enum Source {
    /// In the run: batch and row.
    Run(usize, usize),
    /// In the stored row of this key.
    Stored(u32),
}

enum State {
    Deleted,
    /// All values lie in the row of the last change.
    Whole,
    /// One source a column.
    Pieced(Box<[Source]>),
}

struct Slot<'a> {
    key: Row<'a>,
    last: (usize, usize),
    state: State,
}

/// Folds changes of one table, in position order, to the last change of each key.
///
/// Values that the source did not send, because they are unchanged, are taken from the row's earlier change in the
/// run, under its old key if the key changed; where the run has none, they are named in [`Folded::unresolved`].
///
/// # Errors
/// A run that holds a truncate ([`split_at_truncates`]), or one that updates a row it deleted before.
///
/// # Panics
/// If `batches` is empty: there is no table to speak of.
pub fn fold(batches: &[ChangeBatch]) -> Result<Folded, FoldError> {
    let table = &batches[0].table;
    let arrow = |source| FoldError::Arrow { table: table.id.to_string(), source };
    let converter = key_converter(table).map_err(arrow)?;
    let keys: Vec<Rows> = batches
        .iter()
        .map(|batch| converter.convert_columns(&key_columns(table, &batch.values)))
        .collect::<Result<_, _>>()
        .map_err(arrow)?;
    let old_keys: Vec<Option<Rows>> = batches
        .iter()
        .map(|batch| batch.old_keys.as_ref().map(|old| converter.convert_columns(old.columns())).transpose())
        .collect::<Result<_, _>>()
        .map_err(arrow)?;

    let mut run = Run { columns: table.columns.len(), ..Run::default() };
    for (index, batch) in batches.iter().enumerate() {
        let masked = batch.unavailable.iter().any(Option::is_some);
        for (row, op) in batch.ops.iter().enumerate() {
            let at = (index, row);
            let key = keys[index].row(row);
            let old_key = batch
                .old_keys
                .as_ref()
                .filter(|old| old.is_valid(row))
                .and_then(|_| old_keys[index].as_ref())
                .map(|old| old.row(row))
                .filter(|old| *old != key);
            match op {
                Op::Truncate => return Err(FoldError::Truncate { table: table.id.to_string() }),
                Op::Delete => run.set(key, at, State::Deleted),
                Op::Read | Op::Insert | Op::Update => {
                    let state =
                        if masked { run.pieced(batch, at, old_key.unwrap_or(key))? } else { State::Whole };
                    if let Some(old) = old_key {
                        run.set(old, at, State::Deleted);
                    }
                    run.set(key, at, state);
                }
            }
        }
    }
    run.finish(batches, &converter).map_err(arrow)
}

#[derive(Default)]
struct Run<'a> {
    columns: usize,
    index: HashMap<Row<'a>, usize>,
    slots: Vec<Slot<'a>>,
    stored_index: HashMap<Row<'a>, u32>,
    stored: Vec<Row<'a>>,
}

impl<'a> Run<'a> {
    fn set(&mut self, key: Row<'a>, last: (usize, usize), state: State) {
        let next = self.slots.len();
        let slot = *self.index.entry(key).or_insert(next);
        if slot == next {
            self.slots.push(Slot { key, last, state });
        } else {
            self.slots[slot].last = last;
            self.slots[slot].state = state;
        }
    }

    /// Where each value of an updated row is, given the key its row had before.
    fn pieced(
        &mut self,
        batch: &ChangeBatch,
        at: (usize, usize),
        before: Row<'a>,
    ) -> Result<State, FoldError> {
        let unavailable =
            |column: usize| batch.unavailable[column].as_ref().is_some_and(|mask| mask.value(at.1));
        if !(0..self.columns).any(unavailable) {
            return Ok(State::Whole);
        }
        let mut sources = vec![Source::Run(at.0, at.1); self.columns].into_boxed_slice();
        for (column, source) in sources.iter_mut().enumerate() {
            if unavailable(column) {
                *source = self.source(before, column).ok_or_else(|| FoldError::RowGone {
                    table: batch.table.id.clone(),
                    position: batch.position(at.1),
                })?;
            }
        }
        Ok(State::Pieced(sources))
    }

    /// `None` if the row was deleted.
    fn source(&mut self, key: Row<'a>, column: usize) -> Option<Source> {
        let Some(&slot) = self.index.get(&key) else {
            let next = self.stored.len();
            let stored = *self.stored_index.entry(key).or_insert(next as u32);
            if stored as usize == next {
                self.stored.push(key);
            }
            return Some(Source::Stored(stored));
        };
        match &self.slots[slot] {
            Slot { state: State::Deleted, .. } => None,
            Slot { state: State::Whole, last, .. } => Some(Source::Run(last.0, last.1)),
            Slot { state: State::Pieced(sources), .. } => Some(sources[column]),
        }
    }

    fn finish(self, batches: &[ChangeBatch], converter: &RowConverter) -> Result<Folded, ArrowError> {
        let table = &batches[0].table;
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.columns];
        let mut unresolved = vec![None; self.columns];
        let keys = converter.convert_rows(self.slots.iter().map(|slot| slot.key))?;
        for (&column, key) in table.key.iter().zip(keys) {
            columns[column] = Some(key);
        }
        for (column, values) in columns.iter_mut().enumerate() {
            if values.is_none() {
                *values = Some(self.gather(batches, column)?);
                unresolved[column] = self.unresolved(column);
            }
        }
        let position = |pick: fn(&ChangeBatch) -> &Int64Array| -> Int64Array {
            self.slots.iter().map(|slot| Some(pick(&batches[slot.last.0]).value(slot.last.1))).collect()
        };
        Ok(Folded {
            table: Arc::clone(table),
            epoch: batches[0].epoch,
            values: with_raw(
                RecordBatch::try_new(table.arrow(), columns.into_iter().flatten().collect())?,
                self.raw(batches)?,
            )?,
            deleted: self.slots.iter().map(|slot| Some(matches!(slot.state, State::Deleted))).collect(),
            commits: position(|batch| &batch.commits),
            orders: position(|batch| &batch.orders),
            stored_keys: RecordBatch::try_new_with_options(
                table.key_arrow(),
                converter.convert_rows(self.stored.iter().copied())?,
                &RecordBatchOptions::new().with_row_count(Some(self.stored.len())),
            )?,
            unresolved,
        })
    }

    /// The column's values from wherever in the run they are; null for deleted rows and where a stored row has them.
    fn gather(&self, batches: &[ChangeBatch], column: usize) -> Result<ArrayRef, ArrowError> {
        let null = new_null_array(batches[0].values.column(column).data_type(), 1);
        let arrays: Vec<&dyn Array> = std::iter::once(&null)
            .chain(batches.iter().map(|batch| batch.values.column(column)))
            .map(AsRef::as_ref)
            .collect();
        let picks: Vec<(usize, usize)> = self
            .slots
            .iter()
            .map(|slot| match &slot.state {
                State::Deleted => (0, 0),
                State::Whole => (slot.last.0 + 1, slot.last.1),
                State::Pieced(sources) => match sources[column] {
                    Source::Run(batch, row) => (batch + 1, row),
                    Source::Stored(_) => (0, 0),
                },
            })
            .collect();
        interleave(&arrays, &picks)
    }

    fn unresolved(&self, column: usize) -> Option<UInt32Array> {
        let stored: UInt32Array = self
            .slots
            .iter()
            .map(|slot| match &slot.state {
                State::Pieced(sources) => match sources[column] {
                    Source::Stored(key) => Some(key),
                    Source::Run(..) => None,
                },
                State::Deleted | State::Whole => None,
            })
            .collect();
        (stored.null_count() < stored.len()).then_some(stored)
    }
}

impl Folded {
    /// The columns whose values are still missing.
    pub fn unresolved_columns(&self) -> impl Iterator<Item = usize> {
        self.unresolved.iter().enumerate().filter(|(_, stored)| stored.is_some()).map(|(column, _)| column)
    }

    /// Fills in the values that the run kept. `stored` holds rows, in any order and maybe more than asked for, of the
    /// key's columns, the unresolved ones and, if the table has it, [`crate::RAW`], by name.
    ///
    /// # Errors
    /// If a row of [`Self::stored_keys`] is not in `stored`.
    pub fn resolve(mut self, stored: &RecordBatch) -> Result<Self, FoldError> {
        let table = Arc::clone(&self.table);
        let arrow = |source| FoldError::Arrow { table: table.id.to_string(), source };
        let by_name = |name: &str| {
            stored
                .column_by_name(name)
                .ok_or_else(|| arrow(ArrowError::SchemaError(format!("stored rows lack the column {name}"))))
        };
        let converter = key_converter(&table).map_err(arrow)?;
        let wanted = converter.convert_columns(self.stored_keys.columns()).map_err(arrow)?;
        let key_columns =
            table.key_names().map(|name| by_name(name).cloned()).collect::<Result<Vec<_>, _>>()?;
        let held = converter.convert_columns(&key_columns).map_err(arrow)?;
        let rows: HashMap<Row<'_>, usize> = held.iter().enumerate().map(|(row, key)| (key, row)).collect();
        let found: Vec<Option<usize>> = wanted.iter().map(|key| rows.get(&key).copied()).collect();
        let missing = found.iter().filter(|row| row.is_none()).count();
        if missing > 0 {
            return Err(FoldError::NotStored { table: table.id.clone(), missing });
        }
        let mut columns = self.values.columns()[..table.columns.len()].to_vec();
        let (mut texts, stored_texts) = (self.texts(), raw_of(stored));
        for (column, unresolved) in self.unresolved.iter_mut().enumerate() {
            let Some(keys) = unresolved.take() else { continue };
            let name = &table.columns[column].name;
            for (row, key) in keys.iter().enumerate() {
                let stored = key.and_then(|key| found[key as usize]);
                let text = stored.and_then(|stored| raw_text(stored_texts, stored, name));
                texts.extend(text.map(|text| (row, name.clone(), text.to_owned())));
            }
            let picks: Vec<(usize, usize)> = keys
                .iter()
                .enumerate()
                .map(|(row, key)| match key.and_then(|key| found[key as usize]) {
                    Some(stored) => (1, stored),
                    None => (0, row),
                })
                .collect();
            let held = by_name(name)?;
            columns[column] = interleave(&[&columns[column], held], &picks).map_err(arrow)?;
        }
        texts.sort_unstable();
        let mut raw = RawBuilder::default();
        texts.iter().for_each(|(row, name, text)| raw.push(*row, name, text.as_str()));
        self.values = RecordBatch::try_new(table.arrow(), columns)
            .and_then(|values| with_raw(values, raw.finish(self.deleted.len())?))
            .map_err(arrow)?;
        self.stored_keys = self.stored_keys.slice(0, 0);
        Ok(self)
    }
}

fn key_converter(table: &TableSchema) -> Result<RowConverter, ArrowError> {
    let fields =
        table.key_arrow().fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
    RowConverter::new(fields)
}

fn key_columns(table: &TableSchema, values: &RecordBatch) -> Vec<ArrayRef> {
    table.key.iter().map(|&column| Arc::clone(values.column(column))).collect()
}

mod raw;
#[cfg(test)]
mod tests;
