//! Values as they are written: the same text for a row of a feature table and for what the store in memory computes.

use std::{cmp::Reverse, fmt::Write};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{
        DataType, Decimal128Type, DecimalType, Float64Type, Int32Type, Int64Type, TimeUnit,
        TimestampMicrosecondType,
    },
    error::ArrowError,
};
use chrono::{DateTime, SecondsFormat};
use lakeward_features::{CartEvent, Customer, Interaction, Money, OnlineStore, Segment, Session, View};
use serde::{Deserialize, Serialize, Serializer};

/// Products that are kept of a customer's interactions, the highest scores first: it bounds what a customer takes.
pub(crate) const INTERACTIONS: usize = 100;

/// Products that are kept of a customer's history, those bought last.
const HISTORY: usize = 200;

/// RFC 3339 in UTC, microseconds: as the API writes times.
fn time(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn as_time<S: Serializer>(micros: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time(*micros))
}

/// The columns of the view `user_rfm`.
#[derive(Serialize)]
struct UserRfm {
    #[serde(serialize_with = "as_time")]
    last_order_at: i64,
    recency_days: i64,
    frequency: u64,
    monetary: Money,
    recency_score: u8,
    frequency_score: u8,
    monetary_score: u8,
    segment: Segment,
}

impl UserRfm {
    fn of(customer: &Customer) -> Option<Self> {
        let rfm = customer.rfm?;
        Some(Self {
            last_order_at: customer.last_order_at?,
            recency_days: customer.recency_days?,
            frequency: customer.kept_orders,
            monetary: customer.monetary,
            recency_score: rfm.recency_score,
            frequency_score: rfm.frequency_score,
            monetary_score: rfm.monetary_score,
            segment: rfm.segment,
        })
    }
}

/// What a customer is doing, with what they put into the cart last.
#[derive(Serialize)]
struct Visit {
    #[serde(serialize_with = "as_time")]
    started_at: i64,
    #[serde(serialize_with = "as_time")]
    last_event_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_event: Option<String>,
    activity_count: u64,
    #[serde(flatten)]
    cart: Option<CartEvent>,
}

impl From<Session> for Visit {
    fn from(session: Session) -> Self {
        let Session { started_at, last_event_at, last_event, activity_count, cart } = session;
        Self { started_at, last_event_at, last_event, activity_count, cart }
    }
}

#[derive(Serialize)]
struct Scored {
    product_id: i64,
    score: f64,
}

/// A product in a customer's history: a JSON list, since there are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i64, u64, i64, Option<i64>)", into = "(i64, u64, i64, Option<i64>)")]
pub struct Bought {
    pub product_id: i64,
    /// Kept orders that hold it.
    pub purchases: u64,
    pub quantity: i64,
    /// Microseconds UTC.
    pub last_at: Option<i64>,
}

impl From<(i64, u64, i64, Option<i64>)> for Bought {
    fn from((product_id, purchases, quantity, last_at): (i64, u64, i64, Option<i64>)) -> Self {
        Self { product_id, purchases, quantity, last_at }
    }
}

impl From<Bought> for (i64, u64, i64, Option<i64>) {
    fn from(Bought { product_id, purchases, quantity, last_at }: Bought) -> Self {
        (product_id, purchases, quantity, last_at)
    }
}

/// What a customer has bought by a moment, as the texts of a [`crate::Row`].
pub fn history(store: &dyn OnlineStore, user_id: i64, as_of: i64) -> Vec<String> {
    let bought = store.history(user_id, as_of).into_iter().filter(|item| item.purchases > 0);
    let bought: Vec<_> = bought
        .take(HISTORY)
        .map(|item| Bought {
            product_id: item.product_id,
            purchases: item.purchases,
            quantity: item.quantity,
            last_at: item.last_at,
        })
        .collect();
    let text = if bought.is_empty() { None } else { serde_json::to_string(&bought).ok() };
    Vec::from_iter(text)
}

/// A customer's values at a moment by the store in memory, for each of [`crate::CUSTOMER_VIEWS`] the texts of a
/// [`crate::Row`].
pub fn customer_values(store: &dyn OnlineStore, user_id: i64, as_of: i64) -> [(View, Vec<String>); 4] {
    let json = |value: Option<String>| Vec::from_iter(value);
    let rfm = store.customer(user_id, as_of).as_ref().and_then(UserRfm::of);
    let activity = store.activity(user_id, as_of);
    let session = store.session(user_id, as_of);
    [
        (View::UserRfm, json(rfm.and_then(|rfm| serde_json::to_string(&rfm).ok()))),
        (View::UserActivity, json(activity.and_then(|activity| serde_json::to_string(&activity).ok()))),
        (View::UserItemInteractions, interactions(store.interactions(user_id, as_of))),
        (View::Session, json(session.and_then(|session| serde_json::to_string(&Visit::from(session)).ok()))),
    ]
}

/// Product and JSON in turn, the highest scores first.
pub(crate) fn interactions(mut all: Vec<Interaction>) -> Vec<String> {
    all.sort_unstable_by_key(|one| (Reverse(one.millionths), one.product_id));
    all.truncate(INTERACTIONS);
    let texts = all.into_iter().filter_map(|one| {
        let scored = Scored { product_id: one.product_id, score: one.score() };
        Some([one.product_id.to_string(), serde_json::to_string(&scored).ok()?])
    });
    texts.flatten().collect()
}

/// The rows of a batch as JSON objects; a null is left out.
pub(crate) fn json_rows(batch: &RecordBatch) -> Result<Vec<String>, ArrowError> {
    let schema = batch.schema();
    let columns: Vec<_> = schema.fields().iter().zip(batch.columns()).collect();
    let mut rows = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let mut text = String::with_capacity(32 * columns.len());
        for (field, column) in &columns {
            if column.is_valid(row) {
                text.push(if text.is_empty() { '{' } else { ',' });
                // Names of ours, which need no escape.
                let _ = write!(text, "\"{}\":", field.name());
                write_cell(&mut text, column, row)?;
            }
        }
        text.push_str(if text.is_empty() { "{}" } else { "}" });
        rows.push(text);
    }
    Ok(rows)
}

fn write_cell(text: &mut String, column: &ArrayRef, row: usize) -> Result<(), ArrowError> {
    // Writing into a text never fails.
    let _ = match column.data_type() {
        DataType::Int64 => write!(text, "{}", column.as_primitive::<Int64Type>().value(row)),
        DataType::Int32 => write!(text, "{}", column.as_primitive::<Int32Type>().value(row)),
        DataType::Float64 => {
            let number = serde_json::to_string(&column.as_primitive::<Float64Type>().value(row));
            write!(text, "{}", number.map_err(|error| ArrowError::JsonError(error.to_string()))?)
        }
        DataType::Decimal128(_, scale) => {
            write!(text, "\"{}\"", amount(column.as_primitive::<Decimal128Type>().value(row), *scale))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            write!(text, "\"{}\"", time(column.as_primitive::<TimestampMicrosecondType>().value(row)))
        }
        DataType::Utf8 => {
            let string = serde_json::to_string(column.as_string::<i32>().value(row));
            write!(text, "{}", string.map_err(|error| ArrowError::JsonError(error.to_string()))?)
        }
        other => return Err(ArrowError::JsonError(format!("a column of type {other} has no text here"))),
    };
    Ok(())
}

/// As [`Money`] is written, also beyond what it holds.
fn amount(value: i128, scale: i8) -> String {
    let money = u32::try_from(4 - i32::from(scale))
        .ok()
        .and_then(|up| i64::try_from(value.checked_mul(10_i128.checked_pow(up)?)?).ok());
    match money {
        Some(units) => Money::from_units(units).to_string(),
        None => Decimal128Type::format_decimal(value, 38, scale),
    }
}

/// Interactions of a batch's rows: `product_id` and `interaction_score` (six decimals), by row.
pub(crate) fn interaction_rows(batch: &RecordBatch) -> Result<Vec<Option<Interaction>>, ArrowError> {
    let wrong = |name: &str| ArrowError::SchemaError(format!("no column {name} of the type it should have"));
    let products =
        batch.column_by_name("product_id").and_then(|column| column.as_primitive_opt::<Int64Type>());
    let products = products.ok_or_else(|| wrong("product_id"))?;
    let scores = batch.column_by_name("interaction_score");
    let scores = scores
        .filter(|column| matches!(column.data_type(), DataType::Decimal128(_, 6)))
        .and_then(|column| column.as_primitive_opt::<Decimal128Type>())
        .ok_or_else(|| wrong("interaction_score"))?;
    let rows = products.iter().zip(scores.iter()).map(|(product_id, score)| {
        let millionths = i64::try_from(score?).unwrap_or(i64::MAX);
        Some(Interaction { product_id: product_id?, millionths })
    });
    Ok(rows.collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Decimal128Array, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};

    use super::*;

    #[test]
    fn a_row_is_what_json_reads() {
        let decimals = Decimal128Array::from(vec![Some(1_234_500), None]);
        let columns: [(&str, ArrayRef); 5] = [
            ("monetary", Arc::new(decimals.with_precision_and_scale(28, 4).unwrap())),
            ("recency_days", Arc::new(Int64Array::from(vec![3, 4]))),
            ("gap", Arc::new(Float64Array::from(vec![3.0, 0.1]))),
            ("segment", Arc::new(StringArray::from(vec!["a \"b\"", "c"]))),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![0, 1]).with_timezone("UTC"))),
        ];
        let batch =
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)));
        let rows = json_rows(&batch.unwrap()).unwrap();
        assert_eq!(
            rows,
            [
                r#"{"monetary":"123.45","recency_days":3,"gap":3.0,"segment":"a \"b\"","at":"1970-01-01T00:00:00.000000Z"}"#,
                r#"{"recency_days":4,"gap":0.1,"segment":"c","at":"1970-01-01T00:00:00.000001Z"}"#
            ]
        );
    }

    #[test]
    fn the_highest_scores_are_kept() {
        let all = (0..150).map(|product_id| Interaction { product_id, millionths: product_id % 50 * 10_000 });
        let texts = interactions(all.collect());
        assert_eq!(texts.len(), 2 * INTERACTIONS);
        assert_eq!(texts[..2], ["49", r#"{"product_id":49,"score":0.49}"#].map(str::to_owned));
        assert_eq!(texts[2], "99");
        assert!(texts.iter().all(|text| text.len() <= 64));
    }

    #[test]
    fn amounts_beyond_money_are_written_too() {
        assert_eq!(amount(-5, 4), "-0.0005");
        assert_eq!(amount(150, 2), "1.50");
        let most = 10_i128.pow(38) - 1;
        assert_eq!(amount(most, 0), most.to_string());
    }
}
