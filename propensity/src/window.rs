//! Labelled windows of time: the only way examples reach a model, so that none of them can know the future.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type, TimeUnit};

use crate::table::{LABEL, T0};
use crate::{Error, Result, Table};

const DAY_MICROS: i64 = 86_400_000_000;

/// The customers known at `t0` (µs UTC), their activity before it, and whether each churned: no kept order in the
/// horizon that starts at `t0`.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    t0: i64,
    table: Table,
    churned: Vec<bool>,
}

impl Window {
    /// Rows are put into an order of their own, so that sums, and with them a model's bytes, do not depend on the
    /// order in which a query happened to return them.
    ///
    /// # Errors
    /// Another number of labels than of rows.
    pub fn new(t0: i64, table: &Table, churned: &[bool]) -> Result<Self> {
        if table.len() != churned.len() {
            return Err(Error::LabelCount { rows: table.len(), labels: churned.len() });
        }
        let mut order: Vec<usize> = (0..table.len()).collect();
        order.sort_unstable_by(|&a, &b| {
            let values = table.row(a).iter().zip(table.row(b));
            let by_value = values.map(|(x, y)| x.total_cmp(y)).find(|ordering| ordering.is_ne());
            by_value.unwrap_or(churned[a].cmp(&churned[b]))
        });
        let values = order.iter().flat_map(|&row| table.row(row).iter().copied()).collect();
        Ok(Self {
            t0,
            table: Table::new(table.names().to_vec(), values, table.len())?,
            churned: order.iter().map(|&row| churned[row]).collect(),
        })
    }

    /// Start of the horizon, µs UTC.
    pub fn t0(&self) -> i64 {
        self.t0
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    pub fn churned(&self) -> &[bool] {
        &self.churned
    }

    pub(crate) fn ends_by(&self, as_of: i64, horizon_days: u32) -> bool {
        self.t0.checked_add(horizon(horizon_days)).is_some_and(|end| end <= as_of)
    }
}

/// Splits labelled rows by their `t0` (a timestamp, or an integer in µs UTC). `label` is a boolean or 0/1, true
/// for a churned customer. Windows come oldest first; no rows, no windows.
///
/// # Errors
/// Missing columns, other types, nulls.
pub fn windows(batches: &[RecordBatch]) -> Result<Vec<Window>> {
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    if batches.iter().any(|batch| batch.schema().fields() != first.schema().fields()) {
        return Err(Error::ColumnsDiffer);
    }
    let all = concat_batches(&first.schema(), batches)?;
    let t0 = times(&all)?;
    let mut rows_at: BTreeMap<i64, Vec<bool>> = BTreeMap::new();
    for (row, &time) in t0.iter().enumerate() {
        rows_at.entry(time).or_insert_with(|| vec![false; t0.len()])[row] = true;
    }
    rows_at
        .into_iter()
        .map(|(time, rows)| {
            let part = filter_record_batch(&all, &BooleanArray::from(rows))?;
            Window::new(time, &Table::from_batches(std::slice::from_ref(&part))?, &labels(&part)?)
        })
        .collect()
}

/// The newest `count` times, oldest first, at which a labelled window can start: whole horizons before `as_of`, and
/// after `earliest`, the first order there is. All in µs UTC.
pub fn training_times(as_of: i64, horizon_days: u32, count: usize, earliest: i64) -> Vec<i64> {
    let step = horizon(horizon_days).max(1);
    let mut times: Vec<i64> = std::iter::successors(as_of.checked_sub(step), |time| time.checked_sub(step))
        .take_while(|&time| time > earliest)
        .take(count)
        .collect();
    times.reverse();
    times
}

fn horizon(days: u32) -> i64 {
    i64::from(days).saturating_mul(DAY_MICROS)
}

fn times(batch: &RecordBatch) -> Result<Vec<i64>> {
    let column = column(batch, T0)?;
    let micros = match column.data_type() {
        DataType::Timestamp(_, zone) => {
            cast(column, &DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))?
        }
        DataType::Int64 => cast(column, &DataType::Int64)?,
        found => {
            return Err(Error::ColumnType {
                column: T0.into(),
                found: found.clone(),
                expected: "a timestamp",
            });
        }
    };
    Ok(cast(&micros, &DataType::Int64)?.as_primitive::<Int64Type>().values().to_vec())
}

fn labels(batch: &RecordBatch) -> Result<Vec<bool>> {
    let column = column(batch, LABEL)?;
    let found = column.data_type();
    if !(found.is_numeric() || *found == DataType::Boolean) {
        return Err(Error::ColumnType {
            column: LABEL.into(),
            found: found.clone(),
            expected: "a boolean or 0/1",
        });
    }
    let flags = cast(column, &DataType::Boolean)?;
    Ok(flags.as_boolean().values().iter().collect())
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array> {
    let column = batch.column_by_name(name).ok_or_else(|| Error::MissingColumn(name.into()))?;
    if column.null_count() > 0 {
        return Err(Error::NotFinite { column: name.into(), count: column.null_count() });
    }
    Ok(column.as_ref())
}
