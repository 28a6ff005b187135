//! Counting: by how much a run of changes alters the number of each distinct row, where no key tells rows apart.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, MapArray, RecordBatch, StringArray},
    datatypes::DataType,
    error::ArrowError,
    row::{Row, RowConverter, Rows, SortField},
};

use crate::{ChangeBatch, FoldError, Op, RAW, RawBuilder, TableSchema, raw_of, raw_text, with_raw};

/// The distinct rows of which a run of changes leaves more or fewer, in the order of first touch.
#[derive(Debug, Clone)]
pub struct Counted {
    pub epoch: i64,
    /// The rows, in the schema [`crate::TableSchema::arrow`], perhaps with [`crate::RAW`]; no two are equal, a null being
    /// equal to another.
    pub values: RecordBatch,
    /// How many more there are of each, or with a minus how many fewer; never 0.
    pub counts: Int64Array,
    /// The position of the last change that concerned the row.
    pub commits: Int64Array,
    pub orders: Int64Array,
}

struct Slot<'a> {
    row: Row<'a>,
    count: i64,
    last: (usize, usize),
}

/// Counts changes of one table whose rows are told apart by all they hold ([`crate::TableSchema::counts_rows`]), in
/// position order. Deletes and updates carry the whole row before. Runs may be counted in any parts: their sums are
/// those of the whole.
///
/// # Errors
/// A run that holds a truncate ([`crate::split_at_truncates`]).
///
/// # Panics
/// If `batches` is empty: there is no table to speak of.
pub fn count(batches: &[ChangeBatch]) -> Result<Counted, FoldError> {
    let table = &batches[0].table;
    let arrow = |source| FoldError::Arrow { table: table.id.to_string(), source };
    let own = table.arrow().fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>();
    let texts = partial_columns(table).map(|_| DataType::Utf8);
    let fields = own.into_iter().chain(texts).map(SortField::new).collect();
    let converter = RowConverter::new(fields).map_err(arrow)?;
    let rows = batches
        .iter()
        .map(|batch| {
            converter.convert_columns(&identity(table, batch.values.columns(), raw_of(&batch.values)))
        })
        .collect::<Result<Vec<Rows>, _>>()
        .map_err(arrow)?;
    let old_rows = batches
        .iter()
        .map(|batch| {
            let old = batch.old_keys.as_ref();
            old.map(|old| {
                let raw = old.column_by_name(RAW).and_then(|raw| raw.as_map_opt());
                converter.convert_columns(&identity(table, old.columns(), raw))
            })
            .transpose()
        })
        .collect::<Result<Vec<Option<Rows>>, _>>()
        .map_err(arrow)?;

    let mut tally = Tally::default();
    for (index, batch) in batches.iter().enumerate() {
        for (row, op) in batch.ops.iter().enumerate() {
            let at = (index, row);
            let now = rows[index].row(row);
            match op {
                Op::Truncate => return Err(FoldError::Truncate { table: table.id.to_string() }),
                Op::Read | Op::Insert => tally.add(now, 1, at),
                Op::Delete => tally.add(now, -1, at),
                Op::Update => {
                    let changed = batch.old_keys.as_ref().is_some_and(|old| old.is_valid(row));
                    // Without an old row the update left the row as it was.
                    if let Some(old) = old_rows[index].as_ref().filter(|_| changed) {
                        tally.add(old.row(row), -1, at);
                        tally.add(now, 1, at);
                    }
                }
            }
        }
    }
    tally.finish(batches, &converter).map_err(arrow)
}

/// The columns whose values may be texts beside them.
fn partial_columns(table: &TableSchema) -> impl Iterator<Item = usize> {
    (0..table.columns.len()).filter(|&column| table.columns[column].column_type.is_partial())
}

/// All that tells rows apart: their own columns, and of the partial ones the texts beside them.
fn identity(table: &TableSchema, columns: &[ArrayRef], raw: Option<&MapArray>) -> Vec<ArrayRef> {
    let own = &columns[..table.columns.len()];
    let length = own.first().map_or(0, |column| column.len());
    let texts = partial_columns(table).map(|column| -> ArrayRef {
        let name = &table.columns[column].name;
        match raw {
            Some(_) => Arc::new((0..length).map(|row| raw_text(raw, row, name)).collect::<StringArray>()),
            None => Arc::new(StringArray::new_null(length)),
        }
    });
    own.iter().cloned().chain(texts).collect()
}

/// Rows of what [`identity`] gave.
fn rows_of(table: &TableSchema, mut columns: Vec<ArrayRef>) -> Result<RecordBatch, ArrowError> {
    let texts = columns.split_off(table.columns.len());
    let rows = RecordBatch::try_new(table.arrow(), columns)?;
    let mut raw = RawBuilder::default();
    for row in 0..rows.num_rows() {
        for (column, texts) in partial_columns(table).zip(&texts) {
            let texts = texts.as_string::<i32>();
            if texts.is_valid(row) {
                raw.push(row, &table.columns[column].name, texts.value(row));
            }
        }
    }
    let raw = raw.finish(rows.num_rows())?;
    with_raw(rows, raw)
}

#[derive(Default)]
struct Tally<'a> {
    index: HashMap<Row<'a>, usize>,
    slots: Vec<Slot<'a>>,
}

impl<'a> Tally<'a> {
    fn add(&mut self, row: Row<'a>, count: i64, at: (usize, usize)) {
        let next = self.slots.len();
        let slot = *self.index.entry(row).or_insert(next);
        if slot == next {
            self.slots.push(Slot { row, count, last: at });
        } else {
            self.slots[slot].count += count;
            self.slots[slot].last = at;
        }
    }

    fn finish(self, batches: &[ChangeBatch], converter: &RowConverter) -> Result<Counted, ArrowError> {
        let slots: Vec<Slot<'_>> = self.slots.into_iter().filter(|slot| slot.count != 0).collect();
        let position = |pick: fn(&ChangeBatch) -> &Int64Array| -> Int64Array {
            slots.iter().map(|slot| Some(pick(&batches[slot.last.0]).value(slot.last.1))).collect()
        };
        let columns = converter.convert_rows(slots.iter().map(|slot| slot.row))?;
        Ok(Counted {
            epoch: batches[0].epoch,
            values: rows_of(&batches[0].table, columns)?,
            counts: slots.iter().map(|slot| Some(slot.count)).collect(),
            commits: position(|batch| &batch.commits),
            orders: position(|batch| &batch.orders),
        })
    }
}

#[cfg(test)]
mod tests;
