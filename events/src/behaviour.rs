//! A behaviour event's columns, whatever it came by.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Decimal128Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};
use uuid::Uuid;

/// What is told of an event, in our order.
pub const FIELDS: [&str; 9] = [
    "event_time",
    "event_type",
    "product_id",
    "category_id",
    "category_code",
    "brand",
    "price",
    "user_id",
    "user_session",
];
pub(crate) const EVENT_ID: &str = "event_id";
pub(crate) const TIME: usize = 0;
const PRICE: usize = 6;
const TEXTS: [usize; 4] = [1, 4, 5, 8];
const INTEGERS: [usize; 3] = [2, 3, 7];
const DIGITS: u8 = 12;
const SCALE: i8 = 2;

/// The texts of an event's fields; `None` is null.
pub(crate) type Texts<'e> = [Option<&'e str>; FIELDS.len()];

/// An event's values, but for its identifier and time.
pub(crate) struct Values<'e> {
    texts: [Option<&'e str>; TEXTS.len()],
    integers: [Option<i64>; INTEGERS.len()],
    price: Option<i128>,
}

impl<'e> Values<'e> {
    /// # Errors
    /// A field whose text its column cannot hold, and the rule that it breaks.
    pub(crate) fn of(texts: &Texts<'e>) -> Result<Self, (&'static str, &'static str)> {
        let price = texts[PRICE].map(cents).transpose().map_err(|()| ("price", "physicalType"))?;
        let mut integers = [None; INTEGERS.len()];
        for (integer, field) in integers.iter_mut().zip(INTEGERS) {
            let parsed = texts[field].map(str::parse).transpose();
            *integer = parsed.map_err(|_| (FIELDS[field], "logicalType"))?;
        }
        Ok(Self { texts: TEXTS.map(|field| texts[field]), integers, price })
    }
}

/// Events as they become columns.
#[derive(Default)]
pub(crate) struct Columns {
    ids: StringBuilder,
    times: TimestampMicrosecondBuilder,
    /// Type, category code, brand, session.
    texts: [StringBuilder; TEXTS.len()],
    /// Product, category, customer.
    integers: [Int64Builder; INTEGERS.len()],
    prices: Decimal128Builder,
}

impl Columns {
    pub(crate) fn append(&mut self, id: Uuid, time: i64, values: &Values<'_>) {
        self.ids.append_value(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        self.times.append_value(time);
        for (builder, value) in self.texts.iter_mut().zip(values.texts) {
            builder.append_option(value);
        }
        for (builder, value) in self.integers.iter_mut().zip(values.integers) {
            builder.append_option(value);
        }
        self.prices.append_option(values.price);
    }

    /// In the order of [`schema`].
    pub(crate) fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        let [kind, code, brand, session] =
            self.texts.each_mut().map(|texts| Arc::new(texts.finish()) as ArrayRef);
        let [product, category, user] =
            self.integers.each_mut().map(|integers| Arc::new(integers.finish()) as ArrayRef);
        Ok(vec![
            Arc::new(self.ids.finish()),
            Arc::new(self.times.finish().with_timezone("UTC")),
            kind,
            product,
            category,
            code,
            brand,
            Arc::new(self.prices.finish().with_precision_and_scale(DIGITS, SCALE)?),
            user,
            session,
        ])
    }
}

/// The identifier and the nine fields, and then other columns.
pub(crate) fn schema(others: impl IntoIterator<Item = (&'static str, DataType)>) -> SchemaRef {
    let data_type = |name: &str| match name {
        "event_time" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "product_id" | "category_id" | "user_id" => DataType::Int64,
        "price" => DataType::Decimal128(DIGITS, SCALE),
        _ => DataType::Utf8,
    };
    let own = [EVENT_ID].into_iter().chain(FIELDS).map(|name| (name, data_type(name)));
    let fields = own.chain(others).map(|(name, data_type)| Field::new(name, data_type, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Text of at most two decimals as hundredths, if decimal(12,2) holds it.
fn cents(text: &str) -> Result<i128, ()> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (fraction, rest) = fraction.split_at_checked(2.min(fraction.len())).ok_or(())?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty()
        || whole.len() > 10
        || !digits(whole)
        || !digits(fraction)
        || rest.bytes().any(|byte| byte != b'0')
    {
        return Err(());
    }
    format!("{whole}{fraction:0<2}").parse().map_err(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_exact() {
        for (text, expected) in
            [("35.79", 3579), ("0", 0), ("7.5", 750), ("1.500", 150), ("9999999999.99", 999_999_999_999)]
        {
            assert_eq!(cents(text), Ok(expected), "{text}");
        }
        for text in ["", ".5", "1.005", "-1", "1e3", "10000000000", "1,5", "+1", "1.2é"] {
            assert_eq!(cents(text), Err(()), "{text}");
        }
    }
}
