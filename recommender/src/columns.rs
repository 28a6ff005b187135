//! Reading the columns of interactions from Arrow, with errors that name table, column and row.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::util::display::FormatOptions;

use crate::error::{RecommenderError, Result};

/// A table under its name, read column by column.
pub(crate) struct Table<'a> {
    pub(crate) name: &'a str,
    pub(crate) batches: &'a [RecordBatch],
}

/// A value that does not fit its type becomes null, and so gets an error with its row.
const CAST: CastOptions<'static> = CastOptions { safe: true, format_options: FormatOptions::new() };

fn base_type(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, value) => value,
        other => other,
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

impl Table<'_> {
    pub(crate) fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    pub(crate) fn has(&self, column: &str) -> bool {
        self.batches.first().is_some_and(|batch| batch.column_by_name(column).is_some())
    }

    pub(crate) fn require_rows(&self) -> Result<()> {
        if self.rows() == 0 {
            return Err(RecommenderError::Empty { table: self.name.to_owned() });
        }
        Ok(())
    }

    fn wrong_type(&self, column: &str, found: &DataType, expected: &'static str) -> RecommenderError {
        RecommenderError::WrongType {
            table: self.name.to_owned(),
            column: column.to_owned(),
            found: found.to_string(),
            expected,
        }
    }

    pub(crate) fn invalid(&self, column: &str, row: usize, problem: &'static str) -> RecommenderError {
        RecommenderError::InvalidValue {
            table: self.name.to_owned(),
            column: column.to_owned(),
            row: row + 1,
            problem,
        }
    }

    /// Casts a column of every batch; nulls and values lost in the cast are errors.
    fn cast(
        &self,
        column: &str,
        target: &DataType,
        accepts: impl Fn(&DataType) -> bool,
        expected: &'static str,
        problem: &'static str,
    ) -> Result<Vec<ArrayRef>> {
        let mut first_row = 0;
        let mut cast = Vec::with_capacity(self.batches.len());
        for batch in self.batches {
            let array = batch.column_by_name(column).ok_or_else(|| RecommenderError::MissingColumn {
                table: self.name.to_owned(),
                column: column.to_owned(),
            })?;
            let found = base_type(array.data_type());
            let null = |array: &ArrayRef| (0..array.len()).find(|&row| array.is_null(row));
            if let Some(row) = null(array) {
                return Err(RecommenderError::Null {
                    table: self.name.to_owned(),
                    column: column.to_owned(),
                    row: first_row + row + 1,
                });
            }
            if !accepts(found) {
                return Err(self.wrong_type(column, found, expected));
            }
            let values = cast_with_options(array, target, &CAST)
                .map_err(|_| self.wrong_type(column, found, expected))?;
            if let Some(row) = null(&values) {
                return Err(self.invalid(column, first_row + row, problem));
            }
            first_row += array.len();
            cast.push(values);
        }
        Ok(cast)
    }

    /// Ids as text; integers become their decimal text.
    pub(crate) fn ids(&self, column: &str) -> Result<Vec<StringArray>> {
        let arrays = self.cast(
            column,
            &DataType::Utf8,
            |found| is_text(found) || found.is_integer(),
            "integers or text",
            "not an id",
        )?;
        let arrays: Vec<StringArray> = arrays.iter().map(|array| array.as_string::<i32>().clone()).collect();
        for (row, id) in arrays.iter().flat_map(|array| array.iter()).enumerate() {
            if id.is_none_or(str::is_empty) {
                return Err(self.invalid(column, row, "an id is empty text; give every row one"));
            }
        }
        Ok(arrays)
    }

    /// Weights: finite and greater than zero.
    pub(crate) fn weights(&self, column: &str) -> Result<Vec<f64>> {
        let number = |found: &DataType| found.is_numeric() || is_text(found);
        let arrays = self.cast(column, &DataType::Float64, number, "numbers", "not a number")?;
        let values: Vec<f64> = arrays
            .iter()
            .flat_map(|array| array.as_primitive::<Float64Type>().values().iter().copied())
            .collect();
        match values.iter().position(|w| !w.is_finite() || *w <= 0.0) {
            Some(row) => Err(self.invalid(column, row, "a weight must be a finite number greater than zero")),
            None => Ok(values),
        }
    }

    /// Times in microseconds since the epoch. Plain numbers, also as text, are epoch seconds, milli-, micro- or
    /// nanoseconds, told apart by the column's largest magnitude.
    pub(crate) fn timestamps(&self, column: &str) -> Result<Vec<i64>> {
        const EXPECTED: &str =
            "timestamps, dates, ISO 8601 text or integers (seconds to nanoseconds since the epoch)";
        const PROBLEM: &str = "not a timestamp";
        // One value tells for all: the others then fit, or are named.
        let first = self.batches.iter().find(|batch| batch.num_rows() > 0);
        let number = first.and_then(|batch| batch.column_by_name(column)).is_some_and(|array| {
            base_type(array.data_type()).is_numeric()
                || is_text(base_type(array.data_type()))
                    && cast_with_options(&array.slice(0, 1), &DataType::Float64, &CAST)
                        .is_ok_and(|value| value.is_valid(0))
        });
        if number {
            let seconds = |found: &DataType| found.is_integer() || found.is_floating() || is_text(found);
            let arrays = self.cast(column, &DataType::Int64, seconds, EXPECTED, PROBLEM)?;
            let values: Vec<i64> = arrays
                .iter()
                .flat_map(|array| array.as_primitive::<Int64Type>().values().iter().copied())
                .collect();
            let largest = values.iter().map(|v| v.unsigned_abs()).max().unwrap_or_default();
            return Ok(match largest {
                0..100_000_000_000 => values.into_iter().map(|v| v * 1_000_000).collect(),
                100_000_000_000..100_000_000_000_000 => values.into_iter().map(|v| v * 1_000).collect(),
                100_000_000_000_000..100_000_000_000_000_000 => values,
                _ => values.into_iter().map(|v| v.div_euclid(1_000)).collect(),
            });
        }
        let arrays = self.cast(
            column,
            &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            |found| is_text(found) || found.is_temporal(),
            EXPECTED,
            PROBLEM,
        )?;
        Ok(arrays
            .iter()
            .flat_map(|array| array.as_primitive::<TimestampMicrosecondType>().values().iter().copied())
            .collect())
    }
}
