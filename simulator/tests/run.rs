use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use lakeward_simulator::{Error, RunOptions, SeedOptions, ShopEvent, create_schema, run, seed};
use tokio_util::sync::CancellationToken;

use crate::seed::{as_of, seed_small};
use crate::server::Database;

#[tokio::test(flavor = "multi_thread")]
async fn order_k_has_the_time_start_plus_k_over_rate() {
    let database = Database::new("run_rate").await;
    seed_small(&database).await;
    let options = RunOptions { rate: 50.0, orders: Some(250), ..RunOptions::new(as_of()) };
    let seen = Mutex::new(Vec::new());
    let note = |event: &ShopEvent| seen.lock().unwrap().push(event.clone());
    let report = run(&database.url, &options, &note, &CancellationToken::new()).await.unwrap();
    let seen = seen.into_inner().unwrap();

    assert_eq!(report.orders, 250);
    assert_eq!(report.transactions as usize, seen.len());
    // The schedule is absolute: no order is placed before it is due.
    assert!(report.elapsed.as_secs_f64() >= 249.0 / 50.0);
    let off = "select count(*) from (select created_at, row_number() over (order by created_at) - 1 as k from orders \
               where created_at >= '2024-06-01') as live \
               where created_at <> timestamptz '2024-06-01Z' + k * interval '20 milliseconds'";
    assert_eq!(database.number(off).await, 0);
    assert_eq!(database.number("select count(*) from orders where created_at >= '2024-06-01'").await, 250);
    database.assert_totals_add_up().await;
    // What was told was committed.
    for event in &seen {
        if let ShopEvent::Order { order_id, total_amount, .. } = event {
            let row = database
                .client
                .query_one("select total_amount from orders where order_id = $1", &[order_id])
                .await;
            assert_eq!(row.unwrap().get::<_, rust_decimal::Decimal>(0), *total_amount);
        }
    }
    assert!(seen.iter().any(|event| matches!(event, ShopEvent::Status { .. })));
    assert!(seen.iter().any(|event| matches!(event, ShopEvent::Browsed { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_start_gives_the_same_rows_on_several_connections() {
    let mut checksums = Vec::new();
    for name in ["run_once", "run_twice"] {
        let database = Database::new(name).await;
        seed_small(&database).await;
        let options = RunOptions { rate: 400.0, orders: Some(400), ..RunOptions::new(as_of()) };
        run(&database.url, &options, &|_| {}, &CancellationToken::new()).await.unwrap();
        checksums.push(database.checksums().await);
    }
    assert_eq!(checksums[0], checksums[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_account_takes_everything_along() {
    let database = Database::new("run_erase").await;
    // Most of so many customers have no open order, and may leave.
    let shop = SeedOptions { users: 3000, ..SeedOptions::small(as_of()) };
    seed(&database.url, &shop, &|_, _| {}, &CancellationToken::new()).await.unwrap();
    let options = RunOptions { rate: 500.0, orders: Some(1500), ..RunOptions::new(as_of()) };
    let closed = Mutex::new(Vec::new());
    let note = |event: &ShopEvent| {
        if let ShopEvent::AccountDeleted { user_id, .. } = event {
            closed.lock().unwrap().push(*user_id);
        }
    };
    run(&database.url, &options, &note, &CancellationToken::new()).await.unwrap();
    let closed = closed.into_inner().unwrap();
    assert!(!closed.is_empty());
    for table in ["users", "orders", "events"] {
        let sql = format!("select count(*) from {table} where user_id = any($1)");
        assert_eq!(database.client.query_one(&sql, &[&closed]).await.unwrap().get::<_, i64>(0), 0, "{table}");
    }
    database.assert_totals_add_up().await;
    assert_eq!(database.number("select count(*) from products where stock < 0").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_keeps_what_was_committed() {
    let database = Database::new("run_cancel").await;
    seed_small(&database).await;
    let cancel = CancellationToken::new();
    let orders = AtomicU64::new(0);
    let note = |event: &ShopEvent| {
        if matches!(event, ShopEvent::Order { .. }) && orders.fetch_add(1, Ordering::Relaxed) == 4 {
            cancel.cancel();
        }
    };
    let options = RunOptions { rate: 100.0, ..RunOptions::new(as_of()) };
    let report = run(&database.url, &options, &note, &cancel).await.unwrap();
    assert!(report.orders >= 5);
    assert_eq!(report.orders, orders.into_inner());
    let live = database.number("select count(*) from orders where created_at >= '2024-06-01'").await;
    assert_eq!(live, report.orders as i64);
    database.assert_totals_add_up().await;
}

#[tokio::test]
async fn an_empty_shop_cannot_run() {
    let database = Database::new("run_empty").await;
    create_schema(&database.url).await.unwrap();
    let error =
        run(&database.url, &RunOptions::new(as_of()), &|_| {}, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, Error::Unprepared { what: "products" }) && !error.is_retryable());
}
