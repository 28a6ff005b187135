//! Every watermark is a consistent cut: read at its versions, tables that are changed together fit together.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio::{sync::Notify, task::JoinHandle};

use crate::stand::{Background, Stand, json, python, succeed, text, until};

const ACCOUNTS: i64 = 1000;
const EACH: i64 = 500;
/// Connections that transfer at the same time.
const TELLERS: u64 = 6;
const CUTS: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn money_is_conserved_at_every_watermark() {
    let stand = Stand::new().await;
    for table in ["accounts_a", "accounts_b"] {
        stand
            .sql(&format!(
                "create table {table}(id int primary key, balance bigint);
                 insert into {table} select i, {EACH} from generate_series(0, {ACCOUNTS} - 1) i"
            ))
            .await;
    }
    let closing = Arc::new(Notify::new());
    let mut tellers = Vec::new();
    for seed in 0..TELLERS {
        tellers.push(transfers(&stand.url, seed, &closing).await);
    }
    // The first copy, too, is taken while money moves.
    let mut command = stand.capture(&["ingest"]);
    command.env("LAKEWARD__INGEST__FLUSH_SECONDS", "0.1");
    let mut ingester = Background::start(command);
    until("there are many cuts", async || {
        assert!(ingester.ended().is_none(), "it ended by itself: {}", ingester.said());
        stand.watermark().await.is_some() && stand.watermarks().await.len() >= CUTS
    })
    .await;
    closing.notify_waiters();
    let mut moved = 0;
    for teller in tellers {
        moved += teller.await.expect("transfers go through");
    }
    ingester.interrupt();

    let described = ["accounts_a", "accounts_b"].map(|table| {
        let name = format!("public.{table}");
        let mut describe = stand.lakeward(&["table", "describe", &name, "--lake", stand.lake_path()]);
        let shown = text(
            &succeed(stand.lakeward(&[
                "table",
                "describe",
                &name,
                "--versions",
                "3",
                "--lake",
                stand.lake_path(),
            ]))
            .stdout,
        );
        assert!(shown.contains("newest commit"), "{shown}");
        describe.arg("--json");
        json(&succeed(describe))
    });
    let versions = described.each_ref().map(|table| table["versions"].as_array().expect("versions"));
    let watermarks = stand.watermarks().await;
    assert_eq!(versions.map(Vec::len), [watermarks.len(); 2]);
    let mut read = Vec::new();
    let mut seen = Vec::new();
    for (watermark, (a, b)) in watermarks.iter().rev().zip(versions[0].iter().zip(versions[1])) {
        let mut balances = [0; 2];
        for (balance, (version, table)) in balances.iter_mut().zip([a, b].into_iter().zip(&described)) {
            assert_eq!(version["lsn"], watermark.lsn.to_string());
            let path = table["table"]["silver_path"].as_str().expect("a path");
            let version = version["silver_version"].as_i64();
            *balance = stand.number(path, version, "select sum(balance) from t").await;
            read.push((stand.lake.path().join(path), version));
        }
        assert_eq!(balances[0] + balances[1], 2 * ACCOUNTS * EACH, "{watermark:?}");
        seen.extend(balances);
    }
    let mut states = seen.clone();
    states.sort_unstable();
    states.dedup();
    assert!(states.len() > CUTS / 2, "{moved} transfers show in {} states only", states.len());
    if let Some(python) = python() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/balances.py");
        let mut other = Command::new(python);
        other.arg(script).arg(serde_json::to_string(&read).expect("JSON"));
        let sums: Value = json(&succeed(other));
        assert_eq!(sums, serde_json::json!(seen));
    }
    assert_eq!(stand.reconcile().len(), 2);
}

/// Moves money between the tables, to and fro, until closing time; gives the number of transfers.
async fn transfers(url: &str, seed: u64, closing: &Arc<Notify>) -> JoinHandle<u64> {
    let client = lakeward_postgres::connect(url).await.expect("a connection");
    let mut random = StdRng::seed_from_u64(seed);
    let closing = Arc::clone(closing);
    tokio::spawn(async move {
        let mut closed = std::pin::pin!(closing.notified());
        closed.as_mut().enable();
        for moved in 0.. {
            let [from, to] = [(); 2].map(|()| random.random_range(0..ACCOUNTS));
            let amount = random.random_range(-50..50);
            // Always in this order, so that no two wait for each other.
            let transfer = format!(
                "begin; update accounts_a set balance = balance - {amount} where id = {from};
                 update accounts_b set balance = balance + {amount} where id = {to}; commit"
            );
            client.batch_execute(&transfer).await.expect("a transfer");
            let pause = Duration::from_millis(random.random_range(1..10));
            if tokio::time::timeout(pause, closed.as_mut()).await.is_ok() {
                return moved + 1;
            }
        }
        0
    })
}
