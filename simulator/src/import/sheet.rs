//! A file's columns, with errors that name file, row and column.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchReader, StringArray, StringBuilder};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::ChunkReader;

use crate::error::Error;

/// Money that fits numeric(12,2), in cents.
pub(crate) const MAX_CENTS: i64 = 999_999_999_999;

pub(crate) struct Sheet {
    file: PathBuf,
    batch: RecordBatch,
}

impl Sheet {
    /// Reads the named columns of a CSV or Parquet file, told apart by its extension.
    pub(crate) fn open(file: &Path, columns: &[&str]) -> Result<Self, Error> {
        let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        match extension.as_str() {
            "csv" => Self::csv(file, columns),
            "parquet" => {
                let reader =
                    File::open(file).map_err(|error| Error::unreadable(file, "cannot be opened", error))?;
                Self::parquet(file, reader, columns)
            }
            _ => Err(Error::file(file, "is neither .csv nor .parquet")),
        }
    }

    /// Reads the named columns of Parquet data; `file` names it in errors.
    pub(crate) fn parquet(
        file: &Path,
        reader: impl ChunkReader + 'static,
        columns: &[&str],
    ) -> Result<Self, Error> {
        let damaged = "is not a complete Parquet file";
        let builder = ParquetRecordBatchReaderBuilder::try_new(reader)
            .map_err(|error| Error::unreadable(file, damaged, error))?;
        for column in columns {
            if builder.schema().field_with_name(column).is_err() {
                return Err(Error::column(file, column, "is missing"));
            }
        }
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
        let reader = builder
            .with_projection(mask)
            .with_batch_size(65_536)
            .build()
            .map_err(|error| Error::unreadable(file, damaged, error))?;
        let schema = reader.schema();
        let batches =
            reader.collect::<Result<Vec<_>, _>>().map_err(|error| Error::unreadable(file, damaged, error))?;
        let batch =
            concat_batches(&schema, &batches).map_err(|error| Error::unreadable(file, damaged, error))?;
        Ok(Self { file: file.to_owned(), batch })
    }

    fn csv(file: &Path, columns: &[&str]) -> Result<Self, Error> {
        let mut reader = csv::Reader::from_path(file).map_err(|error| csv_error(file, error))?;
        let header = reader.headers().map_err(|error| csv_error(file, error))?.clone();
        let positions = columns
            .iter()
            .map(|column| {
                let mut found = header.iter().enumerate().filter(|(_, name)| name.trim() == *column);
                match (found.next(), found.next()) {
                    (Some((position, _)), None) => Ok(position),
                    (None, _) => Err(Error::column(file, column, "is missing")),
                    _ => Err(Error::column(file, column, "is there twice")),
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut builders: Vec<StringBuilder> = columns.iter().map(|_| StringBuilder::new()).collect();
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record).map_err(|error| csv_error(file, error))? {
            for (builder, position) in builders.iter_mut().zip(&positions) {
                let cell = record.get(*position).unwrap_or_default().trim();
                builder.append_option((!cell.is_empty()).then_some(cell));
            }
        }
        let fields: Vec<Field> = columns.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
        let arrays = builders.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef).collect();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
            .map_err(|error| Error::unreadable(file, "cannot be read", error))?;
        Ok(Self { file: file.to_owned(), batch })
    }

    pub(crate) fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// An error in one cell; `row` counts from 0.
    pub(crate) fn cell_error(&self, row: usize, column: &str, reason: impl Into<String>) -> Error {
        Error::cell(&self.file, row, column, reason)
    }

    fn array(&self, column: &str) -> Result<&ArrayRef, Error> {
        self.batch.column_by_name(column).ok_or_else(|| Error::column(&self.file, column, "is missing"))
    }

    fn cast(&self, column: &str, to: &DataType) -> Result<ArrayRef, Error> {
        cast(self.array(column)?, to)
            .map_err(|_| Error::column(&self.file, column, format!("holds another type than {to}")))
    }

    pub(crate) fn is_integer(&self, column: &str) -> Result<bool, Error> {
        Ok(self.array(column)?.data_type().is_integer())
    }

    /// Texts; missing cells are null.
    pub(crate) fn texts(&self, column: &str) -> Result<StringArray, Error> {
        Ok(self.cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
    }

    /// One value a row; a missing cell is an error.
    fn values<T>(
        &self,
        column: &str,
        array: &dyn Array,
        value: impl Fn(usize) -> Result<T, &'static str>,
    ) -> Result<Vec<T>, Error> {
        (0..self.rows())
            .map(|row| {
                if array.is_null(row) {
                    return Err(self.cell_error(row, column, "is empty"));
                }
                value(row).map_err(|reason| self.cell_error(row, column, reason))
            })
            .collect()
    }

    /// Whole numbers, from integers, whole floats or text.
    pub(crate) fn integers(&self, column: &str) -> Result<Vec<i64>, Error> {
        const WRONG: &str = "is not a whole number";
        let array = self.array(column)?;
        if array.data_type().is_integer() {
            let array = self.cast(column, &DataType::Int64)?;
            let array = array.as_primitive::<Int64Type>();
            return self.values(column, array, |row| Ok(array.value(row)));
        }
        if array.data_type().is_floating() {
            let array = self.cast(column, &DataType::Float64)?;
            let array = array.as_primitive::<Float64Type>();
            return self.values(column, array, |row| {
                let value = array.value(row);
                (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64).ok_or(WRONG)
            });
        }
        let array = self.texts(column)?;
        self.values(column, &array, |row| array.value(row).parse().map_err(|_| WRONG))
    }

    /// Money in cents, at least 0; `rounded` counts what had more than two decimals.
    pub(crate) fn cents(&self, column: &str, rounded: &mut u64) -> Result<Vec<i64>, Error> {
        const WRONG: &str = "is not an amount of money from 0 up";
        let array = self.array(column)?;
        let mut count = 0;
        let cents = if array.data_type().is_floating() {
            let array = self.cast(column, &DataType::Float64)?;
            let array = array.as_primitive::<Float64Type>();
            let counter = std::cell::Cell::new(0);
            let cents = self.values(column, array, |row| {
                let exact = array.value(row) * 100.0;
                let cents = exact.round();
                if !(0.0..=MAX_CENTS as f64).contains(&cents) {
                    return Err(WRONG);
                }
                // A binary float misses a decimal by far less than this.
                if (exact - cents).abs() > 1e-4 {
                    counter.set(counter.get() + 1);
                }
                Ok(cents as i64)
            });
            count += counter.get();
            cents
        } else {
            let array = self.texts(column)?;
            let counter = std::cell::Cell::new(0);
            let cents = self.values(column, &array, |row| {
                let amount: rust_decimal::Decimal = array.value(row).parse().map_err(|_| WRONG)?;
                let exact = amount.checked_mul(100.into()).ok_or(WRONG)?;
                let cents =
                    exact.round_dp_with_strategy(0, rust_decimal::RoundingStrategy::MidpointAwayFromZero);
                if cents != exact {
                    counter.set(counter.get() + 1);
                }
                i64::try_from(cents).ok().filter(|cents| (0..=MAX_CENTS).contains(cents)).ok_or(WRONG)
            });
            count += counter.get();
            cents
        };
        *rounded += count;
        cents
    }

    /// Points in time, microseconds UTC; text without an offset is read as UTC.
    pub(crate) fn times(&self, column: &str, format: Option<&str>) -> Result<Vec<i64>, Error> {
        let array = self.array(column)?;
        if array.data_type().is_temporal() {
            let array = self.cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
            let array = array.as_primitive::<TimestampMicrosecondType>();
            return self.values(column, array, |row| Ok(array.value(row)));
        }
        if array.data_type().is_numeric() {
            return Err(Error::column(&self.file, column, "holds numbers, not dates or times"));
        }
        let array = self.texts(column)?;
        self.values(column, &array, |row| {
            parse_time(array.value(row), format).ok_or("is not a date or time that can be read")
        })
    }
}

/// RFC 3339, or `2017-01-31[ 11:53[:26[.5]]]`, or as `format` (chrono's strftime) says.
fn parse_time(text: &str, format: Option<&str>) -> Option<i64> {
    let date = |format: &str| NaiveDate::parse_from_str(text, format).ok()?.and_hms_opt(0, 0, 0);
    if let Some(format) = format {
        return DateTime::parse_from_str(text, format)
            .ok()
            .map(|time| time.timestamp_micros())
            .or_else(|| {
                NaiveDateTime::parse_from_str(text, format).ok().map(|time| time.and_utc().timestamp_micros())
            })
            .or_else(|| date(format).map(|time| time.and_utc().timestamp_micros()));
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.timestamp_micros());
    }
    let text_formats = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"];
    text_formats
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        // A shorter text may be a date that was cut off.
        .or_else(|| (text.len() >= 10).then(|| date("%Y-%m-%d")).flatten())
        .map(|time| time.and_utc().timestamp_micros())
}

fn csv_error(file: &Path, error: csv::Error) -> Error {
    // Records count from 0 at the header; rows of data from 1.
    let row = error.position().map(csv::Position::record).filter(|record| *record > 0);
    let reason = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("has {len} columns where the header has {expected_len}: is the file cut off?")
        }
        csv::ErrorKind::Utf8 { .. } => "is not UTF-8 text".to_owned(),
        _ => "cannot be read".to_owned(),
    };
    Error::Input { file: file.to_owned(), row, column: None, reason, source: Some(error.into()) }
}

#[cfg(test)]
mod tests {
    use super::parse_time;

    #[test]
    fn times_are_read_in_the_usual_forms() {
        let noon = Some(1_483_272_000_000_000);
        for text in [
            "2017-01-01T12:00:00Z",
            "2017-01-01 12:00",
            "2017-01-01T12:00:00.000",
            "2017-01-01T13:00:00+01:00",
        ] {
            assert_eq!(parse_time(text, None), noon, "{text}");
        }
        assert_eq!(parse_time("01/01/2017 12:00", Some("%d/%m/%Y %H:%M")), noon);
        assert_eq!(parse_time("2017-01-01", None), noon.map(|noon| noon - 12 * 3_600_000_000));
        for text in ["2017-02-30", "yesterday", "", "2017-01-1"] {
            assert_eq!(parse_time(text, None), None, "{text}");
        }
    }
}
