//! One value of an event, into a column or as Postgres's text.

use std::borrow::Cow;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use num_bigint::BigInt;
use simd_json::{Node, StaticNode};

use super::{
    json::{self, Value},
    reading::{Decimal, Digits, Reading, Unit},
    text,
};
use crate::{
    datetime::{Moment, parse_iso, parse_iso_time, time_text},
    hex,
    table_builder::SourceValue,
    values::{ColumnBuilder, Held, ValueError},
};

/// What the connector makes of `infinity` and `-infinity`: the driver's milliseconds, taken for microseconds, and its days,
/// beyond the end of 32 bits.
const INFINITY_MICROS: i64 = 9_223_372_036_825_200_000;
const MINUS_INFINITY_MICROS: i64 = -9_223_372_036_832_400_000;
const INFINITY_DAYS: i32 = -2_147_472_692;
const MINUS_INFINITY_DAYS: i32 = -2_147_472_691;
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// What stands for a value that is unchanged and was not sent, as each way of writing has it.
#[derive(Debug)]
pub(super) struct Placeholder {
    text: String,
    base64: String,
    url_safe: String,
    hex: String,
    map: String,
}

impl Placeholder {
    pub(super) fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            base64: STANDARD.encode(text),
            url_safe: URL_SAFE.encode(text),
            hex: hex::encode(text.as_bytes()),
            map: format!("{{\"{text}\":\"{text}\"}}"),
        }
    }

    fn is(&self, value: Value<'_>, reading: &Reading) -> bool {
        match (value.first(), reading) {
            (Some(Node::String(text)), Reading::Bytes(digits)) => *text == self.bytes(*digits),
            (Some(Node::String(text)), Reading::Decimal(Decimal::Unscaled { .. }) | Reading::Bits { .. }) => {
                *text == self.text || *text == self.base64
            }
            (Some(Node::String(text)), Reading::Hstore) => *text == self.text || *text == self.map,
            (Some(Node::String(text)), _) => *text == self.text,
            (Some(Node::Object { len: 1, .. }), Reading::Hstore) => {
                json::fields(value).all(|(name, _)| name == self.text)
            }
            (Some(Node::Array { len: 1, .. }), Reading::Array(element)) => json::elements(value)
                .all(|one| self.is(one, element) || json::string(one) == Some(&self.text)),
            // Of numbers: one a byte.
            (Some(Node::Array { len, .. }), Reading::Array(_)) if *len == self.text.len() => {
                json::elements(value)
                    .zip(self.text.bytes())
                    .all(|(one, byte)| json::integer(one) == Some(byte.into()))
            }
            _ => false,
        }
    }

    fn bytes(&self, digits: Digits) -> &str {
        match digits {
            Digits::Base64 => &self.base64,
            Digits::Base64UrlSafe => &self.url_safe,
            Digits::Hex => &self.hex,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Cell<'a> {
    Null,
    /// Text as Postgres writes it.
    Text(&'a str),
    Value {
        value: Value<'a>,
        reading: &'a Reading,
        placeholder: &'a Placeholder,
    },
}

impl SourceValue for Cell<'_> {
    fn is_unavailable(self) -> bool {
        match self {
            Self::Value { value, reading, placeholder } => placeholder.is(value, reading),
            Self::Null | Self::Text(_) => false,
        }
    }

    fn append(self, column: &mut ColumnBuilder) -> Result<Option<String>, ValueError> {
        let (value, reading) = match self {
            Self::Value { value, reading, .. } if !json::is_null(value) && !self.is_unavailable() => {
                (value, reading)
            }
            Self::Text(text) => return column.append_text(text.as_bytes()).map(|_| None),
            Self::Null | Self::Value { .. } => {
                column.append_null();
                return Ok(None);
            }
        };
        match append(value, reading, column)? {
            Held::Yes => Ok(None),
            Held::No => Ok(Some(text_of(value, reading)?.into_owned())),
        }
    }
}

fn append(value: Value<'_>, reading: &Reading, column: &mut ColumnBuilder) -> Result<Held, ValueError> {
    match (reading, value.first(), &mut *column) {
        (Reading::Text | Reading::Other, Some(Node::String(text)), ColumnBuilder::Text(builder)) => {
            builder.append_value(without_zero(text)?);
            Ok(Held::Yes)
        }
        (Reading::Integer, _, _) => {
            column.append_integer(json::integer(value).ok_or(ValueError::Malformed("integer"))?)
        }
        (Reading::Bool, Some(Node::Static(StaticNode::Bool(value))), ColumnBuilder::Bool(builder)) => {
            builder.append_value(*value);
            Ok(Held::Yes)
        }
        (Reading::Float { .. }, _, ColumnBuilder::Float8(builder)) => {
            builder.append_value(json::float(value).ok_or(ValueError::Malformed("double precision"))?);
            Ok(Held::Yes)
        }
        (Reading::Decimal(Decimal::Unscaled { scale }), _, ColumnBuilder::Numeric { .. }) => {
            let (bytes, scale) = unscaled(value, *scale)?;
            match as_i128(&bytes) {
                Some(unscaled) => column.append_unscaled(unscaled, scale),
                None => {
                    column.append_null();
                    Ok(Held::No)
                }
            }
        }
        (Reading::Decimal(Decimal::Text), Some(Node::String(text)), ColumnBuilder::Numeric { .. }) => {
            column.append_text(named(text)?.as_bytes())
        }
        (Reading::Bytes(digits), _, ColumnBuilder::Bytes(builder)) => {
            builder.append_value(decoded(value, *digits)?);
            Ok(Held::Yes)
        }
        (_, _, ColumnBuilder::Date(_) | ColumnBuilder::Timestamp(_)) => {
            column.append_moment(moment(value, reading)?)
        }
        _ => column.append_text(text_of(value, reading)?.as_bytes()),
    }
}

/// What Postgres writes for the value.
fn text_of<'a>(value: Value<'a>, reading: &Reading) -> Result<Cow<'a, str>, ValueError> {
    let string = |what| json::string(value).ok_or(ValueError::Malformed(what));
    let text = match reading {
        Reading::Bool => match value.first() {
            Some(Node::Static(StaticNode::Bool(value))) => if *value { "t" } else { "f" }.to_owned(),
            _ => return Err(ValueError::Malformed("boolean")),
        },
        Reading::Integer => json::integer(value).ok_or(ValueError::Malformed("integer"))?.to_string(),
        Reading::Float { single } => {
            let number = json::float(value).ok_or(ValueError::Malformed("floating-point number"))?;
            if *single { text::float(single_of(number)?.into(), true) } else { text::float(number, false) }
        }
        Reading::Text => return without_zero(string("text")?).map(Cow::Borrowed),
        Reading::Decimal(decimal) => decimal_text(value, *decimal)?,
        Reading::Bytes(digits) => text::bytea(&decoded(value, *digits)?),
        Reading::Days | Reading::IsoDate => moment(value, reading)?.date_text(),
        Reading::Timestamp(_) => moment(value, reading)?.timestamp_text(""),
        Reading::TimestampWithZone => moment(value, reading)?.timestamp_text("+00"),
        Reading::Time(unit) => {
            let micros = match unit {
                Unit::Iso => parse_iso_time(string("time")?.as_bytes()),
                unit => micros(value, *unit),
            };
            let micros = micros.filter(|micros| (0..=MICROS_PER_DAY).contains(micros));
            time_text(micros.ok_or(ValueError::Malformed("time"))?)
        }
        Reading::TimeWithZone => {
            let time = string("time")?;
            match time.strip_suffix('Z').and_then(|_| parse_iso_time(time.as_bytes())) {
                Some(micros) => format!("{}+00", time_text(micros)),
                None => return Err(ValueError::Malformed("time")),
            }
        }
        // As a number it is not what Postgres holds: months have no length.
        Reading::Interval => match json::integer(value) {
            Some(micros) => micros.to_string(),
            None => text::interval(string("interval")?).ok_or(ValueError::Malformed("interval"))?,
        },
        Reading::Bits { length } => match (value.first(), length) {
            (Some(Node::Static(StaticNode::Bool(bit))), _) => if *bit { "1" } else { "0" }.to_owned(),
            (_, Some(length)) => {
                let bits = decoded(value, Digits::Base64)?;
                text::bits(&bits, *length).ok_or(ValueError::Malformed("bit string"))?
            }
            // Zeros at its beginning are not told.
            (_, None) => string("bit string")?.to_owned(),
        },
        Reading::Hstore => match json::string(value) {
            Some(text) => text::hstore_of_json(text).ok_or(ValueError::Malformed("hstore"))?,
            None if json::is_object(value) => text::hstore(value).ok_or(ValueError::Malformed("hstore"))?,
            None => return Err(ValueError::Malformed("hstore")),
        },
        Reading::Point => text::point(value).ok_or(ValueError::Malformed("point"))?,
        Reading::Array(element) => {
            if !matches!(value.first(), Some(Node::Array { .. })) {
                return Err(ValueError::Malformed("array"));
            }
            let text = |one| match json::is_null(one) {
                true => Ok(None),
                false => text_of(one, element).map(|text| Some(text.into_owned())),
            };
            let texts: Vec<_> = json::elements(value).map(text).collect::<Result<_, _>>()?;
            text::array(texts.into_iter())
        }
        Reading::Other => match value.first() {
            Some(Node::String(text)) => return without_zero(text).map(Cow::Borrowed),
            Some(Node::Object { .. } | Node::Array { .. }) => {
                let mut text = String::new();
                json::write(value, &mut text);
                text
            }
            // A number could be a date or a duration just as well.
            _ => return Err(ValueError::Malformed("text, and its type is not known")),
        },
    };
    Ok(Cow::Owned(text))
}

fn without_zero(text: &str) -> Result<&str, ValueError> {
    if text.as_bytes().contains(&0) { Err(ValueError::Zero) } else { Ok(text) }
}

/// The number as `real`: its digits are those of one, and by way of the nearest `double precision` another could result.
fn single_of(number: f64) -> Result<f32, ValueError> {
    if f64::from(number as f32) == number || number.is_nan() {
        return Ok(number as f32);
    }
    number.to_string().parse().map_err(|_| ValueError::Malformed("real"))
}

fn decimal_text(value: Value<'_>, decimal: Decimal) -> Result<String, ValueError> {
    const MALFORMED: ValueError = ValueError::Malformed("numeric");
    match decimal {
        Decimal::Text => Ok(named(json::string(value).ok_or(MALFORMED)?)?.to_owned()),
        Decimal::Unscaled { scale } => {
            let (bytes, scale) = unscaled(value, scale)?;
            Ok(with_point(&BigInt::from_signed_bytes_be(&bytes).to_string(), scale))
        }
        Decimal::Double { scale } => {
            let number = json::float(value).ok_or(MALFORMED)?;
            if !number.is_finite() {
                return Ok(text::float(number, false));
            }
            // The shortest digits: up to fifteen are those that the source had, a sixteenth may be another one.
            let text = if number == 0.0 { "0".to_owned() } else { number.to_string() };
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
            let scale = scale.and_then(|scale| usize::try_from(scale).ok());
            if scale.is_some()
                && text.trim_matches(['-', '0', '.']).bytes().filter(u8::is_ascii_digit).count() > 15
            {
                return Err(ValueError::Inexact);
            }
            let places = scale.unwrap_or(0).max(fraction.len());
            Ok(if places == 0 { text } else { format!("{whole}.{fraction:0<places$}") })
        }
    }
}

/// A decimal in digits, or what the connector calls one that has none.
fn named(text: &str) -> Result<&str, ValueError> {
    Ok(match text {
        "NAN" => "NaN",
        "POSITIVE_INFINITY" => "Infinity",
        "NEGATIVE_INFINITY" => "-Infinity",
        text => without_zero(text)?,
    })
}

/// Digits with `scale` of them behind a point.
fn with_point(digits: &str, scale: i32) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let places = usize::try_from(scale.unsigned_abs()).unwrap_or(0);
    match scale {
        0 => format!("{sign}{digits}"),
        ..0 if digits == "0" => "0".to_owned(),
        ..0 => format!("{sign}{digits}{}", "0".repeat(places)),
        1.. => {
            let digits = format!("{digits:0>width$}", width = places + 1);
            let (whole, fraction) = digits.split_at(digits.len() - places);
            format!("{sign}{whole}.{fraction}")
        }
    }
}

/// More places than Postgres's `numeric` can have.
const MOST_SCALE: u32 = 20_000;

/// The bytes and the scale of a decimal.
fn unscaled(value: Value<'_>, scale: Option<i32>) -> Result<(Vec<u8>, i32), ValueError> {
    const MALFORMED: ValueError = ValueError::Malformed("numeric");
    let (value, scale) = match json::field(value, "value") {
        Some(digits) => {
            (digits, json::field(value, "scale").and_then(json::integer).and_then(|s| i32::try_from(s).ok()))
        }
        None => (value, scale),
    };
    let scale = scale.filter(|scale| scale.unsigned_abs() <= MOST_SCALE).ok_or(MALFORMED)?;
    let bytes = STANDARD.decode(json::string(value).ok_or(MALFORMED)?).map_err(|_| MALFORMED)?;
    Ok((bytes, scale))
}

/// Two's complement, the highest byte first; `None` if it is longer.
fn as_i128(bytes: &[u8]) -> Option<i128> {
    let negative = bytes.first().is_some_and(|first| *first >= 0x80);
    let mut whole = [if negative { 0xff } else { 0 }; 16];
    whole.get_mut(16usize.checked_sub(bytes.len())?..)?.copy_from_slice(bytes);
    Some(i128::from_be_bytes(whole))
}

fn decoded(value: Value<'_>, digits: Digits) -> Result<Vec<u8>, ValueError> {
    const MALFORMED: ValueError = ValueError::Malformed("bytea in the way it is stated to be written");
    let text = json::string(value).ok_or(MALFORMED)?;
    match digits {
        Digits::Base64 => STANDARD.decode(text).map_err(|_| MALFORMED),
        Digits::Base64UrlSafe => URL_SAFE.decode(text).map_err(|_| MALFORMED),
        Digits::Hex => hex::decode(text.as_bytes()).ok_or(MALFORMED),
    }
}

/// A number of some unit in microseconds.
fn micros(value: Value<'_>, unit: Unit) -> Option<i64> {
    let number = json::integer(value)?;
    match unit {
        Unit::Millis => number.checked_mul(1000),
        Unit::Micros => Some(number),
        Unit::Nanos => Some(number.div_euclid(1000)),
        Unit::Iso => None,
    }
}

fn moment(value: Value<'_>, reading: &Reading) -> Result<Moment, ValueError> {
    let iso = || json::string(value).and_then(|text| parse_iso(text.as_bytes()));
    match reading {
        Reading::Days | Reading::IsoDate => {
            let days = match reading {
                Reading::Days => json::integer(value).and_then(|days| i32::try_from(days).ok()),
                _ => iso().and_then(Moment::days),
            };
            Ok(match days.ok_or(ValueError::Malformed("date"))? {
                INFINITY_DAYS => Moment::Infinity,
                MINUS_INFINITY_DAYS => Moment::MinusInfinity,
                days => Moment::of_days(days),
            })
        }
        Reading::Timestamp(unit) => {
            let moment = match unit {
                Unit::Iso => iso(),
                // Where a number is too large the connector sends the largest one there is.
                unit => {
                    micros(value, *unit).filter(|m| ![i64::MIN, i64::MAX].contains(m)).map(Moment::of_micros)
                }
            };
            let moment = moment.ok_or(ValueError::Malformed("timestamp"))?;
            Ok(match moment.micros() {
                Some(INFINITY_MICROS) => Moment::Infinity,
                Some(MINUS_INFINITY_MICROS) => Moment::MinusInfinity,
                _ => moment,
            })
        }
        Reading::TimestampWithZone => iso().ok_or(ValueError::Malformed("timestamp")),
        _ => Err(ValueError::Malformed("date or timestamp in the way its events are written")),
    }
}
