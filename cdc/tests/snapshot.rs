use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType},
};
use lakeward_cdc::{CdcError, PostgresOptions, PostgresSource, SlotState};
use lakeward_change::Op;
use tokio::sync::Semaphore;

use crate::server::{Database, WAIT, changes, copied, followed, table};

#[tokio::test]
async fn every_type_copies_and_streams_alike() {
    let database = Database::create(
        r#"CREATE DOMAIN money_amount AS numeric(12,2); CREATE TYPE mood AS ENUM ('sad', 'glad');
          CREATE TABLE t(id int PRIMARY KEY, b bool, i2 int2, i8 int8, f4 float4, f8 float8, n numeric(20,4), d money_amount,
            free numeric, t text, v varchar(5), c char(4), u uuid, j json, jb jsonb, by bytea, da date, ts timestamp,
            tz timestamptz, iv interval, arr int[], m mood, net inet, g int GENERATED ALWAYS AS (id * 2) STORED);
          CREATE TABLE s(LIKE t INCLUDING ALL); TRUNCATE s;
          INSERT INTO s VALUES
           (1, true, -32768, 9223372036854775807, 1.5, 0.1, -1234567890123456.7891, 0.50, 1.50, E'tab\tnew\nline\\N', 'é', 'ab',
            '00000000-0000-0000-0000-00000000000A', '{ "a": 1}', '{"a":1}', '\x00ff', '2024-02-29', '2024-02-29 01:02:03.000004',
            '2024-02-29 01:02:03+02', '1 day 2:03', '{1,NULL}', 'glad', '10.0.0.1'),
           (2, false, 0, 0, 'NaN', '-Infinity', 'NaN', 'NaN', 'NaN', '', '', '', NULL, 'null', 'null', '', 'infinity', '-infinity',
            '0044-03-15 12:00:00+00 BC', '-1 mon', '{}', 'sad', '::1'),
           (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
            NULL, NULL, NULL);"#,
    )
    .await;
    let (source, mut stream) = database.capture().await;
    assert_eq!(source.omitted_columns(), [(table("s"), "g".to_owned()), (table("t"), "g".to_owned())]);
    let columns = "id, b, i2, i8, f4, f8, n, d, free, t, v, c, u, j, jb, by, da, ts, tz, iv, arr, m, net";
    database.run(&format!("INSERT INTO t({columns}) SELECT {columns} FROM s ORDER BY id")).await;
    let lsn = database.mark().await;
    let chunks = crate::server::read_to(&mut stream, lsn).await;
    let streamed = &chunks.iter().flat_map(|chunk| &chunk.batches).next().expect("a batch").values;
    assert_eq!(stream.nulled(), 4, "two NaN in numerics with a scale, two infinite times");

    let snapshot = source.temporary_snapshot(WAIT).await.expect("a snapshot");
    let batches = copied(&snapshot, &table("t"), 100).await;
    assert_eq!(&batches[0], streamed);
    assert_eq!(snapshot.nulled(), 4);

    let column = |name: &str| batches[0].column_by_name(name).expect(name);
    assert_eq!(column("i8").as_primitive::<Int64Type>().value(0), i64::MAX);
    assert_eq!(column("n").as_primitive::<Decimal128Type>().value(0), -12_345_678_901_234_567_891);
    assert_eq!(column("d").as_primitive::<Decimal128Type>().value(0), 50);
    assert_eq!(column("f8").as_primitive::<Float64Type>().value(1), f64::NEG_INFINITY);
    assert_eq!(column("da").as_primitive::<Date32Type>().value(0), 19_782);
    assert_eq!(column("ts").as_primitive::<TimestampMicrosecondType>().value(0), 1_709_168_523_000_004);
    assert_eq!(column("tz").as_primitive::<TimestampMicrosecondType>().value(0), 1_709_161_323_000_000);
    assert_eq!(column("tz").as_primitive::<TimestampMicrosecondType>().value(1), -63_517_780_800_000_000);
    assert_eq!(column("by").as_binary::<i32>().value(0), [0, 255]);
    for (name, expected) in [
        ("t", "tab\tnew\nline\\N"),
        ("c", "ab  "),
        ("free", "1.50"),
        ("u", "00000000-0000-0000-0000-00000000000a"),
        ("jb", "{\"a\": 1}"),
        ("iv", "1 day 02:03:00"),
        ("arr", "{1,NULL}"),
        ("m", "glad"),
        ("net", "10.0.0.1"),
    ] {
        assert_eq!(column(name).as_string::<i32>().value(0), expected, "{name}");
    }
    for (name, row) in [("n", 1), ("d", 1), ("da", 1), ("ts", 1), ("b", 2), ("net", 2)] {
        assert!(column(name).is_null(row), "{name}");
    }
}

#[tokio::test]
async fn a_large_table_is_read_in_parts_that_have_every_row_once() {
    let database = Database::create(
        "CREATE TABLE t(id int PRIMARY KEY, note text);
         CREATE TABLE p(id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (55000);
         CREATE TABLE p2 PARTITION OF p DEFAULT;
         INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 60000) i;
         INSERT INTO p SELECT * FROM t;
         UPDATE t SET note = note || 'y' WHERE id % 7 = 0;",
    )
    .await;
    let source = database.source().await;
    source.prepare().await.expect("a publication");
    let snapshot = source.temporary_snapshot(WAIT).await.expect("a snapshot");
    database.run("DELETE FROM t WHERE id % 2 = 0; UPDATE p SET note = 'z'").await;
    for name in ["t", "p"] {
        let batches = copied(&snapshot, &table(name), 1000).await;
        let mut ids = Vec::new();
        for batch in &batches {
            ids.extend_from_slice(batch.column(0).as_primitive::<Int32Type>().values());
        }
        assert!(!ids.is_sorted(), "{name} was read by one session");
        ids.sort_unstable();
        assert!(ids.into_iter().eq(1..=60_000), "{name}");
        let notes = batches.iter().flat_map(|batch| batch.column(1).as_string::<i32>().iter().flatten());
        assert!(notes.map(str::len).all(|length| length >= 200), "{name}");
    }
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_between_snapshot_and_stream() {
    let database =
        Database::create("CREATE TABLE t(id int PRIMARY KEY, n int NOT NULL); INSERT INTO t SELECT i, 0 FROM generate_series(1, 500) i;")
            .await;
    let source = database.source().await;
    source.prepare().await.expect("a publication");
    let running = Arc::new(AtomicBool::new(true));
    let mut writers = Vec::new();
    for writer in 0..3 {
        let (client, running) = (database.connect().await, Arc::clone(&running));
        writers.push(tokio::spawn(async move {
            let mut round = 0;
            while running.load(Ordering::Relaxed) {
                let id = 1000 * (writer + 1) + round;
                let sql = format!(
                    "BEGIN; INSERT INTO t VALUES ({id}, 1); UPDATE t SET n = n + 1 WHERE id = {}; \
                     DELETE FROM t WHERE id = {}; COMMIT",
                    round % 400 + 1,
                    id - 5
                );
                client.batch_execute(&sql).await.expect("a transaction");
                round += 1;
            }
            round
        }));
    }
    while database.one::<i64>("SELECT count(*) FROM t WHERE id > 1000").await < 12 {
        tokio::task::yield_now().await;
    }
    let snapshot = source.create_slot(WAIT).await.expect("a slot");
    let batches = copied(&snapshot, &table("t"), 64).await;
    assert!(batches.len() >= 8 && batches.iter().all(|batch| batch.num_rows() <= 64));
    let mut replica = BTreeMap::new();
    for batch in &batches {
        let (ids, counts) =
            (batch.column(0).as_primitive::<Int32Type>(), batch.column(1).as_primitive::<Int32Type>());
        for (id, n) in ids.values().iter().zip(counts.values()) {
            assert_eq!(replica.insert(id.to_string(), n.to_string()), None, "copied twice");
        }
    }
    let before = replica.clone();
    running.store(false, Ordering::Relaxed);
    for writer in writers {
        assert!(writer.await.expect("a writer") > 0);
    }
    let mut stream = source.stream(snapshot.lsn(), &followed(&source)).await.expect("a stream");
    for row in changes(&database, &mut stream).await {
        assert!(row.commit >= snapshot.lsn().as_i64());
        let (id, n) = row.values.split_once('|').expect("two values");
        match row.op {
            Op::Insert => assert_eq!(replica.insert(id.into(), n.into()), None, "{id} was there already"),
            Op::Update => {
                let old: i32 =
                    replica.insert(id.into(), n.into()).expect("a row to update").parse().expect("a number");
                assert_eq!(n, (old + 1).to_string(), "an update of {id} is missing or doubled");
            }
            Op::Delete => assert!(replica.remove(id).is_some(), "{id} was gone already"),
            Op::Read | Op::Truncate => panic!("{row:?}"),
        }
    }
    let rows = database.client.query("SELECT id::text, n::text FROM t", &[]).await.expect("rows");
    let truth: BTreeMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(replica, truth);
    assert_ne!(before, truth, "the writers wrote after the snapshot");
}

#[tokio::test]
async fn an_open_transaction_that_holds_the_snapshot_up_is_named() {
    let database = Database::create("CREATE TABLE t(id int PRIMARY KEY);").await;
    let source = database.source().await;
    let holder = database.connect().await;
    holder.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.expect("an open transaction");
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await.expect("a pid").get(0);
    let Err(error) = source.temporary_snapshot(Duration::from_secs(1)).await else {
        panic!("no snapshot yet")
    };
    let CdcError::HeldUp { holder: named, .. } = &error else { panic!("{error}") };
    assert!(named.contains(&format!("process {pid} ")), "{named}");
    assert!(error.is_retryable());
    let Err(error) = source.create_slot(Duration::from_secs(1)).await else { panic!("no slot yet") };
    assert!(matches!(error, CdcError::HeldUp { .. }), "{error}");
    holder.batch_execute("COMMIT").await.expect("the end");
    tokio::time::timeout(WAIT, async {
        while source.slot().await.expect("a state") != SlotState::Missing {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the given up slot to go");
    source.create_slot(WAIT).await.expect("a slot");
}

#[tokio::test]
async fn everything_is_taken_away_again() {
    let database =
        Database::create("CREATE TABLE t(id int PRIMARY KEY); CREATE TABLE u(id int PRIMARY KEY);").await;
    let (source, stream) = database.capture().await;
    drop(stream);
    source.drop_all().await.expect("gone");
    source.drop_all().await.expect("gone already");
    let left = "SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_replication_slots
        WHERE database = current_database())";
    assert_eq!(database.one::<i64>(left).await, 0);

    // What the shop made itself stays.
    database.run("CREATE PUBLICATION theirs FOR TABLE u").await;
    let options =
        PostgresOptions { publication: Some("theirs".into()), ..PostgresOptions::new(&database.url) };
    let source = PostgresSource::open(options).await.expect("a source");
    assert_eq!(source.tables().iter().map(|table| table.id.clone()).collect::<Vec<_>>(), [table("u")]);
    assert_eq!(source.skipped()[0].id, table("t"));
    source.prepare().await.expect("taken as it is");
    source.create_slot(WAIT).await.expect("a slot");
    source.drop_all().await.expect("gone");
    assert_eq!(database.one::<i64>(left).await, 1);
}

#[tokio::test]
async fn a_table_that_is_emptied_before_the_snapshot_is_copied_and_one_emptied_after_it_is_told() {
    let database = Database::create(
        "CREATE TABLE t(id int PRIMARY KEY); CREATE TABLE u(id int PRIMARY KEY, n int); INSERT INTO t VALUES (1)",
    )
    .await;
    let source = database.source().await;
    database.run("TRUNCATE t; INSERT INTO t VALUES (2), (3)").await;
    // The snapshot would see rows of another definition than the one that was read.
    database.run("ALTER TABLE u ALTER n TYPE text").await;
    let snapshot = source.temporary_snapshot(WAIT).await.expect("a snapshot");
    let rows: usize = copied(&snapshot, &table("t"), 10).await.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, 2);
    let sessions = Arc::new(Semaphore::new(1));
    let refused = async |name: &str| match snapshot.copy(&table(name), 10, &sessions).await {
        Err(error @ CdcError::Rewritten { .. }) => assert!(error.is_retryable(), "{error}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("{name} is not what the snapshot sees"),
    };
    refused("u").await;
    database.run("TRUNCATE t").await;
    refused("t").await;
}
