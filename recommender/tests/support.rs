//! Small shops to train on.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use lakeward_recommender::{Interactions, Model, TrainOptions, train};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub const DAY: i64 = 86_400_000_000;

/// One purchase: user, item, time.
pub type Row = (i64, i64, i64);

pub fn batch(rows: &[Row]) -> RecordBatch {
    let ints = |index: fn(&Row) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(index)))
    };
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.2));
    RecordBatch::try_from_iter([
        ("user_id", ints(|row| row.0)),
        ("item_id", ints(|row| row.1)),
        ("timestamp", Arc::new(times.with_timezone("UTC")) as ArrayRef),
    ])
    .expect("equal lengths")
}

pub fn pairs(rows: &[(&str, &str)]) -> RecordBatch {
    let users: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0)));
    let items: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)));
    RecordBatch::try_from_iter([("user_id", users), ("item_id", items)]).expect("equal lengths")
}

/// People of four tastes; each taste has its own 30 items, popular ones first. `again` is how many items of
/// a basket are ones the user has bought before.
pub fn shop(users: i64, baskets: i64, again: usize, seed: u64) -> Vec<Row> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows = Vec::new();
    for user in 0..users {
        let taste = user % 4;
        let mut bought: Vec<i64> = Vec::new();
        for basket in 0..baskets {
            let at = (basket * 7 + rng.random_range(0..3)) * DAY;
            let mut items = Vec::new();
            for place in 0..4 {
                if place < again && !bought.is_empty() {
                    // The first ones bought are the staples.
                    let staples = bought.len().min(3);
                    items.push(bought[rng.random_range(0..staples)]);
                } else {
                    let new = (0..100)
                        .map(|_| {
                            let draw: f64 = rng.random();
                            taste * 30 + (draw * draw * 30.0) as i64
                        })
                        .find(|item| !bought.contains(item));
                    items.extend(new);
                }
            }
            items.sort_unstable();
            items.dedup();
            for item in items {
                rows.push((user, item, at));
                if !bought.contains(&item) {
                    bought.push(item);
                }
            }
        }
    }
    rows
}

pub fn small_options() -> TrainOptions {
    TrainOptions { factors: 8, iterations: 6, min_support: 2, ..TrainOptions::default() }
}

pub fn trained(rows: &[Row], options: &TrainOptions) -> (Interactions, Model) {
    let data = Interactions::from_batches("shop", &[batch(rows)]).expect("readable");
    let model = train(&data, options, "test", &|_, _| ()).expect("trained");
    (data, model)
}
