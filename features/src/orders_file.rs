//! A shop that is known by its orders alone, as anyone can export them.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray},
    compute::{cast, concat_batches, rank},
    datatypes::{DataType, Field, Int64Type, Schema, TimeUnit},
};

use crate::{FeatureError, Result, ShopBatches, ShopTables};

/// The orders of a file as a shop: columns `user_id` (integers or text), `timestamp` (times, dates, ISO 8601 text, UTC, or
/// numbers, also as text: seconds to nanoseconds since the epoch, told apart by the largest) and, if there is one,
/// `amount`. Every order counts as kept.
///
/// # Errors
/// A column is missing, a value is null, or a time or an amount is none; said with the column and the first such row.
pub fn orders_only(batches: &[RecordBatch]) -> Result<ShopTables> {
    let problem = |column: &'static str, problem: String| FeatureError::OrdersFile { column, problem };
    let first = batches.first().ok_or_else(|| problem("user_id", "there is no row".to_owned()))?;
    let all = concat_batches(&first.schema(), batches)
        .map_err(|error| problem("user_id", format!("the parts of the file differ: {error}")))?;
    let column = |name: &'static str, wanted: &DataType| -> Result<ArrayRef> {
        let given =
            all.column_by_name(name).ok_or_else(|| problem(name, "there is no such column".to_owned()))?;
        let values = cast(given, wanted).map_err(|error| problem(name, error.to_string()))?;
        match (0..values.len()).find(|&row| values.is_null(row)) {
            Some(row) => Err(problem(name, format!("row {} is empty or no {wanted}", row + 1))),
            None => Ok(values),
        }
    };
    let users = column("user_id", &DataType::Utf8)?;
    let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let created_at = match column("timestamp", &DataType::Int64) {
        Ok(numbers)
            if !all.column_by_name("timestamp").is_some_and(|given| given.data_type().is_temporal()) =>
        {
            cast(&since_epoch(&numbers), &micros).map_err(|error| problem("timestamp", error.to_string()))?
        }
        _ => column("timestamp", &micros)?,
    };
    let money = DataType::Decimal128(18, 4);
    let amounts = match all.column_by_name("amount") {
        Some(_) => column("amount", &money)?,
        None => cast(&Int64Array::from(vec![0; all.num_rows()]), &money)
            .map_err(|error| problem("amount", error.to_string()))?,
    };
    // Equal ids have equal ranks: that is all a customer's number must do.
    let ranks = rank(&users, None).map_err(|error| problem("user_id", error.to_string()))?;
    let user_ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ranks.into_iter().map(i64::from)));
    let order_ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..all.num_rows() as i64));
    let statuses: ArrayRef =
        Arc::new(StringArray::from_iter_values((0..all.num_rows()).map(|_| "completed")));
    let none: ArrayRef = arrow::array::new_null_array(created_at.data_type(), all.num_rows());
    let orders = named(vec![
        ("order_id", order_ids),
        ("user_id", Arc::clone(&user_ids)),
        ("total_amount", amounts),
        ("status", statuses),
        ("created_at", created_at),
        ("cancelled_at", Arc::clone(&none)),
        ("returned_at", none),
    ])?;
    let empty = |name: &'static str, others: Vec<(&'static str, DataType)>| {
        let columns = std::iter::once((name, DataType::Int64)).chain(others);
        named(columns.map(|(name, kind)| (name, arrow::array::new_empty_array(&kind))).collect())
    };
    let batches = ShopBatches {
        users: vec![empty("user_id", vec![])?],
        products: vec![empty("product_id", vec![])?],
        orders: vec![orders],
        order_items: vec![empty(
            "order_item_id",
            vec![
                ("order_id", DataType::Int64),
                ("product_id", DataType::Int64),
                ("quantity", DataType::Int64),
                ("price_per_unit", money),
            ],
        )?],
        events: vec![],
    };
    // How far the file reaches, beyond its last order, only its owner knows.
    ShopTables::from_batches(&batches, i64::MAX)
}

/// Microseconds from numbers whose unit their size tells.
fn since_epoch(numbers: &ArrayRef) -> ArrayRef {
    let numbers = numbers.as_primitive::<Int64Type>();
    let largest = numbers.values().iter().map(|number| number.unsigned_abs()).max().unwrap_or_default();
    let micros: fn(i64) -> i64 = match largest {
        0..100_000_000_000 => |seconds| seconds * 1_000_000,
        100_000_000_000..100_000_000_000_000 => |millis| millis * 1_000,
        100_000_000_000_000..100_000_000_000_000_000 => |micros| micros,
        _ => |nanos| nanos.div_euclid(1_000),
    };
    Arc::new(numbers.unary::<_, Int64Type>(micros))
}

fn named(columns: Vec<(&'static str, ArrayRef)>) -> Result<RecordBatch> {
    let fields: Vec<_> =
        columns.iter().map(|(name, values)| Field::new(*name, values.data_type().clone(), true)).collect();
    let values = columns.into_iter().map(|(_, values)| values).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), values)
        .map_err(|error| FeatureError::OrdersFile { column: "user_id", problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(users: Vec<Option<&str>>, times: Vec<&str>) -> RecordBatch {
        let users: ArrayRef = Arc::new(StringArray::from(users));
        let times: ArrayRef = Arc::new(StringArray::from(times));
        RecordBatch::try_from_iter_with_nullable([("user_id", users, true), ("timestamp", times, true)])
            .expect("two columns")
    }

    #[tokio::test]
    async fn text_ids_and_iso_times_make_a_shop() {
        let times = vec!["2026-01-01", "2026-01-02T10:00:00Z", "2026-01-03 00:00:00"];
        let shop = orders_only(&[file(vec![Some("a"), Some("b"), Some("a")], times)]).expect("a shop");
        let (first, newest) = shop.order_period().await.expect("it reads").expect("there are orders");
        assert_eq!(newest - first, 2 * crate::DAY);
        let activity = shop.activity(&[newest + 1]).await.expect("activity");
        assert_eq!(activity.num_rows(), 2, "a and b");
    }

    #[tokio::test]
    async fn numbers_are_times_since_the_epoch() {
        let seconds = ["1700000000", "1700086400"];
        let shop = orders_only(&[file(vec![Some("a"), Some("b")], seconds.to_vec())]).expect("a shop");
        let (first, newest) = shop.order_period().await.expect("it reads").expect("there are orders");
        assert_eq!((first, newest - first), (1_700_000_000_000_000, crate::DAY));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_row() {
        let error = |batch| orders_only(&[batch]).err().expect("it is wrong").to_string();
        let text = error(file(vec![Some("a"), Some("b")], vec!["2026-01-01", "yesterday"]));
        assert!(text.contains("timestamp") && text.contains("row 2"), "{text}");
        let text = error(file(vec![Some("a"), None], vec!["2026-01-01", "2026-01-01"]));
        assert!(text.contains("user_id") && text.contains("row 2"), "{text}");
    }
}
