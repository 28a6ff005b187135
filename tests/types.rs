//! Odd values, odd names and hashed columns all the way into bronze and silver, and the proof over them.

use std::collections::BTreeSet;

use arrow::{
    array::{Array, AsArray},
    datatypes::Int64Type,
};
use deltalake::datafusion::{common::ScalarValue, prelude::*};
use lakeward_change::{raw_entries, raw_field, raw_of};

use crate::stand::{Stand, json, succeed};

const EVERY_TYPE: &str = include_str!("../cdc/tests/every_type.sql");

const ODD: &str = "
    alter database shop set DateStyle = 'SQL, DMY'; alter database shop set TimeZone = 'Asia/Kathmandu';
    alter database shop set IntervalStyle = 'iso_8601'; alter database shop set bytea_output = 'escape';
    alter database shop set extra_float_digits = -15; alter database shop set quote_all_identifiers = on;";

/// Numerics that do not fit their column, one of them long enough to lie apart and to be left out of updates.
const PRICES: &str = r#"
    create table prices(id int primary key, price numeric(8,2), since timestamptz, wide numeric, note text);
    alter table prices alter column wide set storage external;
    insert into prices select i, i, '2026-01-01', i / 4.0, 'note' from generate_series(1, 20) i;
    update prices set price = 'NaN' where id < 6; update prices set since = 'infinity' where id in (1, 7);
    update prices set wide = ('1' || repeat('23456789', 1500))::numeric where id in (1, 8, 9, 10);"#;
const PRICES_CHANGE: &str = "
    update prices set price = 1 where id in (1, 2); update prices set note = 'again' where id in (3, 8);
    update prices set price = 'NaN', note = 'twice' where id in (8, 10, 11); update prices set wide = 5 where id = 9;
    begin; update prices set id = 108 where id = 8; update prices set since = '-infinity' where id = 108; commit;
    insert into prices values (30, 'NaN', 'infinity', 'NaN', 'new'); delete from prices where id = 4;
    update prices set id = 101 where id = 1;";

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_kept_as_text_and_compared() {
    let stand = Stand::new().await;
    stand.sql(&format!("{ODD}{PRICES}")).await;
    stand.sql(EVERY_TYPE).await;
    stand.sql("create table streamed(like every_type including all)").await;
    configure(&stand, "[source]\nrules = [{ pattern = \"public.prices\", numeric_scale = 2 }]");
    stand.ingest_until_idle();
    stand.reconcile();
    stand
        .sql("insert into streamed select * from every_type; update streamed set id = id + 100 where id < 3")
        .await;
    stand.sql(PRICES_CHANGE).await;
    stand.ingest_until_idle();
    let rows = [("every_type", 6), ("prices", 20), ("streamed", 6)];
    assert_eq!(stand.reconcile(), rows.map(|(name, rows)| (format!("public.{name}"), rows)));

    let expected = [
        (3, "price", "NaN"),
        (5, "price", "NaN"),
        (7, "since", "infinity"),
        (10, "price", "NaN"),
        (11, "price", "NaN"),
        (30, "price", "NaN"),
        (30, "since", "infinity"),
        (30, "wide", "NaN"),
        (101, "since", "infinity"),
        (108, "price", "NaN"),
        (108, "since", "-infinity"),
    ];
    let mut found = raw(&stand, "silver").await;
    let long: Vec<i64> = found.iter().filter(|(.., text)| text.len() == 12_001).map(|(id, ..)| *id).collect();
    assert_eq!(long, [10, 101, 108], "long ones stay through updates that do not send them");
    found.retain(|(.., text)| text.len() < 100);
    let expected: BTreeSet<_> =
        expected.into_iter().map(|(id, column, text)| (id, column.to_owned(), text.to_owned())).collect();
    assert_eq!(found, expected);
    assert!(raw(&stand, "bronze").await.is_superset(&expected), "bronze keeps them too");

    // A value that is lost beside its column is found out, and comes back.
    let path = stand.lake.path().join("silver/shop/public/prices");
    let url = url::Url::from_directory_path(&path).expect("an absolute path");
    let prices = deltalake::open_table(url).await.expect("the table is there");
    let null = ScalarValue::try_new_null(raw_field().data_type()).expect("a null");
    let update = prices.update().with_predicate(col("id").eq(lit(5))).with_update("_raw", lit(null));
    update.await.expect("an update");
    let output = stand.capture(&["reconcile", "--repair"]).output().expect("it runs");
    let report = json(&output);
    assert_eq!(report["tables"][1]["differences"][0]["columns"][0]["column"], "price", "{report}");
    assert!(output.status.success());
    assert!(raw(&stand, "silver").await.contains(&(5, "price".to_owned(), "NaN".to_owned())));
    stand.reconcile();
}

/// Keys, columns and texts beside the columns of `prices`.
async fn raw(stand: &Stand, layer: &str) -> BTreeSet<(i64, String, String)> {
    let lake = stand.open_lake();
    let session = lake.session();
    let provider = lake.read(&format!("{layer}/shop/public/prices"), None).await.expect("it reads");
    session.register_table("prices", provider).expect("it registers");
    let query = "select cast(id as bigint) as id, _raw from prices where _raw is not null";
    let batches = session.sql(query).await.expect("it plans").collect().await.expect("it runs");
    let entries = batches.iter().flat_map(|batch| {
        let (ids, raw) = (batch.column(0).as_primitive::<Int64Type>(), raw_of(batch).expect("a map"));
        (0..raw.len()).flat_map(move |row| {
            raw_entries(raw, row)
                .into_iter()
                .map(move |(name, text)| (ids.value(row), name.to_owned(), text.to_owned()))
        })
    });
    entries.collect()
}

fn configure(stand: &Stand, text: &str) {
    std::fs::write(stand.lake.path().join("lakeward.toml"), text).expect("a configuration");
}

const NAMES: &str = r#"
    create table "Odd names"("the id" int, "unit price" numeric(8,2), "unit_price" text, "Note" text, "note" text,
        "_op" text, "_RAW" text, "a.b" int, "ü;ü" text, "tab	=" int, primary key ("the id", "a.b", "_op"));
    insert into "Odd names" select i, i, 'plain', 'N' || i, 'n' || i, 'op' || i, 'r', i, 'u', i from generate_series(1, 50) i;"#;

#[tokio::test(flavor = "multi_thread")]
async fn names_that_the_lake_cannot_hold_become_others() {
    let stand = Stand::new().await;
    stand.sql(NAMES).await;
    let columns: Vec<String> = (1..500).map(|i| format!("\"Column {}\" int", i)).collect();
    stand.sql(&format!("create table wide(id int primary key, {})", columns.join(", "))).await;
    stand.sql("insert into wide(id, \"Column 7\") select i, i from generate_series(1, 100) i").await;
    stand.ingest_until_idle();
    stand
        .sql(
            r#"update "Odd names" set "unit price" = 'NaN', "note" = 'x' where "the id" < 9;
               update "Odd names" set "_op" = 'moved' where "the id" = 20; delete from "Odd names" where "a.b" = 30;
               update wide set "Column 499" = id; alter table "Odd names" add column "UNIT PRICE" int;
               insert into "Odd names"("the id", "a.b", "_op", "UNIT PRICE") values (60, 60, 'new', 7)"#,
        )
        .await;
    stand.ingest_until_idle();
    assert_eq!(stand.reconcile(), [("public.Odd names".to_owned(), 50), ("public.wide".to_owned(), 100)]);
    let described = json_of(&stand, "public.Odd names");
    let named = |name: &str| {
        let columns = described["columns"].as_array().expect("columns").iter();
        columns.filter(|c| c["name"] == name).map(|c| c["source_name"].clone()).collect::<Vec<_>>()
    };
    for (name, source) in [
        ("the_id", "the id"),
        ("unit_price", "unit_price"),
        ("unit_price_2", "unit price"),
        ("Note", "Note"),
        ("note_2", "note"),
        ("_op_2", "_op"),
        ("_RAW_2", "_RAW"),
        ("a.b", "a.b"),
        ("ü_ü", "ü;ü"),
        ("tab__", "tab\t="),
        ("UNIT_PRICE_3", "UNIT PRICE"),
    ] {
        assert_eq!(named(name), [source], "{name}");
    }
    assert_eq!(named("_raw"), [serde_json::Value::Null]);
}

fn json_of(stand: &Stand, table: &str) -> serde_json::Value {
    json(&succeed(stand.lakeward(&["table", "describe", table, "--lake", stand.lake_path(), "--json"])))
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_keep_nothing_of_tables_with_hidden_columns() {
    let stand = Stand::new().await;
    configure(
        &stand,
        "[source]\nrules = [{ pattern = \"public.hashed\", hash = [\"email\"] }, { pattern = \"public.part\", leave_out = [\"email\"] }]",
    );
    let salted = |arguments: &[&str]| {
        let mut command = stand.capture(arguments);
        command.env("LAKEWARD__SOURCE__HASH_SALT", "pepper");
        command
    };
    for table in ["hashed", "part"] {
        stand
            .sql(&format!(
                "create table {table}(day date primary key, email text);
                 insert into {table} values ('infinity', 'copied@example.com'), ('2026-01-01', 'fine@example.com')"
            ))
            .await;
    }
    succeed(salted(&["ingest", "--until-idle"]));
    for table in ["hashed", "part"] {
        stand
            .sql(&format!(
                "insert into {table} values ('-infinity', 'came@example.com');
                 update {table} set email = 'changed@example.com' where day = 'infinity'"
            ))
            .await;
    }
    succeed(salted(&["ingest", "--until-idle"]));
    let lake = stand.open_lake();
    let letters = lake.dead_letters(None, true).await.expect("they read");
    let of = |table: &str| letters.iter().filter(|stored| stored.letter.table.name == table).count();
    assert_eq!((of("hashed"), of("part")), (3, 3));
    for stored in &letters {
        assert!(!String::from_utf8_lossy(&stored.letter.message).contains("example"), "{}", stored.id);
        assert!(!stored.letter.reason.contains("example"), "{}", stored.letter.reason);
    }
    let output = salted(&["dead-letters", "replay", "--table", "public.hashed"]).output().expect("it runs");
    let report = json(&output);
    let refused = report["refused"].as_object().expect("refusals");
    assert!(
        refused.len() == 3 && refused.values().all(|reason| reason.to_string().contains("table resync")),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_key_are_told_apart_by_values_that_columns_cannot_hold() {
    let stand = Stand::new().await;
    stand
        .sql(
            r#"create table prices("the price" numeric(8,2), until date); alter table prices replica identity full;
               insert into prices select case i % 3 when 0 then numeric 'NaN' when 1 then null else 5 end,
                   case i % 2 when 0 then date 'infinity' when 1 then '-infinity' end from generate_series(1, 600) i;
               insert into prices values (null, null), ('NaN', null);"#,
        )
        .await;
    stand.ingest_until_idle();
    stand
        .sql(
            r#"update prices set "the price" = null where ctid in (select ctid from prices where "the price" = 'NaN' limit 70);
               delete from prices where ctid in (select ctid from prices where until = '-infinity' limit 30);
               update prices set until = 'infinity' where until is null;
               insert into prices values ('NaN', 'infinity'), (7, '2026-01-01'); update prices set "the price" = 'NaN' where "the price" = 7;"#,
        )
        .await;
    stand.ingest_until_idle();
    stand.reconcile();
    let lake = stand.open_lake();
    let session = lake.session();
    let provider = lake.read("silver/shop/public/prices", None).await.expect("it reads");
    session.register_table("t", provider).expect("it registers");
    let sql = "select sum(_count) from t where _raw['the_price'] = 'NaN'";
    let found = session.sql(sql).await.expect("it plans").collect().await.expect("it runs");
    let expected = stand.count(r#"select count(*) from prices where "the price" = 'NaN'"#).await;
    assert_eq!(found[0].column(0).as_primitive::<Int64Type>().value(0), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn hashed_columns_never_show_their_values() {
    let stand = Stand::new().await;
    stand
        .sql(
            "create table people(email text primary key, born date, city text);
             insert into people select 'person' || i || '@example.com', '2000-01-01', 'Ulm' from generate_series(1, 50) i;",
        )
        .await;
    configure(&stand, "[source]\nrules = [{ pattern = \"public.people\", hash = [\"email\", \"born\"] }]");
    let salted = |arguments: &[&str], salt: &str| {
        let mut command = stand.capture(arguments);
        command.env("LAKEWARD__SOURCE__HASH_SALT", salt);
        command
    };
    succeed(salted(&["ingest", "--until-idle"], "pepper"));
    stand
        .sql(
            "update people set born = null where email < 'person2'; delete from people where email = 'person7@example.com';
             update people set email = 'moved@example.com' where email = 'person8@example.com';",
        )
        .await;
    succeed(salted(&["ingest", "--until-idle"], "pepper"));
    let report = json(&succeed(salted(&["reconcile"], "pepper")));
    assert_eq!(report["tables"][0]["lake_rows"], 49, "{report}");
    let lake = stand.open_lake();
    for layer in ["bronze", "silver"] {
        let session = lake.session();
        let provider = lake.read(&format!("{layer}/shop/public/people"), None).await.expect("it reads");
        let rows = session.read_table(provider).expect("a table").collect().await.expect("rows");
        let text = arrow::util::pretty::pretty_format_batches(&rows).expect("printable").to_string();
        assert!(text.contains("Ulm") && !text.contains("example") && !text.contains("2000-01-01"), "{text}");
    }
    // Another salt is another column: the table is copied anew.
    succeed(salted(&["ingest", "--until-idle"], "salt"));
    let report = json(&succeed(salted(&["reconcile"], "salt")));
    assert_eq!(report["tables"][0]["lake_rows"], 49, "{report}");
    let (code, error) = crate::stand::fail(stand.capture(&["ingest", "--until-idle"]));
    assert!(code == 2 && error.contains("hash_salt"), "{error}");
}
