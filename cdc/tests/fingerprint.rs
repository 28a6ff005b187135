use arrow::array::AsArray;
use lakeward_change::entry_values;

use crate::server::{Database, WAIT, table};

#[tokio::test]
async fn texts_are_canonical() {
    // The texts of the definition, computed by hand; their hashes by Postgres's own md5.
    let cases = [
        ("int8", "1", "1:1"),
        ("int4", "NULL", "-"),
        ("text", "'é'", "2:é"),
        ("text", "''", "0:"),
        ("numeric(12,2)", "0.5", "4:0.50"),
        ("numeric(12,2)", "-0.5", "5:-0.50"),
        ("numeric(5,0)", "7", "1:7"),
        ("numeric(12,2)", "'NaN'", "3:NaN"),
        ("bool", "true", "1:t"),
        ("bool", "false", "1:f"),
        ("bool", "NULL", "-"),
        ("float8", "1.5", "16:3ff8000000000000"),
        ("float8", "'-0'", "16:8000000000000000"),
        ("float4", "1.5", "8:3fc00000"),
        ("float8", "'NaN'", "3:NaN"),
        ("uuid", "'00000000-0000-0000-0000-00000000000A'", "36:00000000-0000-0000-0000-00000000000a"),
        ("json", "'{ }'", "3:{ }"),
        ("bytea", r"'\x00ff'", "4:00ff"),
        ("date", "'1969-12-31'", "2:-1"),
        ("date", "'infinity'", "8:infinity"),
        ("timestamptz", "'1970-01-01 00:00:01.000001+00'", "7:1000001"),
        ("timestamptz", "'1969-12-31 23:59:59.5+00'", "7:-500000"),
        ("timestamptz", "'294276-12-31 00:00+00'", "24:294276-12-31 00:00:00+00"),
        ("timestamp", "'-infinity'", "9:-infinity"),
        ("timestamp", "'0044-03-15 12:00:00 BC'", "18:-63517780800000000"),
        ("char(3)", "'a'", "3:a  "),
        ("inet", "'10.0.0.1'", "8:10.0.0.1"),
        ("interval", "'1 day'", "5:1 day"),
        ("int[]", "'{1,NULL}'", "8:{1,NULL}"),
    ];
    let mut schema = String::new();
    for (i, (sql_type, value, _)) in cases.iter().enumerate() {
        schema += &format!(
            "CREATE TABLE t{i}(id int PRIMARY KEY, v {sql_type}); INSERT INTO t{i} VALUES (5, {value});"
        );
    }
    let database = Database::create(&schema).await;
    let source = database.source().await;
    let snapshot = source.temporary_snapshot(WAIT).await.expect("a snapshot");
    for (i, (sql_type, value, entry)) in cases.iter().enumerate() {
        let sums = snapshot.fingerprint(&table(&format!("t{i}"))).await.expect("sums");
        let hash: i64 = database
            .client
            .query_one("SELECT ('x' || left(md5('1:5' || $1), 16))::bit(64)::bigint", &[entry])
            .await
            .expect("a hash")
            .get(0);
        assert_eq!(sums.len(), 1);
        assert_eq!((sums[0].rows, sums[0].sum), (1, i128::from(hash)), "{sql_type} {value}");
        let rows = snapshot.bucket_rows(&table(&format!("t{i}")), &[sums[0].bucket]).await.expect("rows");
        assert_eq!(rows, [("1:5".to_owned(), hash)]);
        let texts = snapshot.row_texts(&table(&format!("t{i}")), &["1:5".to_owned()]).await.expect("texts");
        assert_eq!(texts, [("1:5".to_owned(), format!("1:5{entry}"))]);
    }
}

#[tokio::test]
async fn sums_see_every_difference_and_only_the_snapshot() {
    let database = Database::create(
        "CREATE TABLE a(k text, id int8, v text, PRIMARY KEY (id, k));
         INSERT INTO a SELECT 'k' || i, i, md5(i::text) FROM generate_series(1, 5000) i;
         CREATE TABLE b(LIKE a INCLUDING ALL); INSERT INTO b SELECT * FROM a ORDER BY v;",
    )
    .await;
    let source = database.source().await;
    let first = source.temporary_snapshot(WAIT).await.expect("a snapshot");
    database.run("UPDATE b SET v = v || '!' WHERE id = 77").await;
    let sums = first.fingerprint(&table("a")).await.expect("sums");
    assert_eq!(first.fingerprint(&table("b")).await.expect("sums"), sums, "the snapshot is older");
    assert_eq!(sums.iter().map(|sum| sum.rows).sum::<u64>(), 5000);
    assert!(sums.len() > 4000, "5000 keys fall into {} of 16384 buckets", sums.len());

    let second = source.temporary_snapshot(WAIT).await.expect("a snapshot");
    let changed = second.fingerprint(&table("b")).await.expect("sums");
    let mut differing: Vec<_> =
        sums.iter().zip(&changed).filter(|(a, b)| a != b).map(|(a, _)| a.bucket).collect();
    assert_eq!(differing.len(), 1);
    differing.push((differing[0] + 1) % 16_384);
    let a = second.bucket_rows(&table("a"), &differing).await.expect("rows");
    let b = second.bucket_rows(&table("b"), &differing).await.expect("rows");
    let keys: Vec<_> = a.iter().zip(&b).filter(|(a, b)| a != b).map(|(a, _)| entry_values(&a.0)).collect();
    assert_eq!(keys, [[Some("77"), Some("k77")]]);
}

#[tokio::test]
async fn rows_are_fetched_by_the_texts_of_their_keys_also_in_an_imported_snapshot() {
    let database = Database::create(
        r"CREATE TABLE t(at timestamptz, n numeric(8,2), name text, v int, PRIMARY KEY (name, at, n));
          INSERT INTO t SELECT to_timestamp(i), i / 4.0, E'it''s \\ ' || i, i FROM generate_series(1, 100) i;",
    )
    .await;
    let source = database.source().await;
    let snapshot = source.temporary_snapshot(WAIT).await.expect("a snapshot");
    database.run("DELETE FROM t").await;
    let buckets: Vec<u16> = (0..16_384).collect();
    let all = snapshot.bucket_rows(&table("t"), &buckets).await.expect("rows");
    let wanted: Vec<String> = all.iter().step_by(10).map(|(key, _)| key.clone()).collect();
    assert_eq!(wanted[0], r"10:it's \ 1009:1000000005:25.00", "name, time and number");

    let absent = ["1:x1:11:1".to_owned()];
    let imported = database.source().await.imported_snapshot(snapshot.name(), snapshot.lsn());
    let rows = imported.rows_by_key(&table("t"), &[&wanted[..], &absent].concat()).await.expect("rows");
    let texts = imported.row_texts(&table("t"), &wanted).await.expect("texts");
    assert_eq!((rows.num_rows(), texts.len()), (10, 10));
    assert_eq!(rows.schema().field(3).name(), "v");
    let names = rows.column(2).as_string::<i32>();
    assert!(texts.iter().all(|(key, row)| {
        let name = entry_values(key)[0].map(str::to_owned);
        entry_values(row)[2].map(str::to_owned) == name && names.iter().any(|n| n == name.as_deref())
    }));
    let none = imported.rows_by_key(&table("t"), &absent).await.expect("no rows");
    assert_eq!((none.num_rows(), none.num_columns()), (0, 4));
}
