//! How fast rows are decoded: printed, never asserted. `cargo test --test cdc speed -- --ignored --nocapture`

use std::time::Instant;

use lakeward_cdc::Chunk;

use crate::server::{Database, WAIT, copied, followed, read_to, table};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn speed() {
    const ROWS: usize = 500_000;
    let database = Database::create(
        "CREATE TABLE lines(order_item_id int8 PRIMARY KEY, order_id int8, product_id int8, quantity int,
            price_per_unit numeric(12,2), created_at timestamptz, note text);
         CREATE TABLE streamed(LIKE lines INCLUDING ALL);",
    )
    .await;
    let fill = format!(
        "SELECT i, i / 5, i % 9000, i % 7 + 1, (i % 10000) / 100.0, now() + i * interval '1 ms', 'line ' || i
         FROM generate_series(1, {ROWS}) i"
    );
    database.run(&format!("INSERT INTO lines {fill}")).await;
    let source = database.source().await;
    source.prepare().await.expect("a publication");
    let snapshot = source.create_slot(WAIT).await.expect("a slot");
    let begin = Instant::now();
    let batches = copied(&snapshot, &table("lines"), 65_536).await;
    let took = begin.elapsed();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), ROWS);
    println!("snapshot copy: {:.0} rows/s", ROWS as f64 / took.as_secs_f64());

    let begin = Instant::now();
    let sums = snapshot.fingerprint(&table("lines")).await.expect("sums");
    println!(
        "fingerprint in Postgres: {:.0} rows/s ({} buckets)",
        ROWS as f64 / begin.elapsed().as_secs_f64(),
        sums.len()
    );

    let from = snapshot.lsn();
    for start in (1..=ROWS).step_by(100) {
        database
            .run(&format!(
                "INSERT INTO streamed SELECT * FROM lines WHERE order_item_id BETWEEN {start} AND {}",
                start + 99
            ))
            .await;
    }
    let lsn = database.mark().await;
    let mut stream = source.stream(from, &followed(&source)).await.expect("a stream");
    let begin = Instant::now();
    let chunks = read_to(&mut stream, lsn).await;
    let took = begin.elapsed();
    println!(
        "streaming, transactions of 100 rows: {:.0} rows/s in {} chunks",
        ROWS as f64 / took.as_secs_f64(),
        chunks.len()
    );
    assert_eq!(chunks.iter().map(Chunk::num_rows).sum::<usize>(), ROWS);
}
