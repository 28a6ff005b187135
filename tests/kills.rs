//! The ingester is killed at random moments under load; nothing is lost, nothing is doubled.

use std::time::Duration;

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
    for (id, table) in stand.watermark().await.expect("there is a watermark").tables {
        assert_eq!(stand.doubled_in_bronze(&table.bronze_path).await, 0, "seed {seed}: {id}");
    }
}
