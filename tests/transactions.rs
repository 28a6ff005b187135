//! A transaction larger than the memory for it is written in parts, may be cut off in any of them, and lands once.

use std::{collections::BTreeSet, time::Duration};

use lakeward_change::TableId;
use lakeward_lakehouse::Watermark;
use tokio::time::sleep;

use crate::stand::{Background, Stand, until};

const GOODS: i64 = 100_000;
/// Each of the ten parts inserts and updates so many rows.
const ENTRIES: i64 = 40_000;
const LINES: i64 = 30_000;
const PRICES: i64 = 30_000;
const PARTS: i64 = 10;
const ROWS: i64 = (ENTRIES + LINES + PRICES) * PARTS;
const MEMORY_MIB: u64 = 64;
/// The process as a whole, with what Delta and DataFusion take.
const PEAK_MIB: u64 = 768;

const TABLES: [&str; 3] = ["entries", "lines", "goods"];

fn transaction() -> String {
    let part = |part: i64| {
        let [entries, lines] =
            [ENTRIES, LINES].map(|rows| format!("{}, {}", part * rows + 1, (part + 1) * rows));
        format!(
            "insert into entries select i, 'entry ' || i from generate_series({entries}) i;
             update goods set price = price + 1 where (id + {part}) % 10 < 3;
             insert into lines select i, 'b' || i % 7, i from generate_series({lines}) i;"
        )
    };
    format!("begin; {} commit", (0..PARTS).map(part).collect::<String>())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_killed_in_the_middle_land_once() {
    let stand = Stand::new().await;
    stand
        .sql(&format!(
            "create table goods(id int primary key, price int);
             create table lines(a int, b text, amount int, primary key (b, a));
             create table entries(id bigint primary key, note text);
             create table pulses(id bigserial primary key);
             insert into goods select i, 0 from generate_series(0, {GOODS} - 1) i"
        ))
        .await;
    stand.ingest_until_idle();
    stand.sql("insert into pulses default values").await;
    stand.sql(&transaction()).await;
    let pulses = lakeward_postgres::connect(&stand.url).await.expect("a connection");
    let pulses = tokio::spawn(async move {
        loop {
            pulses.batch_execute("insert into pulses default values").await.expect("it runs");
            sleep(Duration::from_millis(100)).await;
        }
    });

    let (mut landed, mut peak) = (0, 0);
    // Killed as soon as bronze has so many of its rows: whatever the lanes are about then is cut off.
    for wanted in [1, ROWS / 4, ROWS / 2, ROWS / 4 * 3] {
        let mut ingester = start(&stand);
        while streamed(&stand).await < wanted.max(landed + 1) {
            assert!(ingester.ended().is_none(), "it ended by itself: {}", ingester.said());
            sleep(Duration::from_millis(200)).await;
        }
        peak = ingester.peak_memory().max(peak);
        ingester.kill();
        let before = std::mem::replace(&mut landed, streamed(&stand).await);
        assert!(before < landed && landed < ROWS, "killed inside it: {before}, {landed} rows");
        eprintln!("killed with {landed} of {ROWS} rows in bronze");
    }

    let ingester = start(&stand);
    until("it is in a watermark", async || {
        let newest = stand.watermark().await.expect("a watermark");
        seen(&stand, &newest).await == ROWS
    })
    .await;
    peak = ingester.peak_memory().max(peak);
    pulses.abort();
    ingester.interrupt();
    eprintln!("peak memory of an ingester: {peak} MiB, {MEMORY_MIB} MiB of them for changes");
    assert!(peak < PEAK_MIB, "{peak} MiB");

    assert_eq!(streamed(&stand).await, ROWS);
    let mut known = BTreeSet::new();
    let mut states = Vec::new();
    for watermark in stand.watermarks().await {
        let versions = TABLES.map(|table| watermark.tables[&TableId::new("public", table)].silver_version);
        if known.insert(versions) {
            states.push(seen(&stand, &watermark).await);
        }
    }
    states.dedup();
    assert_eq!(states, [0, ROWS], "all of it or nothing");
    stand.reconcile();
    for (id, table) in stand.watermark().await.expect("a watermark").tables {
        assert_eq!(stand.doubled_in_bronze(&table.bronze_path).await, 0, "{id}");
    }
}

fn start(stand: &Stand) -> Background {
    let mut command = stand.capture(&["ingest"]);
    command
        .env("LAKEWARD__INGEST__MEMORY_MIB", MEMORY_MIB.to_string())
        .env("LAKEWARD__INGEST__FLUSH_ROWS", "40000")
        .env("LAKEWARD__INGEST__FLUSH_SECONDS", "0.3");
    Background::start(command)
}

/// How many changes of the transaction bronze has.
async fn streamed(stand: &Stand) -> i64 {
    let mut rows = -GOODS;
    for table in TABLES {
        rows += stand.number(&format!("bronze/shop/public/{table}"), None, "select count(*) from t").await;
    }
    rows
}

/// How many changes of the transaction silver shows at a watermark.
async fn seen(stand: &Stand, watermark: &Watermark) -> i64 {
    let mut rows = 0;
    for table in TABLES {
        let entry = &watermark.tables[&TableId::new("public", table)];
        let query = if table == "goods" { "select sum(price) from t" } else { "select count(*) from t" };
        rows += stand.number(&entry.silver_path, Some(entry.silver_version), query).await;
    }
    rows
}
