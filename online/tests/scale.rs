//! How fast feature tables come into Redis, what they take there, and how fast they are read: printed as JSON, never asserted.
//! `bench/online.py` runs it, with LAKEWARD_CUSTOMERS customers.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use futures::{StreamExt, stream};
use lakeward_change::Position;
use lakeward_features::{ACTIVITY_COLUMNS, View};
use lakeward_lakehouse::Lake;
use lakeward_online::{MaterializeOptions, Online};
use serde_json::{Value, json};

use crate::{
    lake::Tables,
    server::{DAY, Server},
};

const AS_OF: i64 = 20_000 * DAY;
const ROWS: i64 = 65_536;
/// Of each customer; ten customers a product.
const PRODUCTS: i64 = 20;

/// A number that looks random, from a row's.
fn scattered(number: i64, below: i64) -> i64 {
    (number.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64) >> 20).rem_euclid(below)
}

fn integers(rows: std::ops::Range<i64>, value: impl Fn(i64) -> i64) -> ArrayRef {
    Arc::new(rows.map(value).collect::<Int64Array>())
}

fn decimals(rows: std::ops::Range<i64>, precision: u8, scale: i8, below: i64) -> ArrayRef {
    let values: Decimal128Array = rows.map(|row| Some(i128::from(scattered(row, below)))).collect();
    Arc::new(values.with_precision_and_scale(precision, scale).unwrap())
}

fn times(rows: std::ops::Range<i64>, value: impl Fn(i64) -> i64) -> ArrayRef {
    Arc::new(rows.map(|row| Some(value(row))).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn columns(view: View, rows: std::ops::Range<i64>, round: i64) -> Vec<(&'static str, ArrayRef)> {
    let small = |below: i64| integers(rows.clone(), move |row| scattered(row + round, below));
    let mut columns = match view {
        View::UserRfm => vec![
            ("user_id", integers(rows.clone(), |row| row)),
            ("last_order_at", times(rows.clone(), |row| AS_OF - scattered(row, 400 * DAY))),
            ("recency_days", small(400)),
            ("frequency", small(60)),
            ("monetary", decimals(rows.clone(), 28, 4, 50_000_000)),
            ("recency_score", small(5)),
            ("frequency_score", small(5)),
            ("monetary_score", small(5)),
            (
                "segment",
                Arc::new(rows.clone().map(|_| Some("potential_loyal")).collect::<StringArray>()) as _,
            ),
        ],
        View::UserActivity => {
            let mut columns = vec![("user_id", integers(rows.clone(), |row| row))];
            for (at, name) in ACTIVITY_COLUMNS.into_iter().enumerate() {
                // Counts are whole; the others have all their digits.
                let part = if name.starts_with("orders") || name == "distinct_weeks" { 1.0 } else { 7.0 };
                let values = rows.clone().map(|row| scattered(row + at as i64 + round, 700) as f64 / part);
                columns.push((name, Arc::new(values.collect::<Float64Array>()) as ArrayRef));
            }
            columns
        }
        View::UserItemInteractions => vec![
            ("user_id", integers(rows.clone(), |row| row / PRODUCTS)),
            ("product_id", integers(rows.clone(), |row| row % PRODUCTS * 5_000 + scattered(row, 5_000))),
            ("interaction_score", decimals(rows.clone(), 28, 6, 9_000_000)),
        ],
        _ => vec![
            ("product_id", integers(rows.clone(), |row| row)),
            ("purchase_count", small(90_000)),
            ("customers", small(9_000)),
            ("quantity", small(100_000)),
            ("revenue", decimals(rows.clone(), 28, 4, 500_000_000)),
            ("avg_price", decimals(rows.clone(), 18, 4, 500_000)),
            ("purchases_7d", small(100)),
            ("purchases_30d", small(400)),
            ("purchases_90d", small(1_000)),
            ("trend", Arc::new(rows.clone().map(|row| row as f64 / 7.0).collect::<Float64Array>()) as _),
            ("last_purchased_at", times(rows.clone(), |row| AS_OF - scattered(row, 400 * DAY))),
        ],
    };
    columns.insert(1, ("event_time", times(rows, |_| AS_OF)));
    columns
}

async fn build(lake: &Lake, view: View, rows: i64, commit: i64, changed: i64) {
    let batches = (0..rows).step_by(ROWS as usize).map(|start| {
        // Only the first rows are others in another round.
        let round = if start < changed { commit } else { 0 };
        RecordBatch::try_from_iter(columns(view, start..rows.min(start + ROWS), round)).unwrap()
    });
    let frame = lake.session().read_batches(batches.collect::<Vec<_>>()).unwrap();
    let position = Position { epoch: 1, commit, order: 0 };
    lake.write_features(view.name(), frame, AS_OF, Some(position)).await.unwrap();
}

async fn load(online: &Online, lake: &Lake, view: View) -> Value {
    let options = MaterializeOptions { views: Some(vec![view]), ..Default::default() };
    let report = online.materialize(lake, &options, &|_| {}).await.unwrap().remove(0);
    let seconds = report.elapsed.as_secs_f64();
    json!({
        "sent": report.sent,
        "entities": report.entities,
        "seconds": (seconds * 100.0).round() / 100.0,
        "entities_per_second": (report.entities as f64 / seconds).round(),
    })
}

async fn reads(online: &Online, customers: i64, entities: i64) -> Value {
    const CALLS: i64 = 3_000;
    let (mut waits, mut failed) = (Vec::new(), 0);
    for call in 0..CALLS {
        let ids: Vec<_> = (0..entities).map(|at| scattered(call * entities + at, customers)).collect();
        let began = Instant::now();
        match online.customers(&ids, AS_OF).await {
            Ok(_) => waits.push(began.elapsed().as_secs_f64() * 1000.0),
            // Whoever is too late is not answered, nor is anybody for a while after.
            Err(_) => {
                failed += 1;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    waits.sort_by(f64::total_cmp);
    let share = |share: f64| (waits[(share * waits.len() as f64) as usize] * 100.0).round() / 100.0;
    json!({ "customers": entities, "p50_ms": share(0.5), "p99_ms": share(0.99), "failed": failed })
}

/// What Redis does with as much as `user_rfm` is, if nobody compares places: a hash and its expiry an entity.
async fn plain(server: &Server, customers: i64) -> Value {
    const ENTITIES: i64 = 512;
    let value: String = server.ask("HGET", &["shop:user:1", "user_rfm"]).await;
    let (connection, began) = (server.connect().await, Instant::now());
    let sent = stream::iter((0..customers).step_by(ENTITIES as usize)).map(|start| {
        let (mut connection, mut commands) = (connection.clone(), redis::pipe());
        for entity in start..customers.min(start + ENTITIES) {
            let key = format!("plain:user:{entity}");
            let fields = [("user_rfm", value.as_str()), ("_ts:user_rfm", "0"), ("_pos:user_rfm", "0")];
            commands.hset_multiple(&key, &fields).ignore().expire(&key, 86_400).ignore();
        }
        async move { commands.exec_async(&mut connection).await.unwrap() }
    });
    sent.buffer_unordered(8).collect::<()>().await;
    let seconds = began.elapsed().as_secs_f64();
    json!({ "entities": customers, "entities_per_second": (customers as f64 / seconds).round() })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn scale() {
    let customers: i64 = std::env::var("LAKEWARD_CUSTOMERS").map_or(100_000, |text| text.parse().unwrap());
    let Some(server) = Server::start().await else { return };
    let (online, tables) = (server.online(), Tables::new());
    let memory = async || -> i64 {
        let told: String = server.ask("INFO", &["memory"]).await;
        let used = told.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        used.trim().parse().unwrap()
    };
    let (empty, mut report) = (memory().await, serde_json::Map::new());
    let mut before = empty;
    for view in lakeward_online::VIEWS {
        let rows = match view {
            View::UserItemInteractions => customers * PRODUCTS,
            View::ProductPopularity => customers / 10,
            _ => customers,
        };
        build(&tables.lake, view, rows, 1_000, 0).await;
        let mut told = load(&online, &tables.lake, view).await;
        let after = memory().await;
        told["bytes_per_entity"] = json!((after - before) / told["entities"].as_i64().unwrap());
        before = after;
        if view == View::UserActivity {
            build(&tables.lake, view, rows, 1_001, rows / 10).await;
            told["a_tenth_changed"] = load(&online, &tables.lake, view).await;
        }
        report.insert(view.name().to_owned(), told);
    }
    let used = memory().await - empty;
    report.insert("customers".to_owned(), json!(customers));
    report.insert("mib".to_owned(), json!(used >> 20));
    report.insert("mib_per_million_customers".to_owned(), json!((used >> 20) * 1_000_000 / customers));
    report.insert(
        "reads".to_owned(),
        json!([reads(&online, customers, 1).await, reads(&online, customers, 100).await]),
    );
    report.insert("plain".to_owned(), plain(&server, customers).await);
    println!("{}", Value::Object(report));
}
