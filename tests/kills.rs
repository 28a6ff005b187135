//! The ingester is killed at random moments under load; nothing is lost, nothing is doubled.

use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use lakeward_lakehouse::Lake;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::stand::{Background, Stand, json, succeed};

const ROUNDS: usize = 10;
const RATE: &str = "200";

#[tokio::test(flavor = "multi_thread")]
async fn ten_kills_under_load_lose_and_double_nothing() {
    let stand = Stand::new().await;
    succeed(stand.lakeward(&["simulate", "seed", "--small", "--postgres-url", &stand.url]));
    stand.ingest_until_idle();
    let load =
        Background::start(stand.lakeward(&["simulate", "run", "--rate", RATE, "--postgres-url", &stand.url]));
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..ROUNDS {
        let mut command = stand.capture(&["ingest"]);
        // Often enough that kills fall between the commits of one cut.
        command.env("LAKEWARD__INGEST__FLUSH_SECONDS", "0.2");
        let ingester = Background::start(command);
        let life = Duration::from_millis(random.random_range(300..2500));
        tokio::time::sleep(life).await;
        ingester.kill();
        if round % 3 == 2 {
            let report = json(&succeed(stand.capture(&["reconcile"])));
            assert!(!report["tables"].as_array().expect("tables").is_empty(), "seed {seed}, round {round}");
        }
    }
    load.interrupt();
    stand.ingest_until_idle();
    let rows = stand.reconcile();
    let orders = stand.count("select count(*) from orders").await;
    assert!(rows.contains(&("public.orders".to_owned(), orders as u64)), "seed {seed}: {rows:?}");
    for (table, _) in rows {
        bronze_is_unique(&stand, &table).await;
    }
}

/// Every position is in bronze once.
async fn bronze_is_unique(stand: &Stand, table: &str) {
    let lake = Lake::open(stand.lake_path(), std::collections::BTreeMap::new()).expect("the lake opens");
    let watermark = lake.latest_watermark(None).await.expect("it reads").expect("there is a watermark");
    let (_, entry) = watermark.tables.iter().find(|(id, _)| id.to_string() == table).expect("it is captured");
    let session = lake.session();
    let provider = lake.read(&entry.bronze_path, None).await.expect("bronze reads");
    session.register_table("bronze", provider).expect("it registers");
    let query =
        "select count(*) as changes, count(distinct (_epoch, _commit, _order)) as positions from bronze";
    let found: Vec<RecordBatch> =
        session.sql(query).await.expect("it plans").collect().await.expect("it runs");
    let count = |column: usize| found[0].column(column).as_primitive::<Int64Type>().value(0);
    assert_eq!(count(0), count(1), "{table} holds a change twice");
}
