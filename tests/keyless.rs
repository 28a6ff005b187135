//! Tables without a usable key: the shop's own statements go on working, and what can be captured is, exactly.

use arrow::{array::AsArray, datatypes::Int64Type};
use serde_json::{Value, json};

use crate::stand::{Background, Stand, json, succeed, text, until};

const TABLES: &str = "
    create table kept(id int primary key, n int);
    create table nokey(n int, note text);
    create table nothing(id int primary key, n int); alter table nothing replica identity nothing;
    create table later(id int, n int, primary key (id) deferrable initially deferred);
    create table counted(a int, b text, c json, d numeric(10,2), e float8, large text);
    alter table counted replica identity full;
    insert into kept select i, i from generate_series(1, 100) i;
    insert into nokey select i % 3, 'note' from generate_series(1, 10) i;
    insert into nothing select i, i from generate_series(1, 10) i;
    insert into later select i, i from generate_series(1, 10) i;
    insert into counted(a, b) select nullif(i % 5, 0), nullif(i % 2, 0)::text from generate_series(1, 50000) i;
    insert into counted(a, b) values (null, null);
    insert into counted select 1, 'x', '{\"a\":  1}', 'NaN', '-0', string_agg(md5(i::text), '') from generate_series(1, 400) i;";

/// The shop's day: each statement is one that Postgres refuses where a table without a key is published for it.
const STATEMENTS: &str = "
    update kept set n = n + 1 where id % 7 = 0;
    insert into nokey values (7, 'new'), (8, null); update nokey set note = 'old' where n = 1; delete from nokey where n = 2;
    insert into nothing select max(id) + 1, 0 from nothing; update nothing set n = 1; delete from nothing where id = 3;
    insert into later select max(id) + 1, 0 from later; update later set n = 1; delete from later where id = 3;
    insert into counted(a, b) values (1, '1'), (1, '1'), (null, null), (9, 'nine');
    update counted set a = a + 1 where ctid in (select ctid from counted where b = '1' limit 500);
    update counted set b = null where large is not null;
    delete from counted where ctid in (select ctid from counted where a is null limit 10);
    begin; insert into counted(a) values (77); update counted set a = 78 where a = 77; delete from counted where a = 78; commit;";

const HISTORIES: [&str; 3] = ["public.later", "public.nokey", "public.nothing"];

fn reconciled(stand: &Stand) -> Value {
    json(&succeed(stand.capture(&["reconcile"])))
}

/// Names in a list of tables that a report has.
fn names(tables: &Value) -> Vec<String> {
    let tables = tables.as_array().expect("tables").iter();
    let part = |table: &Value, part: &str| table[part].as_str().map(str::to_owned);
    tables
        .map(|table| match part(table, "schema") {
            Some(schema) => format!("{schema}.{}", part(table, "name").expect("a name")),
            None => part(table, "table").expect("a name"),
        })
        .collect()
}

async fn number(stand: &Stand, path: &str, expression: &str) -> i64 {
    let lake = stand.open_lake();
    let session = lake.session();
    session.register_table("t", lake.read(path, None).await.expect("it reads")).expect("it registers");
    let found = session.sql(&format!("select {expression} from t")).await.expect("it plans");
    found.collect().await.expect("it runs")[0].column(0).as_primitive::<Int64Type>().value(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shop_goes_on_and_what_can_be_captured_is() {
    let stand = Stand::new().await;
    stand.sql(TABLES).await;
    let told = text(&succeed(stand.capture(&["ingest", "--until-idle"])).stderr);
    assert!(told.contains("public.nothing lands in bronze alone") && told.contains("NOTHING"), "{told}");
    assert_eq!(stand.count("select count(*) from pg_publication").await, 2);

    let mut inserted = 10;
    for spec in ["commit_sent=1*off->1*return(kill)", "commit_answered=2*off->1*return(kill)", ""] {
        let mut command = stand.capture(&["ingest"]);
        command.env("FAILPOINTS", spec).env("LAKEWARD__INGEST__FLUSH_SECONDS", "0.2");
        let mut ingester = Background::start(command);
        for _ in 0..3 {
            stand.sql(STATEMENTS).await;
            inserted += 2;
        }
        if spec.is_empty() {
            ingester.kill();
        } else {
            until("a failpoint has killed it", async || ingester.ended().is_some()).await;
        }
        let report = reconciled(&stand);
        assert_eq!(names(&report["tables"]), ["public.counted", "public.kept"], "{report}");
        assert_eq!(names(&report["bronze_only"]), HISTORIES, "{report}");
    }

    let rows = stand.count("select count(*) from counted").await;
    let distinct = stand.count("select count(distinct t::text) from counted t").await;
    let counted = "silver/shop/public/counted";
    assert_eq!(number(&stand, counted, "sum(_count)").await, rows);
    assert_eq!(number(&stand, counted, "count(*)").await, distinct);
    let nokey = "bronze/shop/public/nokey";
    assert_eq!(number(&stand, nokey, "count(*)").await, inserted, "what was copied and inserted");
    assert!(!stand.lake.path().join("silver/shop/public/nokey").exists());
    stand.sql("truncate nokey").await;
    stand.ingest_until_idle();
    assert_eq!(number(&stand, nokey, "count(*) filter (where _op = 't')").await, 1);
    for (id, table) in stand.watermark().await.expect("a watermark").tables {
        assert_eq!(stand.doubled_in_bronze(&table.bronze_path).await, 0, "{id}");
    }

    let status = json(&succeed(stand.capture(&["status"])));
    let of = |name: &str| {
        let tables = status["tables"].as_array().expect("tables");
        tables.iter().find(|table| table["name"] == name).expect("it is there")["bronze_only"].clone()
    };
    assert!(of("nokey").as_str().expect("a reason").contains("ADD PRIMARY KEY"), "{status}");
    assert_eq!(of("kept"), Value::Null);
    assert!(status["findings"].to_string().contains("public.later is in bronze alone"), "{status}");
    let listed = text(&succeed(stand.lakeward(&["table", "list", "--lake", stand.lake_path()])).stdout);
    assert!(listed.contains("public.nokey: bronze alone"), "{listed}");
    let described =
        stand.lakeward(&["table", "describe", "public.nokey", "--lake", stand.lake_path(), "--json"]);
    assert_eq!(json(&succeed(described))["table"]["bronze_only"], json!(true));

    // What an update left in silver that no update brings is found; without a key it is not repaired but copied anew.
    stand
        .sql(
            "alter publication lakeward_shop drop table counted; delete from counted where b = 'nine';
             alter publication lakeward_shop add table counted",
        )
        .await;
    let output = stand.capture(&["reconcile", "--repair"]).output().expect("it runs");
    let report = json(&output);
    assert_eq!((output.status.code(), &report["tables"][0]["differing"]), (Some(1), &json!(1)), "{report}");
    assert_eq!(
        report["tables"][0]["differences"][0]["key"][0], "***",
        "a whole row is shown only when asked for"
    );
    succeed(stand.lakeward(&["table", "resync", "public.counted", "--lake", stand.lake_path()]));
    stand.ingest_until_idle();
    reconciled(&stand);

    succeed(stand.capture(&["source", "drop"]));
    assert_eq!(stand.count("select count(*) from pg_publication").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_gets_a_key_or_loses_it_changes_its_place() {
    let stand = Stand::new().await;
    stand
        .sql(
            "create table goods(id int, n int); insert into goods select i, i from generate_series(1, 100) i;
             create table lines(id int constraint pk primary key, n int); insert into lines select i, i from generate_series(1, 50) i;",
        )
        .await;
    let ingester = stand.start_ingester().await;
    let places = async |tables: &[&str], histories: &[&str], after: &str| {
        until(&format!("the tables are where they belong after: {after}"), async || {
            let output = stand.capture(&["reconcile"]).output().expect("it runs");
            let report = json(&output);
            output.status.success()
                && names(&report["tables"]) == tables
                && names(&report["bronze_only"]) == histories
        })
        .await;
    };
    places(&["public.lines"], &["public.goods"], "the first copy").await;

    stand.sql("alter table goods add primary key (id); update goods set n = 0 where id < 10").await;
    places(&["public.goods", "public.lines"], &[], "a key came").await;
    stand.sql("update goods set n = 1 where id < 5; delete from goods where id = 50").await;
    places(&["public.goods", "public.lines"], &[], "changes by the key").await;

    stand.sql("alter table lines drop constraint pk").await;
    // Until the ingester has seen it, Postgres refuses.
    until("the shop's update works again", async || {
        stand.client.batch_execute("update lines set n = n + 1").await.is_ok()
    })
    .await;
    places(&["public.goods"], &["public.lines"], "the key went").await;

    stand
        .sql("alter table lines replica identity full, alter column id drop not null; insert into lines values (1, 2), (1, 2), (null, null)")
        .await;
    places(&["public.goods", "public.lines"], &[], "whole rows are told").await;
    stand.sql("update lines set n = null where id > 25; alter table lines add column more text").await;
    stand.sql("update lines set more = 'x' where id = 1; delete from lines where id is null").await;
    places(&["public.goods", "public.lines"], &[], "a column came").await;
    ingester.interrupt();
    let rows = stand.count("select count(*) from lines").await;
    assert_eq!(number(&stand, "silver/shop/public/lines", "sum(_count)").await, rows);
}
