//! How long the store and the views take on a year of a real grocer's size; prints figures, asserts nothing about time.
//! `cargo test -p lakeward-features scale -- --ignored --nocapture`

use std::time::Instant;

use lakeward_features::{MemoryStore, OnlineStore, ShopBatches, ShopTables, View};

use crate::rows::{self, DAY, Item, Order, Product, User};

const USERS: i64 = 2_469;
const PRODUCTS: i64 = 93_000;
const ORDERS: i64 = 156_000;
const ITEMS: i64 = 1_500_000;
const BATCH: i64 = 8_192;

/// A number that looks random, from a row's number.
fn scattered(number: i64, below: i64) -> i64 {
    (number.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64) >> 20).rem_euclid(below)
}

fn in_batches<R>(
    rows: i64,
    row: impl Fn(i64) -> R,
    batch: impl Fn(&[R]) -> arrow::array::RecordBatch,
) -> Vec<arrow::array::RecordBatch> {
    (0..rows)
        .step_by(BATCH as usize)
        .map(|start| batch(&(start..rows.min(start + BATCH)).map(&row).collect::<Vec<_>>()))
        .collect()
}

fn batches() -> ShopBatches {
    let category = |id: i64| format!("category {}", id % 300);
    let product = |id| Product {
        name: Some(format!("a product's name {id}")),
        ..rows::product(id, &category(id), 100 + id % 900)
    };
    let order = |id: i64| {
        let mut order: Order =
            rows::order(id, scattered(id, USERS), 100 + scattered(id, 20_000), id * 365 * DAY / ORDERS);
        if id % 50 == 0 {
            order.cancelled_at = Some(order.created_at + DAY);
        }
        order
    };
    // Squared, so that some products are bought far more often.
    let bought = |id| scattered(id, 305) * scattered(id + ITEMS, 305);
    let item =
        |id| -> Item { rows::item(id, id * ORDERS / ITEMS, bought(id), 1 + (id % 3) as i32, 100 + id % 900) };
    let user = |id| -> User { rows::user(id) };
    ShopBatches {
        users: in_batches(USERS, user, rows::users),
        products: in_batches(PRODUCTS, product, rows::products),
        orders: in_batches(ORDERS, order, rows::orders),
        order_items: in_batches(ITEMS, item, rows::items),
        events: Vec::new(),
    }
}

/// Resident memory in MiB, where the system tells it.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn scale() {
    let batches = batches();
    let before = resident();
    let started = Instant::now();
    let store = MemoryStore::from_batches(&batches).unwrap();
    println!("store loaded in {:?}, {} MiB", started.elapsed(), resident() - before);
    let status = store.status();
    assert_eq!((status.orders as i64, status.order_items as i64), (ORDERS, ITEMS));

    let as_of = 365 * DAY;
    let started = Instant::now();
    let mut found = 0;
    for user_id in 0..USERS {
        found += store.history(user_id, as_of).len() + usize::from(store.customer(user_id, as_of).is_some());
    }
    println!("profile and history: {:?} a customer ({found})", started.elapsed() / USERS as u32);

    let tables = ShopTables::from_batches(&batches, as_of).unwrap();
    for view in View::ALL {
        let started = Instant::now();
        let rows = tables.view(view, as_of).await.unwrap().num_rows();
        println!("{view}: {rows} rows in {:?}, {} MiB", started.elapsed(), resident());
    }
    let started = Instant::now();
    let rows = tables.interactions(as_of).await.unwrap().num_rows();
    println!("interactions: {rows} rows in {:?}", started.elapsed());
}
