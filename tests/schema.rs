//! The source's definitions change; the lake follows, and stays equal.

use std::process::Command;

use crate::stand::{Stand, epoch, fail, json, listed, succeed, text, whole};

const TABLES: &str = "
    create table goods(id int primary key, name text, price numeric(10,2), note text);
    insert into goods select n, 'good ' || n, n / 7.0, repeat('x', n % 50) from generate_series(1, 2000) n;
    create table lines(order_id int, line int, primary key (line, order_id));
    insert into lines select n / 3, n % 3 from generate_series(1, 500) n;";

fn with_policy(mut command: Command, policy: &str) -> Command {
    let rules = format!("[{{pattern=\"*.goods\",schema_changes=\"{policy}\"}}]");
    command.env("LAKEWARD__SOURCE__RULES", rules);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_a_definition_is_followed() {
    let stand = Stand::new().await;
    stand.sql(TABLES).await;
    let ingester = stand.start_ingester().await;
    whole(&stand, 2, "the first copy").await;
    assert_eq!(epoch(&stand, "public.goods"), 1);

    stand
        .sql(
            "begin; update goods set name = 'before' where id = 1; alter table goods add column colour text;
             update goods set colour = 'red' where id = 2; insert into lines values (900, 1); commit",
        )
        .await;
    whole(&stand, 2, "a new column").await;
    assert_eq!(epoch(&stand, "public.goods"), 1, "a column without values needs no copy");

    let changes = [
        "alter table goods add column stock int default 5",
        "alter table goods rename column note to remark",
        "alter table goods alter column price type text using price || ' EUR'",
        "alter table goods drop column colour; alter table goods add column colour text",
        "alter table goods drop column remark",
        "alter table goods drop constraint goods_pkey; alter table goods add primary key (name, id)",
        "alter table goods alter column price type numeric(12,3) using replace(price, ' EUR', '')::numeric",
    ];
    for (copies, change) in (2..).zip(changes) {
        stand.sql(change).await;
        stand.sql("update goods set name = name || '!' where id % 100 = 0").await;
        whole(&stand, 2, change).await;
        assert_eq!(epoch(&stand, "public.goods"), copies, "{change}");
    }
    assert_eq!(epoch(&stand, "public.lines"), 1, "the others go on");

    stand.sql("create table later(id int primary key, at timestamptz); insert into later select generate_series(1, 50)").await;
    whole(&stand, 3, "a new table").await;
    stand.sql("insert into later values (51, now()); drop table lines").await;
    whole(&stand, 2, "a dropped table").await;
    ingester.interrupt();
    let bronze = listed(&stand);
    let goods = bronze.iter().find(|entry| entry["name"] == "public.goods").expect("it is listed");
    let folder = stand.lake.path().join(goods["bronze_path"].as_str().expect("a path"));
    assert!(folder.is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_while_nobody_looks_are_followed() {
    let stand = Stand::new().await;
    stand.sql(TABLES).await;
    stand.ingest_until_idle();
    stand
        .sql(
            "update goods set name = 'a'; alter table goods add column colour text;
             update goods set colour = 'blue' where id < 100; alter table goods drop column note;
             update goods set colour = 'green' where id < 50; create table later(id int primary key)",
        )
        .await;
    stand.ingest_until_idle();
    whole(&stand, 3, "what came before").await;
    assert_eq!((epoch(&stand, "public.goods"), epoch(&stand, "public.lines")), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_may_stop_instead_and_comes_back_by_a_resync() {
    let stand = Stand::new().await;
    stand.sql(TABLES).await;
    stand.ingest_until_idle();
    stand.sql("alter table goods add column colour text; insert into lines values (9, 5)").await;
    for _ in 0..2 {
        // With and without a change of the table that the stream would meet.
        let (code, error) = fail(with_policy(stand.capture(&["ingest", "--until-idle"]), "stop"));
        assert_eq!(code, 2);
        assert!(error.contains("Stopped public.goods: "), "{error}");
        stand.sql("insert into goods(id) values (-1) on conflict do nothing").await;
    }
    let output = stand.capture(&["reconcile"]).output().expect("it runs");
    drop(output);
    let told = text(
        &succeed(stand.lakeward(&["table", "resync", "public.goods", "--lake", stand.lake_path()])).stdout,
    );
    assert!(told.contains("next `lakeward ingest`"), "{told}");
    succeed(with_policy(stand.capture(&["ingest", "--until-idle"]), "stop"));
    whole(&stand, 2, "what came before").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_come_may_be_ignored() {
    let stand = Stand::new().await;
    stand.sql(TABLES).await;
    stand.ingest_until_idle();
    stand
        .sql("alter table goods add column colour text default 'x'; insert into goods(id) values (-1)")
        .await;
    succeed(with_policy(stand.capture(&["ingest", "--until-idle"]), "ignore"));
    stand.sql("insert into goods(id) values (-2)").await;
    succeed(with_policy(stand.capture(&["ingest", "--until-idle"]), "ignore"));
    assert_eq!(epoch(&stand, "public.goods"), 1);
    let report = json(&succeed(with_policy(stand.capture(&["reconcile"]), "ignore")));
    assert_eq!(report["tables"][0]["lake_rows"], 2002, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_table_is_copied_anew_while_the_others_go_on() {
    let stand = Stand::new().await;
    stand.sql(TABLES).await;
    let ingester = stand.start_ingester().await;
    whole(&stand, 2, "what came before").await;
    let resync = stand.lakeward(&["table", "resync", "public.goods", "--lake", stand.lake_path(), "--json"]);
    assert_eq!(json(&succeed(resync))["rows"], 2000);
    stand.sql("delete from goods where id > 1000").await;
    whole(&stand, 2, "what came before").await;
    assert_eq!((epoch(&stand, "public.goods"), epoch(&stand, "public.lines")), (2, 1));
    ingester.interrupt();
    let (code, error) =
        fail(stand.lakeward(&["table", "resync", "public.nothing", "--lake", stand.lake_path()]));
    assert_eq!(code, 2);
    assert!(error.contains("public.nothing"), "{error}");
}
