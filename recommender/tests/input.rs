//! Reading interactions: what is accepted, and what the errors say.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int32Array, Int64Array, LargeStringArray, RecordBatch,
    StringArray, UInt64Array,
};
use lakeward_recommender::{Interactions, RecommenderError};

use crate::support;

fn text(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn read(columns: Vec<(&str, ArrayRef)>) -> Result<Interactions, RecommenderError> {
    Interactions::from_batches("orders.csv", &[RecordBatch::try_from_iter(columns).expect("a batch")])
}

#[test]
fn ids_of_all_kinds_are_one_text() {
    let columns: [ArrayRef; 4] = [
        Arc::new(Int32Array::from(vec![10, 9, 10])),
        Arc::new(UInt64Array::from(vec![10, 9, 10])),
        Arc::new(LargeStringArray::from(vec!["10", "9", "10"])),
        text(&["10", "9", "10"]),
    ];
    for column in columns {
        let data = read(vec![("user_id", column), ("item_id", text(&["a", "b", "c"]))]).expect("readable");
        assert_eq!(data.users(), ["9", "10"]);
        assert_eq!(data.history("10").len(), 2);
    }
}

#[test]
fn rows_of_a_basket_are_one_purchase_and_weights_add_up() {
    let data = read(vec![
        ("user_id", text(&["u"; 5])),
        ("item_id", text(&["a", "a", "a", "a", "b"])),
        (
            "timestamp",
            text(&["2024-01-01", "2024-01-01", "2024-01-05", "2024-01-05T10:00:00Z", "2024-01-05"]),
        ),
        ("basket_id", Arc::new(Int64Array::from(vec![1, 1, 2, 3, 2]))),
        (
            "weight",
            Arc::new(
                Decimal128Array::from(vec![100, 150, 25, 25, 100])
                    .with_precision_and_scale(12, 2)
                    .expect("fits"),
            ),
        ),
    ])
    .expect("readable");
    let history = data.history("u");
    assert_eq!((history[0].purchases, history[0].weight), (3.0, 3.0));
    assert_eq!(history[0].last_at, Some(1_704_448_800_000_000));
    assert_eq!((history[1].purchases, history[1].weight), (1.0, 1.0));
    assert_eq!((data.rows(), data.pairs()), (5, 2));
}

#[test]
fn without_baskets_rows_of_one_time_are_one_purchase() {
    let rows = [(1, 5, 0), (1, 5, 0), (1, 5, support::DAY), (1, 6, 0)];
    let data = Interactions::from_batches("t", &[support::batch(&rows)]).expect("readable");
    let history = data.history("1");
    assert_eq!((history[0].purchases, history[0].weight), (2.0, 2.0));
    let (train, test) = data.split_last_basket(0);
    assert_eq!((train.num_rows(), test.num_rows()), (2, 1));
}

#[test]
fn integer_times_are_told_apart_by_magnitude() {
    let seconds = 1_700_000_000_i64;
    for factor in [1, 1_000, 1_000_000, 1_000_000_000] {
        let data = read(vec![
            ("user_id", text(&["u"])),
            ("item_id", text(&["a"])),
            ("timestamp", Arc::new(Int64Array::from(vec![seconds * factor]))),
        ])
        .expect("readable");
        assert_eq!(data.last_at(), Some(seconds * 1_000_000));
    }
}

#[test]
fn numbers_may_come_as_text() {
    let data = read(vec![
        ("user_id", text(&["u", "u"])),
        ("item_id", text(&["a", "b"])),
        ("timestamp", text(&["1700000000", "1600000000"])),
        ("weight", text(&["2", "0.5"])),
    ])
    .expect("readable");
    assert_eq!(data.last_at(), Some(1_700_000_000_000_000));
    assert_eq!(data.history("u").iter().map(|pair| pair.weight).collect::<Vec<_>>(), [2.0, 0.5]);
}

#[test]
fn errors_name_column_and_row() {
    let message = |columns| read(columns).expect_err("refused").to_string();
    let ids = || text(&["1", "2", "3"]);
    let users = || ("user_id", ids());
    let items = || ("item_id", ids());

    let missing = message(vec![users()]);
    assert!(missing.starts_with("orders.csv: column `item_id` is missing"), "{missing}");

    let null: ArrayRef = Arc::new(StringArray::from(vec![Some("1"), None, Some("3")]));
    let null = message(vec![users(), ("item_id", null)]);
    assert!(null.contains("`item_id` is null in row 2"), "{null}");

    let empty = message(vec![("user_id", text(&["1", "2", ""])), items()]);
    assert!(empty.contains("`user_id` in row 3"), "{empty}");

    let float: ArrayRef = Arc::new(Float64Array::from(vec![1.5, 2.0, 3.0]));
    let wrong = message(vec![("user_id", Arc::clone(&float)), items()]);
    assert!(wrong.contains("`user_id` has type Float64"), "{wrong}");

    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let weight: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 1.0, bad]));
        let weight = message(vec![users(), items(), ("weight", weight)]);
        assert!(weight.contains("`weight` in row 3"), "{weight}");
    }

    let time = message(vec![users(), items(), ("timestamp", text(&["2024-01-01", "soon", "2024-01-02"]))]);
    assert!(time.contains("`timestamp` in row 2: not a timestamp"), "{time}");

    let weight = message(vec![users(), items(), ("weight", text(&["1", "2.5", "much"]))]);
    assert!(weight.contains("`weight` in row 3: not a number"), "{weight}");

    let time = message(vec![users(), items(), ("timestamp", text(&["1700000000", "2024-01-01", "2"]))]);
    assert!(time.contains("`timestamp` in row 2: not a timestamp"), "{time}");
}

#[test]
fn rows_are_counted_over_batches() {
    let good = support::pairs(&[("a", "x"), ("b", "y")]);
    let bad: ArrayRef = Arc::new(StringArray::from(vec![Some("c"), None]));
    let bad = RecordBatch::try_from_iter([("user_id", bad), ("item_id", text(&["x", "y"]))]);
    let error = Interactions::from_batches("t", &[good, bad.expect("a batch")]).expect_err("refused");
    assert_eq!(error, RecommenderError::Null { table: "t".to_owned(), column: "user_id".to_owned(), row: 4 });
}

#[test]
fn no_rows_is_an_error_after_missing_columns() {
    let empty = support::pairs(&[]);
    let error = Interactions::from_batches("t", &[empty]).expect_err("refused");
    assert_eq!(error, RecommenderError::Empty { table: "t".to_owned() });
    let error = Interactions::from_batches("t", &[]).expect_err("refused");
    assert_eq!(error, RecommenderError::Empty { table: "t".to_owned() });
    let error = read(vec![("user_id", text(&[]))]).expect_err("refused");
    assert!(matches!(error, RecommenderError::MissingColumn { .. }));
}
