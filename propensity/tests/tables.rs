use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use lakeward_propensity::{Error, Table, training_times, windows};

use crate::shop::DAY;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

fn labelled(t0: Vec<i64>, orders: Vec<i32>, label: Vec<bool>) -> RecordBatch {
    batch(vec![
        ("user_id", Arc::new(Int64Array::from_iter_values(0..t0.len() as i64))),
        ("t0", Arc::new(TimestampMicrosecondArray::from(t0).with_timezone("UTC"))),
        ("orders_30d", Arc::new(Int32Array::from(orders))),
        ("label", Arc::new(BooleanArray::from(label))),
    ])
}

#[test]
fn features_are_all_columns_that_do_not_name_the_row() {
    let spend = Decimal128Array::from(vec![1_250, -300]).with_precision_and_scale(12, 2).unwrap();
    let table = Table::from_batches(&[batch(vec![
        ("user_id", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("orders", Arc::new(Int32Array::from(vec![3, 4]))),
        ("spend", Arc::new(spend)),
        ("mobile", Arc::new(BooleanArray::from(vec![true, false]))),
    ])])
    .unwrap();
    assert_eq!(table.names(), ["orders", "spend", "mobile"]);
    assert_eq!(table.rows().collect::<Vec<_>>(), [[3.0, 12.5, 1.0], [4.0, -3.0, 0.0]]);
    let turned = table.select(&["mobile".into(), "orders".into()]).unwrap();
    assert_eq!(turned.rows().collect::<Vec<_>>(), [[1.0, 3.0], [0.0, 4.0]]);
    assert!(matches!(table.select(&["age".into()]), Err(Error::MissingColumn(name)) if name == "age"));
}

#[test]
fn bad_columns_are_named() {
    let refused = |columns| Table::from_batches(&[batch(columns)]).unwrap_err();
    let nulls: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, None]));
    let error = refused(vec![("gap", nulls)]);
    assert!(matches!(&error, Error::NotFinite { column, count: 2 } if column == "gap"), "{error}");
    let nan: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::NAN, f64::INFINITY]));
    let error = refused(vec![("gap", nan)]);
    assert!(matches!(&error, Error::NotFinite { column, count: 2 } if column == "gap"), "{error}");
    let text: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    assert!(matches!(refused(vec![("gap", Arc::clone(&text))]), Error::ColumnType { .. }));
    assert!(matches!(refused(vec![("user_id", text)]), Error::NoFeatures));
    assert!(matches!(Table::from_batches(&[]), Err(Error::NoFeatures)));
    let twice = vec!["a".to_owned(), "a".to_owned()];
    assert!(matches!(Table::new(twice, vec![0.0; 2], 1), Err(Error::DuplicateColumn(_))));
    assert!(matches!(Table::new(vec!["a".into()], vec![0.0; 2], 1), Err(Error::ValueCount { .. })));
}

#[test]
fn rows_are_split_by_their_time_across_batches() {
    let found = windows(&[
        labelled(vec![2 * DAY, DAY], vec![7, 5], vec![true, false]),
        labelled(vec![DAY, DAY], vec![6, 4], vec![true, true]),
    ])
    .unwrap();
    let times: Vec<i64> = found.iter().map(|window| window.t0()).collect();
    assert_eq!(times, [DAY, 2 * DAY]);
    assert_eq!(found[0].table().rows().collect::<Vec<_>>(), [[4.0], [5.0], [6.0]]);
    assert_eq!(found[0].churned(), [true, false, true]);
    assert!(windows(&[]).unwrap().is_empty());
}

#[test]
fn windows_need_time_and_label() {
    let whole = labelled(vec![DAY], vec![1], vec![true]);
    for (dropped, name) in [(1, "t0"), (3, "label")] {
        let mut part = whole.clone();
        part.remove_column(dropped);
        assert!(matches!(windows(&[part]), Err(Error::MissingColumn(column)) if column == name));
    }
    let mut other = whole.clone();
    other.remove_column(2);
    assert!(matches!(windows(&[whole, other]), Err(Error::ColumnsDiffer)));
}

#[test]
fn training_times_are_whole_horizons_back_and_after_the_first_order() {
    assert_eq!(training_times(100 * DAY, 30, 2, 0), [40 * DAY, 70 * DAY]);
    assert_eq!(training_times(100 * DAY, 30, 9, 0), [10 * DAY, 40 * DAY, 70 * DAY]);
    assert_eq!(training_times(100 * DAY, 30, 9, 40 * DAY), [70 * DAY]);
    assert!(training_times(100 * DAY, 30, 9, 99 * DAY).is_empty());
    assert!(training_times(i64::MIN, 30, 9, i64::MIN).is_empty());
}
