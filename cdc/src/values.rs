//! Postgres's text output to Arrow columns.
//!
//! The session settings in [`crate::connection`] fix the output format: ISO dates, UTC, hexadecimal bytes.

use std::{str::FromStr, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
        Float64Builder, Int16Builder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
    },
    datatypes::DataType,
};
use lakeward_change::ColumnType;

use crate::{
    datetime::{Moment, Parsed, parse_date, parse_timestamp},
    hash::Salt,
    hex,
};

/// A value is not what its column's type writes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ValueError {
    #[error("the value is no {0}")]
    Malformed(&'static str),
    #[error("the value is not UTF-8")]
    NotUtf8,
    #[error("the value holds a zero byte, which no text in Postgres has")]
    Zero,
    #[error(
        "the value came as a double and has more than 15 digits, so some are lost: set decimal.handling.mode to string \
         or precise"
    )]
    Inexact,
}

/// Whether a column could hold the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Yes,
    /// The type has no place for it (NaN or infinity, beyond the range): null stands for it there.
    No,
}

/// Builds one column from texts.
#[derive(Debug)]
pub(crate) enum ColumnBuilder {
    Bool(BooleanBuilder),
    Int2(Int16Builder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Numeric { builder: Decimal128Builder, precision: u8, scale: i8 },
    Text(StringBuilder),
    Hashed { builder: StringBuilder, salt: Salt },
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
}

/// Runs the same expression on whichever builder it is.
macro_rules! each {
    ($self:expr, $builder:ident => $body:expr) => {
        match $self {
            ColumnBuilder::Bool($builder) => $body,
            ColumnBuilder::Int2($builder) => $body,
            ColumnBuilder::Int4($builder) => $body,
            ColumnBuilder::Int8($builder) => $body,
            ColumnBuilder::Float4($builder) => $body,
            ColumnBuilder::Float8($builder) => $body,
            ColumnBuilder::Numeric { builder: $builder, .. } => $body,
            ColumnBuilder::Text($builder) => $body,
            ColumnBuilder::Hashed { builder: $builder, .. } => $body,
            ColumnBuilder::Bytes($builder) => $body,
            ColumnBuilder::Date($builder) => $body,
            ColumnBuilder::Timestamp($builder) => $body,
        }
    };
}

impl ColumnBuilder {
    pub(crate) fn new(column_type: ColumnType, salt: &Salt) -> Self {
        match column_type {
            ColumnType::Bool => Self::Bool(BooleanBuilder::new()),
            ColumnType::Int2 => Self::Int2(Int16Builder::new()),
            ColumnType::Int4 => Self::Int4(Int32Builder::new()),
            ColumnType::Int8 => Self::Int8(Int64Builder::new()),
            ColumnType::Float4 => Self::Float4(Float32Builder::new()),
            ColumnType::Float8 => Self::Float8(Float64Builder::new()),
            ColumnType::Numeric { precision, scale } => Self::Numeric {
                builder: Decimal128Builder::new().with_data_type(DataType::Decimal128(precision, scale)),
                precision,
                scale,
            },
            ColumnType::Text | ColumnType::Uuid | ColumnType::Json => Self::Text(StringBuilder::new()),
            ColumnType::Hashed { .. } => Self::Hashed { builder: StringBuilder::new(), salt: salt.clone() },
            ColumnType::Bytes => Self::Bytes(BinaryBuilder::new()),
            ColumnType::Date => Self::Date(Date32Builder::new()),
            ColumnType::Timestamp { .. } => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC"))
            }
        }
    }

    pub(crate) fn append_null(&mut self) {
        each!(self, builder => builder.append_null());
    }

    /// Appends the value that `text` writes. On an error nothing is appended.
    pub(crate) fn append_text(&mut self, text: &[u8]) -> Result<Held, ValueError> {
        match self {
            Self::Bool(builder) => match text {
                b"t" => builder.append_value(true),
                b"f" => builder.append_value(false),
                _ => return Err(ValueError::Malformed("boolean")),
            },
            Self::Int2(builder) => builder.append_value(parse(text, "smallint")?),
            Self::Int4(builder) => builder.append_value(parse(text, "integer")?),
            Self::Int8(builder) => builder.append_value(parse(text, "bigint")?),
            Self::Float4(builder) => builder.append_value(parse(text, "real")?),
            Self::Float8(builder) => builder.append_value(parse(text, "double precision")?),
            Self::Numeric { builder, precision, scale } => match parse_numeric(text, *precision, *scale)? {
                Parsed::Value(value) => builder.append_value(value),
                Parsed::Beyond => {
                    builder.append_null();
                    return Ok(Held::No);
                }
            },
            Self::Text(builder) => builder.append_value(utf8(text)?),
            Self::Hashed { builder, salt } => builder.append_value(salt.hash(text)),
            Self::Bytes(builder) => append_hex(builder, text)?,
            Self::Date(builder) => match parse_date(text)? {
                Parsed::Value(days) => builder.append_value(days),
                Parsed::Beyond => {
                    builder.append_null();
                    return Ok(Held::No);
                }
            },
            Self::Timestamp(builder) => match parse_timestamp(text)? {
                Parsed::Value(micros) => builder.append_value(micros),
                Parsed::Beyond => {
                    builder.append_null();
                    return Ok(Held::No);
                }
            },
        }
        Ok(Held::Yes)
    }

    /// Appends a whole number. On an error nothing is appended.
    pub(crate) fn append_integer(&mut self, value: i64) -> Result<Held, ValueError> {
        match self {
            Self::Int2(builder) => builder.append_value(narrow(value, "smallint")?),
            Self::Int4(builder) => builder.append_value(narrow(value, "integer")?),
            Self::Int8(builder) => builder.append_value(value),
            _ => return self.append_text(value.to_string().as_bytes()),
        }
        Ok(Held::Yes)
    }

    /// Appends an exact decimal, an integer of `from` fraction digits. On an error nothing is appended.
    pub(crate) fn append_unscaled(&mut self, unscaled: i128, from: i32) -> Result<Held, ValueError> {
        let Self::Numeric { builder, precision, scale } = self else {
            return Err(ValueError::Malformed("numeric"));
        };
        let limit = 10i128.checked_pow(u32::from(*precision)).unwrap_or(i128::MAX);
        let value = rescaled(unscaled, from, i32::from(*scale));
        let value = value.filter(|value| -limit < *value && *value < limit);
        builder.append_option(value);
        Ok(if value.is_some() { Held::Yes } else { Held::No })
    }

    /// Appends a date or a time of a date. On an error nothing is appended.
    pub(crate) fn append_moment(&mut self, moment: Moment) -> Result<Held, ValueError> {
        let held = match self {
            Self::Date(builder) => {
                let days = moment.days();
                builder.append_option(days);
                days.is_some()
            }
            Self::Timestamp(builder) => {
                let micros = moment.micros();
                builder.append_option(micros);
                micros.is_some()
            }
            _ => return Err(ValueError::Malformed("date")),
        };
        Ok(if held { Held::Yes } else { Held::No })
    }

    pub(crate) fn finish(&mut self) -> ArrayRef {
        each!(self, builder => Arc::new(builder.finish()))
    }
}

fn utf8(text: &[u8]) -> Result<&str, ValueError> {
    std::str::from_utf8(text).map_err(|_| ValueError::NotUtf8)
}

fn parse<T: FromStr>(text: &[u8], kind: &'static str) -> Result<T, ValueError> {
    utf8(text)?.parse().map_err(|_| ValueError::Malformed(kind))
}

fn narrow<T: TryFrom<i64>>(value: i64, kind: &'static str) -> Result<T, ValueError> {
    T::try_from(value).map_err(|_| ValueError::Malformed(kind))
}

/// An integer of `from` fraction digits as one of `to`; `None` if that loses a digit or has no room.
fn rescaled(value: i128, from: i32, to: i32) -> Option<i128> {
    if value == 0 || from == to {
        return Some(value);
    }
    let power = 10i128.checked_pow(from.abs_diff(to))?;
    if to > from { value.checked_mul(power) } else { (value % power == 0).then(|| value / power) }
}

/// `\x` and two hexadecimal digits a byte.
fn append_hex(builder: &mut BinaryBuilder, text: &[u8]) -> Result<(), ValueError> {
    const MALFORMED: ValueError = ValueError::Malformed("bytea in hexadecimal");
    let digits = text.strip_prefix(b"\\x").ok_or(MALFORMED)?;
    let bytes = hex::decode(digits).ok_or(MALFORMED)?;
    builder.append_value(bytes);
    Ok(())
}

/// An exact decimal as an integer of `scale` fraction digits.
fn parse_numeric(text: &[u8], precision: u8, scale: i8) -> Result<Parsed<i128>, ValueError> {
    const MALFORMED: ValueError = ValueError::Malformed("numeric");
    if matches!(text, b"NaN" | b"Infinity" | b"-Infinity") {
        return Ok(Parsed::Beyond);
    }
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let point = digits.iter().position(|&c| c == b'.').unwrap_or(digits.len());
    let whole = &digits[..point];
    let fraction = digits.get(point + 1..).unwrap_or_default();
    if whole.is_empty() && fraction.is_empty() {
        return Err(MALFORMED);
    }
    if !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return Err(MALFORMED);
    }
    let scale = usize::try_from(scale).unwrap_or(0);
    if fraction.iter().skip(scale).any(|&c| c != b'0') {
        return Ok(Parsed::Beyond);
    }
    let padding = std::iter::repeat_n(&b'0', scale.saturating_sub(fraction.len()));
    let value = whole
        .iter()
        .chain(fraction.iter().take(scale))
        .chain(padding)
        .try_fold(0i128, |sum, &c| sum.checked_mul(10)?.checked_add(i128::from(c - b'0')));
    let limit = 10i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX);
    Ok(match value.filter(|&value| value < limit) {
        Some(value) => Parsed::Value(if negative { -value } else { value }),
        None => Parsed::Beyond,
    })
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Array, AsArray},
        datatypes::{Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType},
    };
    use proptest::prelude::*;

    use super::*;

    fn one(column_type: ColumnType, text: &str) -> Result<(ArrayRef, Held), ValueError> {
        let mut builder = ColumnBuilder::new(column_type, &Salt::default());
        let held = builder.append_text(text.as_bytes())?;
        Ok((builder.finish(), held))
    }

    #[test]
    fn every_type_makes_its_arrow_type() {
        for (column_type, text) in [
            (ColumnType::Bool, "t"),
            (ColumnType::Int2, "-32768"),
            (ColumnType::Int4, "2147483647"),
            (ColumnType::Int8, "-9223372036854775808"),
            (ColumnType::Float4, "1e-40"),
            (ColumnType::Float8, "-Infinity"),
            (ColumnType::Numeric { precision: 38, scale: 37 }, "0.5"),
            (ColumnType::Text, "é"),
            (ColumnType::Uuid, "00000000-0000-0000-0000-000000000001"),
            (ColumnType::Json, "{}"),
            (ColumnType::Bytes, "\\x00ff"),
            (ColumnType::Date, "2024-02-29"),
            (ColumnType::Timestamp { zoned: true }, "2024-02-29 12:00:00+00"),
            (ColumnType::Timestamp { zoned: false }, "2024-02-29 12:00:00.5"),
        ] {
            let (array, held) = one(column_type, text).expect("valid");
            assert_eq!(array.data_type(), &column_type.arrow(), "{column_type:?}");
            assert_eq!((array.len(), array.null_count(), held), (1, 0, Held::Yes));
        }
    }

    #[test]
    fn values_are_exact() {
        let (array, _) = one(ColumnType::Bytes, "\\x00fFa0").expect("valid");
        assert_eq!(array.as_binary::<i32>().value(0), [0, 0xff, 0xa0]);
        let (array, _) = one(ColumnType::Float8, "-0").expect("valid");
        assert!(array.as_primitive::<Float64Type>().value(0).is_sign_negative());
        let (array, _) = one(ColumnType::Date, "1969-12-31").expect("valid");
        assert_eq!(array.as_primitive::<Date32Type>().value(0), -1);
        let (array, _) =
            one(ColumnType::Timestamp { zoned: true }, "1970-01-01 01:00:00.000001+01").expect("valid");
        assert_eq!(array.as_primitive::<TimestampMicrosecondType>().value(0), 1);
        let (array, _) = one(ColumnType::Int8, "-5").expect("valid");
        assert_eq!(array.as_primitive::<Int64Type>().value(0), -5);
    }

    #[test]
    fn what_a_type_cannot_hold_is_null_and_said() {
        let money = ColumnType::Numeric { precision: 5, scale: 2 };
        for (column_type, text) in [
            (money, "NaN"),
            (money, "Infinity"),
            (money, "1000.00"),
            (money, "0.005"),
            (ColumnType::Date, "infinity"),
            (ColumnType::Timestamp { zoned: true }, "-infinity"),
            (ColumnType::Timestamp { zoned: true }, "294276-12-31 23:59:59+00"),
        ] {
            let (array, held) = one(column_type, text).expect("well-formed");
            assert_eq!((array.null_count(), held), (1, Held::No), "{text}");
        }
    }

    #[test]
    fn malformed_values_are_errors() {
        for (column_type, text) in [
            (ColumnType::Bool, "true"),
            (ColumnType::Int2, "32768"),
            (ColumnType::Int4, ""),
            (ColumnType::Float8, "one"),
            (ColumnType::Numeric { precision: 5, scale: 2 }, "1.2.3"),
            (ColumnType::Numeric { precision: 5, scale: 2 }, "-"),
            (ColumnType::Bytes, "00"),
            (ColumnType::Bytes, "\\x0"),
            (ColumnType::Bytes, "\\xzz"),
            (ColumnType::Date, "2024-02-30x"),
            (ColumnType::Timestamp { zoned: true }, "2024-02-29"),
        ] {
            assert!(one(column_type, text).is_err(), "{column_type:?} {text}");
        }
        let mut builder = ColumnBuilder::new(ColumnType::Text, &Salt::default());
        assert_eq!(builder.append_text(&[0xff]), Err(ValueError::NotUtf8));
    }

    proptest! {
        #[test]
        fn numerics_keep_every_digit(value in -10i128.pow(38) + 1..10i128.pow(38), scale in 0i8..=38) {
            let digits = format!("{:0>width$}", value.unsigned_abs(), width = usize::try_from(scale).expect("small") + 1);
            let (whole, fraction) = digits.split_at(digits.len() - usize::try_from(scale).expect("small"));
            let sign = if value < 0 { "-" } else { "" };
            let point = if scale == 0 { "" } else { "." };
            let text = format!("{sign}{whole}{point}{fraction}");
            let (array, held) = one(ColumnType::Numeric { precision: 38, scale }, &text).expect("valid");
            prop_assert_eq!(held, Held::Yes);
            prop_assert_eq!(array.as_primitive::<Decimal128Type>().value(0), value);
        }

        #[test]
        fn floats_round_trip(value in prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO) {
            let (array, _) = one(ColumnType::Float8, &format!("{value:?}")).expect("valid");
            prop_assert_eq!(array.as_primitive::<Float64Type>().value(0).to_bits(), value.to_bits());
        }

        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(prop::sample::select(&b"0123456789-+.:\\x aefintyBC\xff"[..]), 0..30)) {
            for column_type in [
                ColumnType::Bool, ColumnType::Int8, ColumnType::Float4, ColumnType::Text, ColumnType::Bytes, ColumnType::Date,
                ColumnType::Numeric { precision: 10, scale: 3 }, ColumnType::Timestamp { zoned: true },
            ] {
                let mut builder = ColumnBuilder::new(column_type, &Salt::default());
                let appended = usize::from(builder.append_text(&bytes).is_ok());
                prop_assert_eq!(builder.finish().len(), appended);
            }
        }
    }
}
