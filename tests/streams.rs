//! Revenue per minute: whoever is killed when, table and topic hold what a query over silver says at their watermark.

use std::{collections::BTreeMap, time::Duration};

use arrow::{
    array::AsArray,
    compute::cast,
    datatypes::{DataType, Int64Type, TimestampMicrosecondType},
};
use chrono::DateTime;
use deltalake::{DeltaTable, DeltaTableBuilder};
use lakeward_change::TableId;
use lakeward_events::{LatestOptions, LatestTopic};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::stand::{Background, Stand, succeed, until};

const GOLD: &str = "gold/realtime_revenue";
const ROUNDS: usize = 6;
/// By minute (microseconds): the amount as text with two places, and the orders.
type Minutes = BTreeMap<i64, (String, i64)>;

/// What the definition of revenue says, in words of its own.
const BATCH: &str = "select date_trunc('minute', created_at) as window_start, sum(total_amount) as total_revenue, count(*) as orders
    from t where cancelled_at is null and returned_at is null and status not in ('cancelled', 'returned') group by 1";

#[tokio::test(flavor = "multi_thread")]
async fn after_kills_revenue_is_that_of_silver() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (mut kafka, brokers) =
        lakeward_stack::kafka(folder.path(), &|doing| eprintln!("{doing}")).await.expect("Kafka");
    let stand = Stand::new().await.with([("LAKEWARD__EVENTS__BROKERS", brokers.clone())]);
    succeed(stand.lakeward(&["simulate", "seed", "--small", "--postgres-url", &stand.url]));
    // Orders will be cancelled in any state.
    stand.sql("alter table orders drop constraint orders_life_cycle_check").await;
    stand.ingest_until_idle();
    revenue_is_that_of_silver(&stand).await;
    let first = table(&stand).await;
    assert!(first.len() > 100, "{} minutes", first.len());
    assert_eq!(topic(&brokers), first, "the first time");

    let load = Background::start(stand.lakeward(&[
        "simulate",
        "run",
        "--rate",
        "200",
        "--postgres-url",
        &stand.url,
    ]));
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let mut counted = 0;
    for round in 0..ROUNDS {
        let mut command = stand.capture(&["ingest"]);
        command.env("LAKEWARD__INGEST__FLUSH_SECONDS", "0.2");
        if round % 2 == 1 {
            // Between the table's commit and the topic.
            command.env("FAILPOINTS", "gold_committed=1*off->1*return(kill)");
        }
        let mut ingester = Background::start(command);
        // Orders of long ago are cancelled, moved and taken away.
        let statements = format!(
            "begin;
             update orders set status = 'cancelled', cancelled_at = now() where order_id % 97 = {round};
             update orders set created_at = created_at - interval '1 hour' where order_id % 89 = {round};
             delete from order_items where order_id % 83 = {round};
             delete from orders where order_id % 83 = {round};
             commit"
        );
        // The simulator may be in the way.
        until("it is done", async || {
            let done = stand.client.batch_execute(&statements).await.is_ok();
            if !done {
                stand.sql("rollback").await;
            }
            done
        })
        .await;
        if round % 2 == 1 {
            until("it has killed itself", async || ingester.ended().is_some()).await;
        } else {
            tokio::time::sleep(Duration::from_millis(random.random_range(1000..4000))).await;
            ingester.kill();
        }
        let version = revenue_is_that_of_silver(&stand).await;
        assert!(version >= counted, "seed {seed}, round {round}");
        counted = version;
    }
    load.interrupt();
    stand.ingest_until_idle();
    let watermark = stand.watermark().await.expect("a watermark");
    let orders = &watermark.tables[&TableId::new("public", "orders")];
    assert_eq!(revenue_is_that_of_silver(&stand).await, orders.silver_version, "seed {seed}");
    let held = table(&stand).await;
    assert_eq!(held, shop(&stand).await, "seed {seed}: the table and the shop");
    assert_eq!(topic(&brokers), held, "seed {seed}: the topic and the table");

    // What the topic has lost comes again.
    stand.sql("update orders set status = 'returned', returned_at = now() where order_id % 71 = 0").await;
    let mut without = stand.capture(&["ingest", "--until-idle"]);
    without.env("LAKEWARD__EVENTS__BROKERS", "");
    succeed(without);
    assert_ne!(topic(&brokers), table(&stand).await);
    stand.ingest_until_idle();
    assert_eq!(topic(&brokers), table(&stand).await, "seed {seed}: the topic, caught up");
    kafka.stop().await.expect("it stops");
}

/// The table holds what a query over silver says, at the version of silver that the table names, which is given.
pub async fn revenue_is_that_of_silver(stand: &Stand) -> i64 {
    let url = stand.open_lake().table_url(GOLD).expect("a URL");
    let gold: DeltaTable = DeltaTableBuilder::from_url(url).expect("a URL").load().await.expect("it loads");
    let state = gold.snapshot().expect("it is loaded");
    let log = gold.log_store();
    let version = state.transaction_version(log.as_ref(), "orders/version").await.expect("it reads");
    let version = version.expect("it is named");
    let expected = query(stand, "silver/shop/public/orders", Some(version), BATCH).await;
    let found = table(stand).await;
    assert_eq!(found, expected, "at version {version}");
    version
}

async fn table(stand: &Stand) -> Minutes {
    query(stand, GOLD, None, "select * from t").await
}

async fn query(stand: &Stand, path: &str, version: Option<i64>, query: &str) -> Minutes {
    let lake = stand.open_lake();
    let session = lake.session();
    let provider = lake.read(path, version).await.expect("the table reads");
    session.register_table("t", provider).expect("it registers");
    let found = session.sql(query).await.expect("it plans").collect().await.expect("it runs");
    let mut minutes = Minutes::new();
    for batch in found {
        let starts = batch.column(0).as_primitive::<TimestampMicrosecondType>();
        let revenue = cast(batch.column(1), &DataType::Decimal128(28, 2)).expect("amounts");
        let revenue = cast(&revenue, &DataType::Utf8).expect("texts");
        let orders = batch.column(2).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let figures = (revenue.as_string::<i32>().value(row).to_owned(), orders.value(row));
            assert_eq!(minutes.insert(starts.value(row), figures), None, "a minute comes twice");
        }
    }
    minutes
}

async fn shop(stand: &Stand) -> Minutes {
    let sql = BATCH.replace(" from t ", " from orders ");
    let sql = format!(
        "select (extract(epoch from window_start) * 1000000)::bigint, total_revenue::text, orders from ({sql}) as minutes"
    );
    let rows = stand.client.query(&sql, &[]).await.expect("it runs");
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

/// The topic's last value of each minute that has orders.
fn topic(brokers: &str) -> Minutes {
    let options = LatestOptions {
        brokers: brokers.to_owned(),
        settings: BTreeMap::new(),
        topic: "realtime_revenue".to_owned(),
        writer: "a reader".to_owned(),
    };
    let (_, values) = LatestTopic::open(&options).expect("the topic");
    let minute = |(key, value): (String, Vec<u8>)| {
        let value: Value = serde_json::from_slice(&value).expect("JSON");
        assert_eq!(value["window_start"], Value::String(key.clone()));
        assert!(value["position"].as_array().is_some_and(|position| position.len() == 3), "{value}");
        let start = DateTime::parse_from_rfc3339(&key).expect("a time").timestamp_micros();
        let revenue = value["total_revenue"].as_str().expect("an amount").to_owned();
        (start, (revenue, value["orders"].as_i64().expect("a number")))
    };
    values.into_iter().map(minute).filter(|(_, (_, orders))| *orders > 0).collect()
}
