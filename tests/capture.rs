//! Capture without any configuration, its proof, and leaving no trace.

use crate::stand::{Stand, fail, json, succeed, until};

const TABLES: &str = "
    create table goods(id bigint primary key, name text, price numeric(12,2), note text, changed timestamptz);
    create table lines(a int, b text, amount int, primary key (b, a));
    create table keyless(x int);
    insert into goods select i, 'good ' || i, i / 7.0, null, '2026-01-01T00:00:00Z' from generate_series(1, 1000) i;
    insert into lines select i, 'b' || i % 7, i from generate_series(1, 500) i;";

/// Every operation on `goods` and `lines`, two of them within one transaction each.
const CHANGES: &str = "
    insert into goods select i, 'new ' || i, 1.10, 'n', now() from generate_series(1001, 1100) i;
    begin; update goods set price = price + 1 where id % 3 = 0; delete from goods where id % 10 = 0; commit;
    begin; update goods set id = id + 100000 where id < 20; update lines set amount = -amount where a < 50; commit;
    truncate lines;
    insert into lines values (1, 'again', 7);";

#[tokio::test(flavor = "multi_thread")]
async fn captures_every_table_with_a_key_and_proves_it() {
    let stand = Stand::new().await;
    stand.sql(TABLES).await;
    stand.ingest_until_idle();
    assert_eq!(
        stand.reconcile(),
        [("public.goods".to_owned(), 1000), ("public.lines".to_owned(), 500)],
        "the table without a key is in bronze alone"
    );

    for statement in CHANGES.split_inclusive("commit;").collect::<Vec<_>>() {
        stand.sql(statement).await;
    }
    stand.ingest_until_idle();
    let goods = stand.count("select count(*) from goods").await;
    assert_eq!(
        stand.reconcile(),
        [("public.goods".to_owned(), goods as u64), ("public.lines".to_owned(), 1)]
    );

    let listed =
        json_all(&succeed(stand.lakeward(&["table", "list", "--lake", stand.lake_path(), "--json"])).stdout);
    assert_eq!(listed[2]["key"], serde_json::json!(["b", "a"]), "in the key's order");

    succeed(stand.capture(&["source", "drop"]));
    let left = "select (select count(*) from pg_replication_slots) + (select count(*) from pg_publication)";
    assert_eq!(stand.count(left).await, 0);
}

fn json_all(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn reconcile_asks_the_running_ingester_while_rows_keep_coming() {
    let stand = Stand::new().await;
    stand.sql(TABLES).await;
    stand.ingest_until_idle();
    let ingester = stand.start_ingester().await;
    let writer = lakeward_postgres::connect(&stand.url).await.expect("a connection");
    let writing = tokio::spawn(async move {
        for id in 0.. {
            let statement = format!("insert into lines values ({id}, 'live', 1)");
            if writer.batch_execute(&statement).await.is_err() {
                return;
            }
        }
    });
    for _ in 0..3 {
        let report = json(&succeed(stand.capture(&["reconcile"])));
        assert_eq!(report["ran_ingester"], false, "{report}");
    }
    writing.abort();
    ingester.interrupt();
    stand.reconcile();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_postgres_is_survived() {
    let stand = Stand::new().await;
    stand.sql(TABLES).await;
    stand.ingest_until_idle();
    let ingester = stand.start_ingester().await;
    stand.sql("update goods set name = name || '!'").await;
    stand.server.restart().await.expect("Postgres restarts");
    let client = lakeward_postgres::connect(&stand.url).await.expect("a connection");
    client.batch_execute("delete from goods where id > 900").await.expect("it runs");
    until("the ingester is back", async || {
        let active = "select count(*) from pg_replication_slots where active";
        client.query_one(active, &[]).await.expect("it runs").get::<_, i64>(0) == 1
    })
    .await;
    ingester.interrupt();
    assert_eq!(stand.reconcile()[0], ("public.goods".to_owned(), 900));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_become_null_are_told() {
    let stand = Stand::new().await;
    stand.sql(TABLES).await;
    stand.sql("insert into goods(id, price) values (-1, 'NaN')").await;
    let copied = succeed(stand.capture(&["ingest", "--until-idle"]));
    assert!(crate::stand::text(&copied.stderr).contains("1 values are null in their columns"));
    stand.sql("insert into goods(id, price, changed) values (-2, 'NaN', 'infinity')").await;
    let streamed = succeed(stand.capture(&["ingest", "--until-idle"]));
    assert!(crate::stand::text(&streamed.stderr).contains("2 values are null in their columns"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_is_said_and_copied_anew() {
    let stand = Stand::new().await;
    stand.sql(TABLES).await;
    stand.ingest_until_idle();
    succeed(stand.capture(&["source", "drop"]));
    stand.sql("delete from goods where id > 10").await;
    let output = succeed(stand.capture(&["ingest", "--until-idle"]));
    let told = crate::stand::text(&output.stderr);
    assert!(told.contains("slot is gone"), "{told}");
    assert_eq!(stand.reconcile()[0], ("public.goods".to_owned(), 10));
    let listed =
        json_all(&succeed(stand.lakeward(&["table", "list", "--lake", stand.lake_path(), "--json"])).stdout);
    assert_eq!(listed[0]["epoch"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_captured_is_told_what_it_lacks() {
    let stand = Stand::new().await;
    stand.sql("create unlogged table quick(x int primary key)").await;
    let (code, error) = fail(stand.capture(&["ingest", "--until-idle"]));
    assert_eq!(code, 2);
    assert!(error.contains("quick"), "{error}");
    let mut doctor = stand.lakeward(&["doctor", "--postgres-url", &stand.url, "--json"]);
    let findings = doctor.output().expect("it runs");
    let findings: serde_json::Value = serde_json::from_slice(&findings.stdout).expect("JSON");
    assert!(findings.to_string().contains("quick"), "{findings}");
}
