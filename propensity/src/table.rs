//! A dense table of named numbers: what a model is trained on and what it scores.

use std::collections::BTreeSet;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use crate::{Error, Result};

/// Columns that say what a row is about; all others are features.
pub(crate) const USER: &str = "user_id";
pub(crate) const T0: &str = "t0";
pub(crate) const LABEL: &str = "label";

/// Rows × features, finite, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    names: Vec<String>,
    values: Vec<f64>,
    rows: usize,
}

impl Table {
    /// Every column but `user_id`, `t0` and `label` is a feature: integers, floats, decimals or booleans.
    /// Row order is kept. All batches must have the same columns.
    ///
    /// # Errors
    /// No feature, a column of another type, or one that holds nulls, NaN or infinities.
    pub fn from_batches(batches: &[RecordBatch]) -> Result<Self> {
        let first = batches.first().ok_or(Error::NoFeatures)?.schema();
        let features: Vec<usize> = (0..first.fields().len())
            .filter(|&index| ![USER, T0, LABEL].contains(&first.field(index).name().as_str()))
            .collect();
        let names: Vec<String> = features.iter().map(|&index| first.field(index).name().clone()).collect();
        let width = names.len();
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        let mut values = vec![0.0; rows * width];
        let mut start = 0;
        for batch in batches {
            if batch.schema().fields() != first.fields() {
                return Err(Error::ColumnsDiffer);
            }
            for (feature, &index) in features.iter().enumerate() {
                let column = numbers(&names[feature], batch.column(index))?;
                for (row, value) in column.into_iter().enumerate() {
                    values[(start + row) * width + feature] = value;
                }
            }
            start += batch.num_rows();
        }
        Self::new(names, values, rows)
    }

    /// `values` holds `rows` × `names.len()` numbers, row by row.
    ///
    /// # Errors
    /// As [`Table::from_batches`], and a number of values that is not rows × features.
    pub fn new(names: Vec<String>, values: Vec<f64>, rows: usize) -> Result<Self> {
        if names.is_empty() {
            return Err(Error::NoFeatures);
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str())) {
            return Err(Error::DuplicateColumn(twice.clone()));
        }
        if values.len() != rows * names.len() {
            return Err(Error::ValueCount { found: values.len(), expected: rows * names.len() });
        }
        for (feature, name) in names.iter().enumerate() {
            let count = values.iter().skip(feature).step_by(names.len()).filter(|v| !v.is_finite()).count();
            if count > 0 {
                return Err(Error::NotFinite { column: name.clone(), count });
            }
        }
        Ok(Self { names, values, rows })
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.names.len()..][..self.names.len()]
    }

    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.values.chunks_exact(self.names.len())
    }

    /// The same rows with just these columns, in this order.
    ///
    /// # Errors
    /// A column that this table does not have.
    pub fn select(&self, names: &[String]) -> Result<Self> {
        let columns = names
            .iter()
            .map(|name| {
                let found = self.names.iter().position(|own| own == name);
                found.ok_or_else(|| Error::MissingColumn(name.clone()))
            })
            .collect::<Result<Vec<_>>>()?;
        let values = self.rows().flat_map(|row| columns.iter().map(|&column| row[column])).collect();
        Self::new(names.to_vec(), values, self.rows)
    }
}

fn numbers(name: &str, column: &dyn Array) -> Result<Vec<f64>> {
    let found = column.data_type();
    if !(found.is_numeric() || *found == DataType::Boolean) {
        return Err(Error::ColumnType { column: name.into(), found: found.clone(), expected: "a number" });
    }
    if column.null_count() > 0 {
        return Err(Error::NotFinite { column: name.into(), count: column.null_count() });
    }
    let floats = cast(column, &DataType::Float64)?;
    Ok(floats.as_primitive::<Float64Type>().values().to_vec())
}
