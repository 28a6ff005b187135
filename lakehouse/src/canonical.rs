//! The canonical text of values, rows and keys, which the source's server computes alike.
//!
//! A value's text is `-` for null, else its length in bytes, a colon and the text: integers and decimals in plain
//! digits, floats as the hexadecimal digits of their bits, times as microseconds and dates as days since 1970, bytes
//! in hexadecimal, booleans as `t` and `f`; of a value that its column cannot hold, the source's own text. A row's text is
//! that of its columns one after the other, a key's likewise.

use std::{io::Write, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float32Array, Float64Array, RecordBatch,
        StringArray,
    },
    compute::{CastOptions, cast, cast_with_options},
    datatypes::{DataType, Float32Type, Float64Type},
    error::ArrowError,
};
use lakeward_change::{ColumnType, TableSchema, raw_of, raw_text};
use sha2::{Digest, Sha256};

/// Calls with the canonical texts of each row's key and of the row. `batch` has the schema's columns in their order, and
/// perhaps the column of texts that stand for values which those cannot hold.
pub(crate) fn for_each_row(
    schema: &TableSchema,
    batch: &RecordBatch,
    mut visit: impl FnMut(&[u8], &[u8]),
) -> Result<(), ArrowError> {
    let texts: Vec<StringArray> = schema
        .columns
        .iter()
        .zip(batch.columns())
        .map(|(column, values)| text(column.column_type, values))
        .collect::<Result<_, _>>()?;
    let raw = raw_of(batch);
    let (mut key, mut row) = (Vec::new(), Vec::new());
    let mut entries = vec![0..0; texts.len()];
    for index in 0..batch.num_rows() {
        row.clear();
        for ((texts, entry), column) in texts.iter().zip(&mut entries).zip(&schema.columns) {
            let start = row.len();
            let text = match texts.is_null(index) {
                false => Some(texts.value(index)),
                true => raw_text(raw, index, &column.name),
            };
            match text {
                None => row.push(b'-'),
                Some(text) => write!(row, "{}:{text}", text.len())?,
            }
            *entry = start..row.len();
        }
        key.clear();
        for &column in &schema.key {
            key.extend_from_slice(&row[entries[column].clone()]);
        }
        visit(&key, &row);
    }
    Ok(())
}

/// What tells each row from others where equal ones are counted: hexadecimal digits of half the SHA-256 of its text.
pub(crate) fn row_ids(schema: &TableSchema, batch: &RecordBatch) -> Result<StringArray, ArrowError> {
    let mut ids = Vec::with_capacity(batch.num_rows());
    for_each_row(schema, batch, |_, row| {
        ids.push(hex(&Sha256::digest(row)[..16]));
    })?;
    Ok(StringArray::from(ids))
}

/// Lower-case digits, two a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(column_type: ColumnType, values: &ArrayRef) -> Result<StringArray, ArrowError> {
    let through = |number| cast(&cast(values, &number)?, &DataType::Utf8);
    let text = match column_type {
        ColumnType::Bool => {
            return Ok(values.as_boolean().iter().map(|v| v.map(|v| if v { "t" } else { "f" })).collect());
        }
        ColumnType::Float4 => {
            let hex = |v: f32| if v.is_nan() { "NaN".to_owned() } else { format!("{:08x}", v.to_bits()) };
            return Ok(values.as_primitive::<Float32Type>().iter().map(|v| v.map(hex)).collect());
        }
        ColumnType::Float8 => {
            let hex = |v: f64| if v.is_nan() { "NaN".to_owned() } else { format!("{:016x}", v.to_bits()) };
            return Ok(values.as_primitive::<Float64Type>().iter().map(|v| v.map(hex)).collect());
        }
        ColumnType::Bytes => {
            return Ok(values.as_binary::<i32>().iter().map(|v| v.map(hex)).collect());
        }
        ColumnType::Date => through(DataType::Int32)?,
        ColumnType::Timestamp { .. } => through(DataType::Int64)?,
        ColumnType::Int2
        | ColumnType::Int4
        | ColumnType::Int8
        | ColumnType::Numeric { .. }
        | ColumnType::Text
        | ColumnType::Uuid
        | ColumnType::Hashed { .. }
        | ColumnType::Json => cast(values, &DataType::Utf8)?,
    };
    Ok(text.as_string::<i32>().clone())
}

/// The values of canonical texts without their lengths: what [`text`] made them of.
pub(crate) fn values(column_type: ColumnType, texts: &StringArray) -> Result<ArrayRef, ArrowError> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let through = |number: DataType| {
        let numbers = cast_with_options(texts, &number, &strict)?;
        cast_with_options(&numbers, &column_type.arrow(), &strict)
    };
    let hex = |digits: &str| {
        u64::from_str_radix(digits, 16).map_err(|error| ArrowError::ParseError(error.to_string()))
    };
    Ok(match column_type {
        ColumnType::Bool => Arc::new(texts.iter().map(|t| t.map(|t| t == "t")).collect::<BooleanArray>()),
        ColumnType::Float4 => {
            let float = |t| Ok(if t == "NaN" { f32::NAN } else { f32::from_bits(hex(t)? as u32) });
            let floats = texts.iter().map(|t| t.map(float).transpose());
            Arc::new(floats.collect::<Result<Float32Array, ArrowError>>()?)
        }
        ColumnType::Float8 => {
            let float = |t| Ok(if t == "NaN" { f64::NAN } else { f64::from_bits(hex(t)?) });
            let floats = texts.iter().map(|t| t.map(float).transpose());
            Arc::new(floats.collect::<Result<Float64Array, ArrowError>>()?)
        }
        ColumnType::Bytes => {
            let byte = |pair: &[u8]| Ok(hex(&String::from_utf8_lossy(pair))? as u8);
            let bytes = |t: &str| t.as_bytes().chunks(2).map(byte).collect::<Result<Vec<u8>, ArrowError>>();
            let bytes = texts.iter().map(|t| t.map(bytes).transpose());
            Arc::new(bytes.collect::<Result<Vec<_>, _>>()?.into_iter().collect::<BinaryArray>())
        }
        ColumnType::Date => through(DataType::Int32)?,
        ColumnType::Timestamp { .. } => through(DataType::Int64)?,
        ColumnType::Int2
        | ColumnType::Int4
        | ColumnType::Int8
        | ColumnType::Numeric { .. }
        | ColumnType::Text
        | ColumnType::Uuid
        | ColumnType::Hashed { .. }
        | ColumnType::Json => cast_with_options(texts, &column_type.arrow(), &strict)?,
    })
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Date32Array, Decimal128Array, TimestampMicrosecondArray},
        datatypes::Int32Type,
    };

    use super::*;

    #[test]
    fn values_come_back_from_their_texts() -> Result<(), ArrowError> {
        let arrays: [(ColumnType, ArrayRef); 9] = [
            (ColumnType::Bool, Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
            (ColumnType::Float4, Arc::new(Float32Array::from(vec![Some(-1.5), Some(f32::NAN), None]))),
            (ColumnType::Float8, Arc::new(Float64Array::from(vec![Some(-0.0), Some(f64::NAN), None]))),
            (
                ColumnType::Numeric { precision: 38, scale: 6 },
                Arc::new(
                    Decimal128Array::from(vec![Some(-(10_i128.pow(37))), Some(1), None])
                        .with_precision_and_scale(38, 6)?,
                ),
            ),
            (ColumnType::Text, Arc::new(StringArray::from(vec![Some("é"), Some(""), None]))),
            (ColumnType::Bytes, Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), Some(b""), None]))),
            (ColumnType::Date, Arc::new(Date32Array::from(vec![Some(-719_162), Some(1), None]))),
            (
                ColumnType::Timestamp { zoned: false },
                Arc::new(
                    TimestampMicrosecondArray::from(vec![Some(i64::MIN), Some(i64::MAX), None])
                        .with_timezone("UTC"),
                ),
            ),
            (
                ColumnType::Int4,
                Arc::new(arrow::array::PrimitiveArray::<Int32Type>::from(vec![
                    Some(i32::MIN),
                    Some(7),
                    None,
                ])),
            ),
        ];
        for (column_type, array) in arrays {
            let back = values(column_type, &text(column_type, &array)?)?;
            // By their texts again: no NaN equals another.
            assert_eq!(text(column_type, &back)?, text(column_type, &array)?, "{column_type:?}");
            assert_eq!(back.data_type(), array.data_type());
        }
        assert!(values(ColumnType::Int4, &StringArray::from(vec!["x"])).is_err());
        assert!(values(ColumnType::Bytes, &StringArray::from(vec!["zz"])).is_err());
        Ok(())
    }
}
