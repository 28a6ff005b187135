//! Every type comes the same way out of a copy and out of the stream, whatever the database's own settings are.

use arrow::{
    array::{Array, AsArray},
    datatypes::Decimal128Type,
};
use lakeward_cdc::{PostgresOptions, PostgresSource, Salt, TableRule};
use lakeward_change::{ColumnType, raw_entries, raw_of, raw_text};

use crate::server::{Database, WAIT, copied, followed, read_to, table};

const EVERY_TYPE: &str = include_str!("every_type.sql");
/// Of each kind another one than what Lakeward asks for.
const ODD: &str = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %1$I SET DateStyle = ''SQL, DMY'';
    ALTER DATABASE %1$I SET IntervalStyle = ''iso_8601''; ALTER DATABASE %1$I SET TimeZone = ''Asia/Kathmandu'';
    ALTER DATABASE %1$I SET bytea_output = ''escape''; ALTER DATABASE %1$I SET extra_float_digits = -15;
    ALTER DATABASE %1$I SET quote_all_identifiers = on; ALTER DATABASE %1$I SET search_path = nowhere;
    ALTER DATABASE %1$I SET statement_timeout = ''1h''; ALTER DATABASE %1$I SET row_security = on', current_database()); END $$";

#[tokio::test]
async fn every_type_copies_and_streams_alike_under_odd_settings() {
    let database = Database::create(EVERY_TYPE).await;
    database.run("CREATE TABLE streamed(LIKE every_type INCLUDING ALL)").await;
    database.run(ODD).await;
    let (source, mut stream) = database.capture().await;
    database.run("INSERT INTO streamed SELECT * FROM every_type ORDER BY id").await;
    let lsn = database.mark().await;
    let chunks = read_to(&mut stream, lsn).await;
    let streamed = &chunks.iter().flat_map(|chunk| &chunk.batches).next().expect("a batch").values;
    let snapshot = source.temporary_snapshot(WAIT).await.expect("a snapshot");
    let batches = copied(&snapshot, &table("streamed"), 100).await;
    let (a, b) = (&batches[0], streamed);
    for (index, column) in source.tables()[0].columns.iter().enumerate() {
        assert_eq!(a.column(index), b.column(index), "{}", column.source_type);
    }
    assert_eq!(a, b, "with what did not fit");

    // What did not fit is there, as Postgres writes it; everything else is in its column.
    let schema = source.tables().iter().find(|known| known.id == table("streamed")).expect("it is captured");
    assert!(schema.columns.len() > 85, "{} types", schema.columns.len() - 1);
    let raw = raw_of(a).expect("values that do not fit");
    let texts: Vec<&str> =
        (0..a.num_rows()).flat_map(|row| raw_entries(raw, row)).map(|(_, text)| text).collect();
    let count = |text: &str| texts.iter().filter(|found| **found == text).count();
    assert_eq!(
        [count("NaN"), count("infinity"), count("-infinity"), count("294276-12-31 23:59:59.999999+00")],
        [5, 3, 4, 1],
        "{texts:?}"
    );
    assert_eq!(snapshot.nulled(), texts.len() as u64);
    for (index, column) in schema.columns.iter().enumerate() {
        let given = format!("SELECT count({}) FROM streamed", column.name);
        let held = a.column(index).len() - a.column(index).null_count();
        let beside =
            (0..a.num_rows()).filter(|&row| raw_text(Some(raw), row, &column.name).is_some()).count();
        assert_eq!((held + beside) as i64, database.one::<i64>(&given).await, "{}", column.source_type);
    }
    let text = |source_type: &str, row| {
        let index =
            schema.columns.iter().position(|column| column.source_type == source_type).expect(source_type);
        a.column(index).as_string::<i32>().value(row).to_owned()
    };
    for (source_type, row, expected) in [
        ("money", 0, "-$1,234.50"),
        ("interval", 0, "1 year -2 days +03:04:05.000006"),
        ("timestamp with time zone[]", 0, "{\"2023-12-31 18:15:00+00\",NULL}"),
        ("bytea[]", 0, "{\"\\\\x00ff\",NULL}"),
        ("double precision[]", 0, "{0.1,-0}"),
        ("regtype", 0, "timestamp with time zone"),
        ("character(4)", 0, "ab  "),
        ("integer[]", 2, "{{1,NULL},{3,4}}"),
        ("tstzrange", 1, "(,infinity)"),
    ] {
        assert_eq!(text(source_type, row), expected, "{source_type}");
    }
}

#[tokio::test]
async fn rules_hash_columns_and_give_numerics_a_scale() {
    let database = Database::create(
        "CREATE TABLE people(email text, n numeric, id numeric, born date, PRIMARY KEY (email, id));
         INSERT INTO people VALUES ('a@b.de', 1.5, 1.25, '2000-01-01'), ('é', 0.005, 2, NULL);",
    )
    .await;
    let rule = TableRule {
        pattern: "public.people".into(),
        hash: vec!["email".into(), "born".into()],
        numeric_scale: Some(2),
        ..TableRule::default()
    };
    let options = |salt: &str| PostgresOptions {
        rules: vec![rule.clone()],
        salt: Salt::new(salt),
        ..PostgresOptions::new(&database.url)
    };
    let source = PostgresSource::open(options("pepper")).await.expect("a source");
    source.prepare().await.expect("a publication");
    let snapshot = source.create_slot(WAIT).await.expect("a slot");
    let rows = copied(&snapshot, &table("people"), 10).await.remove(0);
    let hashes = rows.column(0).as_string::<i32>();
    for (row, value) in ["a@b.de", "é"].iter().enumerate() {
        let expected = format!("SELECT encode(sha256(convert_to('pepper{value}', 'UTF8')), 'hex')");
        assert_eq!(hashes.value(row), database.one::<String>(&expected).await);
    }
    assert_eq!(rows.column(1).as_primitive::<Decimal128Type>().value(0), 150);
    assert_eq!(raw_text(raw_of(&rows), 1, "n"), Some("0.005"));
    assert_eq!(rows.column(2).as_string::<i32>().value(0), "1.25", "a key is held whatever it is");
    assert!(rows.column(3).is_null(1) && rows.column(3).as_string::<i32>().value(0).len() == 64);

    // Postgres finds a row by the hash of its key, and its texts are those of what landed.
    let key = format!("64:{}4:1.25", hashes.value(0));
    let found = snapshot.rows_by_key(&table("people"), std::slice::from_ref(&key)).await.expect("a row");
    assert_eq!(found, rows.slice(0, 1).project(&[0, 1, 2, 3]).expect("without what did not fit"));
    let texts = snapshot.row_texts(&table("people"), std::slice::from_ref(&key)).await.expect("its texts");
    let born = rows.column(3).as_string::<i32>().value(0);
    assert_eq!(texts, [(key, format!("64:{}4:1.504:1.2564:{born}", hashes.value(0)))]);

    // Both the key before and after.
    let mut stream = source.stream(snapshot.lsn(), &followed(&source)).await.expect("a stream");
    database.run("UPDATE people SET email = 'é' WHERE id = 1.25").await;
    let lsn = database.mark().await;
    let chunks = read_to(&mut stream, lsn).await;
    let batch = chunks.iter().flat_map(|chunk| &chunk.batches).next().expect("a batch");
    assert_eq!(batch.values.column(0).as_string::<i32>().value(0), hashes.value(1));
    let old = batch.old_keys.as_ref().expect("an old key").column(0).as_string::<i32>();
    assert_eq!(old.value(0), hashes.value(0));

    let other = PostgresSource::open(options("salt")).await.expect("a source");
    let hashed = |source: &PostgresSource| source.tables()[0].columns[0].column_type;
    assert!(matches!(hashed(&source), ColumnType::Hashed { .. }) && hashed(&source) != hashed(&other));
}
