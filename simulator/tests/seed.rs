use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use lakeward_simulator::{Error, SeedOptions, create_schema, seed};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio_util::sync::CancellationToken;

use crate::server::Database;

pub fn as_of() -> DateTime<Utc> {
    "2024-06-01T00:00:00Z".parse().unwrap()
}

pub async fn seed_small(database: &Database) {
    seed(&database.url, &SeedOptions::small(as_of()), &|_, _| {}, &CancellationToken::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_shop_is_whole_and_ends_as_of_its_end() {
    let database = Database::new("seed_small").await;
    let folder = tempfile::tempdir().unwrap();
    let truth = folder.path().join("truth.parquet");
    let options = SeedOptions { truth: Some(truth.clone()), ..SeedOptions::small(as_of()) };
    let (done, total) = (AtomicU64::new(0), AtomicU64::new(0));
    let progress = |d: u64, t: u64| {
        done.store(d, Ordering::Relaxed);
        total.store(t, Ordering::Relaxed);
    };
    let report = seed(&database.url, &options, &progress, &CancellationToken::new()).await.unwrap();

    assert_eq!((report.users, report.products), (100, 50));
    for (table, count) in [
        ("users", report.users),
        ("products", report.products),
        ("orders", report.orders),
        ("order_items", report.order_items),
        ("events", report.events),
    ] {
        assert_eq!(database.number(&format!("select count(*) from {table}")).await, count as i64, "{table}");
    }
    let rows = report.users + report.products + report.orders + report.order_items + report.events;
    assert_eq!((done.into_inner(), total.into_inner()), (rows, rows));
    assert_eq!(database.number("select count(distinct category) from products").await, 4);
    assert!(database.number("select count(distinct status) from orders").await >= 4);
    database.assert_totals_add_up().await;
    let future = "select count(*) from orders where greatest(created_at, paid_at, shipped_at, completed_at, \
                  cancelled_at, returned_at) >= '2024-06-01T00:00:00Z'";
    assert_eq!(database.number(future).await, 0);
    assert_eq!(database.number("select count(*) from pg_constraint where not convalidated").await, 0);
    assert_eq!(database.number("select count(*) from pg_constraint where conname like '%fkey'").await, 5);
    // The next row's key lies behind the loaded ones.
    let next: i64 = database.number("select nextval(pg_get_serial_sequence('orders', 'order_id'))").await;
    assert_eq!(next, report.orders as i64 + 1);

    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&truth).unwrap()).unwrap();
    assert_eq!(reader.metadata().file_metadata().num_rows(), 100);
    assert!(reader.schema().field_with_name("dropped_out_at").is_ok());

    let again = seed(&database.url, &options, &|_, _| {}, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(again, Error::NotEmpty { table: "users" }) && !again.is_retryable());
    create_schema(&database.url).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let mut checksums = Vec::new();
    for (name, threads, seed_number) in [("seed_one", 1, 42), ("seed_three", 3, 42), ("seed_other", 3, 43)] {
        let database = Database::new(name).await;
        // Also into a schema that is there already.
        create_schema(&database.url).await.unwrap();
        let options = SeedOptions { users: 600, threads, seed: seed_number, ..SeedOptions::small(as_of()) };
        seed(&database.url, &options, &|_, _| {}, &CancellationToken::new()).await.unwrap();
        checksums.push(database.checksums().await);
    }
    assert_eq!(checksums[0], checksums[1]);
    assert_ne!(checksums[0], checksums[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_load_leaves_nothing() {
    let database = Database::new("seed_cancelled").await;
    let cancel = CancellationToken::new();
    let options = SeedOptions { users: 5000, ..SeedOptions::standard(as_of()) };
    let stop = |_: u64, _: u64| cancel.cancel();
    let error = seed(&database.url, &options, &stop, &cancel).await.unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    database.assert_untouched().await;
}

#[tokio::test]
async fn impossible_sizes_are_refused() {
    let options = SeedOptions { categories: 51, ..SeedOptions::small(as_of()) };
    let error =
        seed("postgres://nowhere", &options, &|_, _| {}, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, Error::Option { name: "categories", .. }) && !error.is_retryable());
}
