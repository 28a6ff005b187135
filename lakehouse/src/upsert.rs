//! The upsert: rows of silver are replaced, taken out and put in by key.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch},
    compute::{concat_batches, filter, filter_record_batch, interleave_record_batch},
    datatypes::Int64Type,
    error::ArrowError,
    row::{RowConverter, SortField},
};
use foldhash::fast::FixedState;
use lakeward_change::{Counted, Folded, Position, TableSchema};

use crate::silver::{self, COUNT, POSITION, ROW};

/// What is to be put into silver.
pub(crate) struct Upsert {
    /// In silver's schema; of rows to take out, the key.
    rows: RecordBatch,
    /// Which rows are to take out.
    deleted: BooleanArray,
    /// The columns that tell rows apart.
    key: Vec<usize>,
    how: How,
    converter: RowConverter,
    /// The rows that concern stored ones, by their keys in the converter's format.
    by_key: HashMap<Box<[u8]>, usize, FixedState>,
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    /// The last change of each key takes the stored row's place, unless that is of a later one.
    Replace,
    /// Rows to take out concern stored ones; the others are put in beside what else there is.
    Repair,
    /// Numbers of equal rows are added to the stored ones.
    Count,
    /// Stored rows stay as they are.
    Insert,
    /// Each takes the stored row's place; they have no positions.
    Set,
}

impl Upsert {
    pub(crate) fn new(table: &TableSchema, folded: &Folded) -> Result<Self, ArrowError> {
        let epochs = Int64Array::from_value(folded.epoch, folded.values.num_rows());
        let position = [epochs, folded.commits.clone(), folded.orders.clone()];
        let rows = silver::rows(table, &folded.values, position)?;
        Self::by_key(rows, folded.deleted.clone(), table.key.clone(), How::Replace)
    }

    /// Adds to the numbers of equal rows; those of which none is left go.
    pub(crate) fn counting(table: &TableSchema, changes: &Counted) -> Result<Self, ArrowError> {
        let epochs = Int64Array::from_value(changes.epoch, changes.counts.len());
        let position = [epochs, changes.commits.clone(), changes.orders.clone()];
        let rows = silver::counted(table, &changes.values, position, &changes.counts)?;
        let deleted = changes.counts.values().iter().map(|count| Some(*count <= 0)).collect();
        let key = vec![rows.schema().index_of(ROW)?];
        Self::by_key(rows, deleted, key, How::Count)
    }

    /// Takes out whatever is stored of the keys in `removed` (whole rows, all else null) and puts `rows` in, as they
    /// were at a position. Unlike an update this makes one row of several with the same key.
    pub(crate) fn replacing(
        table: &TableSchema,
        removed: &RecordBatch,
        rows: &RecordBatch,
        at: Position,
    ) -> Result<Self, ArrowError> {
        let last = Position { epoch: i64::MAX, ..at };
        let parts = [silver::copied(table, removed, last)?, silver::copied(table, rows, at)?];
        let rows = concat_batches(&parts[0].schema(), &parts)?;
        let deleted = (0..rows.num_rows()).map(|row| Some(row < removed.num_rows())).collect();
        Self::by_key(rows, deleted, table.key.clone(), How::Repair)
    }

    /// Puts in the rows whose keys are not stored; of several with one key, the last.
    pub(crate) fn inserting(rows: RecordBatch, key: Vec<usize>) -> Result<Self, ArrowError> {
        let none = BooleanArray::from(vec![false; rows.num_rows()]);
        let mut upsert = Self::by_key(rows, none, key, How::Insert)?;
        let mut repeated = vec![true; upsert.rows.num_rows()];
        upsert.by_key.values().for_each(|row| repeated[*row] = false);
        upsert.deleted = repeated.into();
        Ok(upsert)
    }

    /// Puts rows in the places of those with their keys, and takes out those that `deleted` says. Keys come once.
    pub(crate) fn setting(
        rows: RecordBatch,
        deleted: BooleanArray,
        key: Vec<usize>,
    ) -> Result<Self, ArrowError> {
        Self::by_key(rows, deleted, key, How::Set)
    }

    /// Whether stored rows may be looked for by the times in their keys.
    pub(crate) fn is_found_by_time(&self) -> bool {
        matches!(self.how, How::Insert | How::Set)
    }

    /// Whether no stored row is altered.
    pub(crate) fn only_inserts(&self) -> bool {
        self.how == How::Insert
    }

    /// Some of its rows.
    pub(crate) fn only(self, chosen: &BooleanArray) -> Result<Self, ArrowError> {
        let rows = filter_record_batch(&self.rows, chosen)?;
        let deleted = filter(&self.deleted, chosen)?.as_boolean().clone();
        Self::by_key(rows, deleted, self.key, self.how)
    }

    fn by_key(
        rows: RecordBatch,
        deleted: BooleanArray,
        key: Vec<usize>,
        how: How,
    ) -> Result<Self, ArrowError> {
        let fields = key.iter().map(|&column| SortField::new(rows.column(column).data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        let keys = converter.convert_columns(&columns(&rows, &key))?;
        let concern = |row: &usize| how != How::Repair || deleted.value(*row);
        let by_key =
            (0..rows.num_rows()).filter(concern).map(|row| (Box::from(keys.row(row).data()), row)).collect();
        Ok(Self { rows, deleted, key, how, converter, by_key })
    }

    /// Rows to take out count, too.
    pub(crate) fn num_rows(&self) -> usize {
        self.rows.num_rows()
    }

    /// Names of the columns that tell rows apart.
    pub(crate) fn key_names(&self) -> impl Iterator<Item = &str> {
        self.key.iter().map(|&column| self.rows.schema_ref().field(column).name().as_str())
    }

    /// Values of these columns in the rows that concern stored ones.
    pub(crate) fn keys(&self) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut chosen = vec![false; self.rows.num_rows()];
        self.by_key.values().for_each(|row| chosen[*row] = true);
        let chosen = BooleanArray::from(chosen);
        columns(&self.rows, &self.key).iter().map(|values| filter(values, &chosen)).collect()
    }

    /// For stored keys, which of the upsert's rows concerns each.
    pub(crate) fn concerning(&self, keys: &[ArrayRef]) -> Result<Vec<Option<usize>>, ArrowError> {
        let keys = self.converter.convert_columns(keys)?;
        Ok(keys.iter().map(|key| self.by_key.get(key.data()).copied()).collect())
    }

    /// The rows to put in where those are stored that `stored` says.
    pub(crate) fn new_rows(&self, stored: &[bool]) -> Result<RecordBatch, ArrowError> {
        let new = stored.iter().zip(self.deleted.values()).map(|(stored, deleted)| Some(!stored && !deleted));
        filter_record_batch(&self.rows, &new.collect())
    }

    /// Stored rows as the upsert leaves them.
    ///
    /// # Errors
    /// If they have other columns, or in another order.
    pub(crate) fn apply(&self, stored: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        const STORED: usize = 0;
        const CHANGED: usize = 1;
        let names =
            [stored, &self.rows].map(|rows| rows.schema_ref().fields().iter().map(|field| field.name()));
        let [stored_names, own_names] = names;
        if !stored_names.eq(own_names) {
            return Err(ArrowError::SchemaError("the stored rows' columns are not silver's".to_owned()));
        }
        let concerning = self.concerning(&columns(stored, &self.key))?;
        if concerning.iter().all(Option::is_none) {
            return Ok(stored.clone());
        }
        let positions = match self.how {
            How::Set => None,
            _ => Some((Positions::of(stored)?, Positions::of(&self.rows)?)),
        };
        let later =
            |change, row| positions.as_ref().is_none_or(|(before, after)| after.at(change) > before.at(row));
        let counts = match self.how {
            How::Count => Some([numbers(stored, COUNT)?, numbers(&self.rows, COUNT)?]),
            How::Replace | How::Repair | How::Insert | How::Set => None,
        };
        let mut left = Vec::with_capacity(concerning.len());
        let mut totals = Vec::new();
        for (row, change) in concerning.into_iter().enumerate() {
            match (change, counts) {
                (Some(change), Some([stored, changed])) => {
                    let total = stored.value(row) + changed.value(change);
                    if total > 0 {
                        totals.push((left.len(), total));
                        left.push((CHANGED, change));
                    }
                }
                (Some(change), None) if later(change, row) => {
                    if !self.deleted.value(change) {
                        left.push((CHANGED, change));
                    }
                }
                _ => left.push((STORED, row)),
            }
        }
        let rows = RecordBatch::try_new(self.rows.schema(), stored.columns().to_vec())?;
        let rows = interleave_record_batch(&[&rows, &self.rows], &left)?;
        if totals.is_empty() { Ok(rows) } else { with_totals(&rows, &totals) }
    }
}

fn columns(rows: &RecordBatch, wanted: &[usize]) -> Vec<ArrayRef> {
    wanted.iter().map(|&column| Arc::clone(rows.column(column))).collect()
}

fn numbers<'a>(rows: &'a RecordBatch, column: &str) -> Result<&'a Int64Array, ArrowError> {
    let missing = || ArrowError::SchemaError(format!("no column {column} of 64-bit numbers"));
    rows.column_by_name(column).and_then(|values| values.as_primitive_opt::<Int64Type>()).ok_or_else(missing)
}

/// Some rows' numbers of equal rows set.
fn with_totals(rows: &RecordBatch, totals: &[(usize, i64)]) -> Result<RecordBatch, ArrowError> {
    let mut counts = numbers(rows, COUNT)?.values().to_vec();
    totals.iter().for_each(|&(row, total)| counts[row] = total);
    let mut columns = rows.columns().to_vec();
    columns[rows.schema().index_of(COUNT)?] = Arc::new(Int64Array::from(counts));
    RecordBatch::try_new(rows.schema(), columns)
}

/// The places of rows' last changes.
struct Positions<'a>([&'a Int64Array; 3]);

impl<'a> Positions<'a> {
    fn of(rows: &'a RecordBatch) -> Result<Self, ArrowError> {
        let [epoch, commit, order] = POSITION;
        Ok(Self([numbers(rows, epoch)?, numbers(rows, commit)?, numbers(rows, order)?]))
    }

    fn at(&self, row: usize) -> [i64; 3] {
        self.0.map(|numbers| numbers.value(row))
    }
}
