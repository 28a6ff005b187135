use std::{collections::BTreeMap, sync::Arc};

use futures::TryStreamExt;
use lakeward_cdc::{Boundary, CdcError};
use lakeward_change::Op;
use tokio::sync::Semaphore;

use crate::server::{Database, WAIT, changes, read_to, rows_of_chunks, table};

/// What happened, without positions.
fn shape(rows: &[crate::server::Row]) -> Vec<(Op, &str, Option<&str>)> {
    rows.iter().map(|row| (row.op, row.values.as_str(), row.old_key.as_deref())).collect()
}

#[tokio::test]
async fn every_operation_arrives_in_order() {
    let database = Database::create(
        "CREATE TABLE t(id int PRIMARY KEY, note text); CREATE TABLE u(a int, b text, c int, PRIMARY KEY (b, a));",
    )
    .await;
    let (_, mut stream) = database.capture().await;
    database
        .run_each(&[
            "INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, NULL);
             INSERT INTO u VALUES (1, 'x', 10);
             UPDATE t SET note = 'ONE' WHERE id = 1;
             UPDATE t SET id = 20 WHERE id = 2;
             UPDATE u SET b = 'y' WHERE a = 1;
             DELETE FROM t WHERE id = 3;",
            "TRUNCATE t, u",
            "INSERT INTO t VALUES (4, 'é\t\\')",
        ])
        .await;
    let rows = changes(&database, &mut stream).await;
    assert_eq!(
        shape(&rows),
        [
            (Op::Insert, "1|one", None),
            (Op::Insert, "2|two", None),
            (Op::Insert, "3|∅", None),
            (Op::Insert, "1|x|10", None),
            (Op::Update, "1|ONE", None),
            (Op::Update, "20|two", Some("2")),
            (Op::Update, "1|y|10", Some("x|1")),
            (Op::Delete, "3|∅", None),
            (Op::Truncate, "∅|∅", None),
            (Op::Truncate, "∅|∅|∅", None),
            (Op::Insert, "4|é\t\\", None),
        ]
    );
    let orders: Vec<_> = rows.iter().map(|row| row.order).collect();
    assert_eq!(orders, [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 1]);
    assert!(rows[7].commit < rows[8].commit && rows[9].commit < rows[10].commit);
}

#[tokio::test]
async fn unchanged_long_values_are_unavailable_also_through_a_key_change() {
    let database = Database::create(
        "CREATE TABLE t(id int PRIMARY KEY, long text, n int); ALTER TABLE t ALTER long SET STORAGE EXTERNAL;
         CREATE TABLE f(id int PRIMARY KEY, long text, n int); ALTER TABLE f ALTER long SET STORAGE EXTERNAL;
         ALTER TABLE f REPLICA IDENTITY FULL;",
    )
    .await;
    let (_, mut stream) = database.capture().await;
    database
        .run(
            "INSERT INTO t SELECT 1, string_agg(md5(i::text), ''), 0 FROM generate_series(1, 500) i;
             INSERT INTO f SELECT * FROM t;
             UPDATE t SET n = 1;
             UPDATE t SET id = 2;
             UPDATE t SET long = 'short';
             UPDATE f SET n = 1;
             UPDATE f SET id = 2;
             DELETE FROM f;",
        )
        .await;
    let rows = changes(&database, &mut stream).await;
    let long = rows[0].values.split('|').nth(1).expect("a value").to_owned();
    assert_eq!(long.len(), 16_000);
    let whole = |id: u32, n: u32| format!("{id}|{long}|{n}");
    assert_eq!(
        shape(&rows[1..]),
        [
            (Op::Insert, whole(1, 0).as_str(), None),
            (Op::Update, "1|?|1", None),
            (Op::Update, "2|?|1", Some("1")),
            (Op::Update, "2|short|1", None),
            (Op::Update, whole(1, 1).as_str(), None),
            (Op::Update, whole(2, 1).as_str(), Some("1")),
            (Op::Delete, "2|∅|∅", None),
        ]
    );
}

#[tokio::test]
async fn an_index_can_be_the_key() {
    let database = Database::create(
        "CREATE TABLE t(id int PRIMARY KEY, code text NOT NULL, n int); CREATE UNIQUE INDEX t_code ON t(code);
         ALTER TABLE t REPLICA IDENTITY USING INDEX t_code;",
    )
    .await;
    let (source, mut stream) = database.capture().await;
    assert_eq!(source.tables()[0].key, [1]);
    database
        .run("INSERT INTO t VALUES (1, 'a', 0); UPDATE t SET id = 2; UPDATE t SET code = 'b'; DELETE FROM t;")
        .await;
    assert_eq!(
        shape(&changes(&database, &mut stream).await),
        [
            (Op::Insert, "1|a|0", None),
            (Op::Update, "2|a|0", None),
            (Op::Update, "2|b|0", Some("a")),
            (Op::Delete, "∅|b|∅", None),
        ]
    );
}

#[tokio::test]
async fn partitions_are_one_table() {
    let database = Database::create(
        "CREATE TABLE t(id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
         CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (0) TO (10);
         CREATE TABLE t_high PARTITION OF t FOR VALUES FROM (10) TO (20);",
    )
    .await;
    let (source, mut stream) = database.capture().await;
    assert_eq!(source.tables().iter().map(|table| table.id.name.as_str()).collect::<Vec<_>>(), ["t"]);
    database
        .run("INSERT INTO t VALUES (1, 'a'), (11, 'b'); UPDATE t SET id = 12 WHERE id = 1; TRUNCATE t_high, t_low")
        .await;
    let changed = changes(&database, &mut stream).await;
    assert_eq!(
        shape(&changed)[..4],
        [
            (Op::Insert, "1|a|public.t_low", None),
            (Op::Insert, "11|b|public.t_high", None),
            // To another partition: Postgres moves the row.
            (Op::Delete, "1|∅|∅", None),
            (Op::Insert, "12|a|public.t_high", None),
        ]
    );
    let mut emptied: Vec<_> = shape(&changed)[4..].to_vec();
    emptied.sort_unstable_by_key(|change| change.1);
    assert_eq!(
        emptied,
        [(Op::Truncate, "∅|∅|public.t_high", None), (Op::Truncate, "∅|∅|public.t_low", None)]
    );
}

#[tokio::test]
async fn a_partition_that_came_later_is_told_by_whether_it_could_bring_rows() {
    let database = Database::create(
        "CREATE TABLE t(id int, note text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE TABLE t_0 PARTITION OF t FOR VALUES FROM (0) TO (10);",
    )
    .await;
    let (source, mut stream) = database.capture().await;
    database
        .run_each(&[
            "INSERT INTO t VALUES (1, 'a')",
            "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (10) TO (20)",
            "INSERT INTO t VALUES (11, 'b')",
        ])
        .await;
    let ended = loop {
        match stream.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(&ended, CdcError::NewRelation { relation } if relation == "public.t_1"), "{ended}");
    assert_eq!(source.changed_tables().await.unwrap(), [table("t")]);
    database
        .run_each(&[
            "CREATE TABLE t_2(note text, id int PRIMARY KEY); ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES FROM (20) TO (30)",
            "CREATE TABLE t_3(id int PRIMARY KEY, note text); INSERT INTO t_3 VALUES (31)",
            "ALTER TABLE t ATTACH PARTITION t_3 FOR VALUES FROM (30) TO (40)",
            // In one transaction with its creation, and a whole tree below another.
            "CREATE TABLE t_4(id int PRIMARY KEY, note text); INSERT INTO t_4 VALUES (41);
             ALTER TABLE t ATTACH PARTITION t_4 FOR VALUES FROM (40) TO (50)",
            "CREATE TABLE t_5(id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
             CREATE TABLE t_50 PARTITION OF t_5 FOR VALUES FROM (50) TO (55); INSERT INTO t_5 VALUES (51)",
            "ALTER TABLE t ATTACH PARTITION t_5 FOR VALUES FROM (50) TO (60)",
            "CREATE TABLE t_55 PARTITION OF t_5 FOR VALUES FROM (55) TO (60); INSERT INTO t VALUES (56)",
            "ALTER TABLE t ADD COLUMN extra int; ALTER TABLE t_1 ALTER COLUMN note SET STATISTICS 5",
        ])
        .await;
    let now = database.source().await;
    let leaves: Vec<_> =
        now.tables()[0].origin.leaves.iter().map(|leaf| (leaf.name.as_str(), leaf.filled)).collect();
    assert_eq!(
        leaves,
        [
            ("public.t_0", false),
            ("public.t_1", false),
            ("public.t_2", false),
            ("public.t_3", true),
            ("public.t_4", true),
            // By a tree that was attached; it may have been made before.
            ("public.t_50", true),
            ("public.t_55", true),
        ]
    );
    assert_eq!(now.tables()[0].origin.filled, [-6], "the new column is empty");
}

#[tokio::test]
async fn a_key_that_the_lake_cannot_hold_is_a_letter() {
    let table = "CREATE TABLE t(id int, until timestamptz, PRIMARY KEY (id, until));";
    let database = Database::create(table).await;
    let (source, mut stream) = database.capture().await;
    database
        .run_each(&[
            "INSERT INTO t VALUES (1, '2026-01-01')",
            "UPDATE t SET until = 'infinity'",
            "INSERT INTO t VALUES (2, '2026-01-01')",
        ])
        .await;
    let chunks = read_to(&mut stream, database.mark().await).await;
    let ids: Vec<_> = rows_of_chunks(&chunks).into_iter().map(|row| row.values).collect();
    assert_eq!(ids.len(), 2, "{ids:?}");
    let letters: Vec<_> = chunks.into_iter().flat_map(|chunk| chunk.letters).collect();
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert!(letter.reason.contains("key column until"), "{}", letter.reason);
    let again = source.letter_reader(&letter.table).unwrap().read(letter).await.unwrap_err().to_string();
    assert!(again.contains("key column until"), "{again}");
    // So is a copied row.
    let snapshot = source.temporary_snapshot(WAIT).await.unwrap();
    let sessions = Arc::new(Semaphore::new(1));
    let copy =
        async || snapshot.copy(&letter.table, 100, &sessions).await.unwrap().try_collect::<Vec<_>>().await;
    let copied = copy().await.unwrap();
    assert_eq!((copied.len(), copied[0].rows.num_rows(), copied[0].letters.len()), (1, 1, 1));
    assert_eq!(copied[0].letters[0].message, b"1\tinfinity");
}

#[tokio::test]
async fn a_copy_without_end_of_letters_stops() {
    let database = Database::create(
        "CREATE TABLE t(id int, until timestamptz, PRIMARY KEY (id, until));
         INSERT INTO t SELECT i, 'infinity' FROM generate_series(1, 1001) i;",
    )
    .await;
    let source = database.source().await;
    source.prepare().await.unwrap();
    let snapshot = source.temporary_snapshot(WAIT).await.unwrap();
    let sessions = Arc::new(Semaphore::new(1));
    let copy = snapshot.copy(&table("t"), 100, &sessions).await.unwrap();
    let error = copy.try_collect::<Vec<_>>().await.unwrap_err();
    assert!(matches!(error, CdcError::Flood { limit: 1000, .. }), "{error}");
}

#[tokio::test]
async fn a_schema_change_stops_its_table_after_what_preceded_it() {
    let database = Database::create(
        "CREATE TABLE t(id int PRIMARY KEY, note text); CREATE TABLE u(id int PRIMARY KEY);",
    )
    .await;
    let (_, mut stream) = database.capture().await;
    database
        .run_each(&[
            "INSERT INTO t VALUES (1, 'a')",
            "ALTER TABLE t ADD COLUMN extra int",
            "INSERT INTO t VALUES (2, 'b', 3)",
            "INSERT INTO u VALUES (1)",
        ])
        .await;
    let (mut rows, mut stopped) = (BTreeMap::new(), Vec::new());
    while !rows.contains_key("public.u") {
        let chunk = stream.next().await.unwrap();
        assert!(matches!(chunk.boundary, Boundary::Closed { .. }));
        for batch in &chunk.batches {
            *rows.entry(batch.table.id.to_string()).or_insert(0) += batch.num_rows();
        }
        stopped.extend(chunk.stopped);
    }
    assert_eq!(rows, BTreeMap::from([("public.t".to_owned(), 1), ("public.u".to_owned(), 1)]));
    assert_eq!((stopped.len(), stopped[0].id.to_string().as_str()), (1, "public.t"));
    assert!(stopped[0].reason.ends_with("column extra was added"), "{}", stopped[0].reason);
}
