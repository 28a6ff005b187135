//! From a shop's rows to answers over HTTP, with the commands a user types.

use std::time::Instant;

use reqwest::Client;
use serde_json::Value;

use crate::stand::{Background, PATIENCE, Stand, fail, free_port, json, succeed, until};

/// A small shop in the stand's Postgres, captured once.
async fn shop() -> Stand {
    let stand = Stand::new().await;
    let seed = ["simulate", "seed", "--small", "--until", "2026-06-01", "--postgres-url", &stand.url];
    succeed(stand.lakeward(&seed));
    stand.ingest_until_idle();
    stand
}

async fn ask(client: &Client, url: &str) -> Option<Value> {
    client.get(url).send().await.ok()?.error_for_status().ok()?.json().await.ok()
}

/// Places an order in one transaction.
async fn place_order(stand: &Stand, order_id: i64) {
    stand
        .sql(&format!(
            "begin;
             insert into orders (order_id, user_id, total_amount, status, created_at)
                 select {order_id}, 1, price, 'placed', '2026-06-02T12:00:00Z' from products where product_id = 1;
             insert into order_items (order_item_id, order_id, product_id, quantity, price_per_unit)
                 select {order_id}, {order_id}, 1, 1, price from products where product_id = 1;
             commit"
        ))
        .await;
}

async fn shows(client: &Client, base: &str, order_id: i64) {
    let url = format!("{base}/api/v1/customers/1/orders?limit=5");
    until("the order shows", async || {
        let Some(answer) = ask(client, &url).await else { return false };
        let orders = answer["orders"].as_array().expect("orders");
        orders.iter().any(|order| {
            order["order_id"] == order_id && order["items"].as_array().is_some_and(|i| i.len() == 1)
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn features_and_models_are_made_and_served_and_the_server_follows_the_lake() {
    let stand = shop().await;
    let lake = |arguments: &[&str]| {
        let mut command = stand.lakeward(arguments);
        command.args(["--lake", stand.lake_path(), "--json"]);
        json(&succeed(command))
    };
    let features = lake(&["features", "build"]);
    assert!(features["views"].as_array().is_some_and(|views| views.len() == 5), "{features}");
    assert_eq!(lake(&["train", "recommender", "--factors", "8"])["kind"], "recommender");
    assert_eq!(lake(&["train", "churn"])["kind"], "churn");
    let evaluated = lake(&["evaluate", "recommender", "--k", "5"]);
    assert!(evaluated["default"]["recall@5"].as_f64().is_some(), "{evaluated}");
    assert!(lake(&["evaluate", "churn"])["default"]["auc"].as_f64().is_some());

    let port = free_port();
    let base = format!("http://127.0.0.1:{port}");
    let address = format!("127.0.0.1:{port}");
    let server = Background::start(stand.lakeward(&[
        "serve",
        "--lake",
        stand.lake_path(),
        "--address",
        &address,
        "--stream-time",
    ]));
    let client = Client::new();
    until("the server is ready", async || ask(&client, &format!("{base}/readyz")).await.is_some()).await;
    let list = ask(&client, &format!("{base}/api/v1/customers/1/recommendations?k=5")).await.expect("a list");
    assert_eq!(
        (list["fallback"].as_bool(), list["recommendations"].as_array().map(Vec::len)),
        (Some(false), Some(5))
    );
    let risk = ask(&client, &format!("{base}/api/v1/customers/1/churn")).await.expect("a risk");
    assert!(risk["churn_probability"].as_f64().is_some_and(|risk| (0.0..=1.0).contains(&risk)), "{risk}");

    // Cut by cut, as an ingester elsewhere makes them; and whole after a copy anew.
    for order_id in [900_001, 900_002] {
        place_order(&stand, order_id).await;
        stand.ingest_until_idle();
        shows(&client, &base, order_id).await;
    }
    succeed(stand.capture(&["source", "drop"]));
    place_order(&stand, 900_003).await;
    stand.ingest_until_idle();
    shows(&client, &base, 900_003).await;
    server.interrupt();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ingests_starts_under_load_and_shows_orders_at_once() {
    let stand = shop().await;
    let writer = lakeward_postgres::connect(&stand.url).await.expect("a connection");
    let writing = tokio::spawn(async move {
        for round in 0.. {
            let statement =
                format!("update products set price = {round} % 90 + 10 where product_id = {round} % 50 + 1");
            if writer.batch_execute(&statement).await.is_err() {
                return;
            }
        }
    });
    let port = free_port();
    let base = format!("http://127.0.0.1:{port}");
    let server =
        Background::start(stand.capture(&["serve", "--ingest", "--address", &format!("127.0.0.1:{port}")]));
    let client = Client::new();
    until("the server lives", async || {
        ask(&client, &format!("{base}/api/v1/customers?limit=1")).await.is_some()
    })
    .await;
    let began = Instant::now();
    place_order(&stand, 900_001).await;
    shows(&client, &base, 900_001).await;
    assert!(began.elapsed() < PATIENCE);
    writing.abort();
    server.interrupt();
    stand.reconcile();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_can_be_stopped_before_it_serves() {
    let stand = Stand::new().await;
    stand.sql("create table t(id int primary key); insert into t values (1)").await;
    // The first copy waits for this transaction.
    let holder = lakeward_postgres::connect(&stand.url).await.expect("a connection");
    holder.batch_execute("begin; insert into t values (2)").await.expect("it runs");
    let port = free_port();
    let server =
        Background::start(stand.capture(&["serve", "--ingest", "--address", &format!("127.0.0.1:{port}")]));
    until("the ingester waits for its snapshot", async || {
        stand.count("select count(*) from pg_replication_slots").await == 1
    })
    .await;
    server.interrupt();
    let (code, error) = fail(stand.lakeward(&["serve", "--lake", stand.lake_path()]));
    assert_eq!(code, 2, "{error}");
    assert!(error.contains("holds nothing yet"), "{error}");
}
