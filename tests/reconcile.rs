//! The proof at work: differences that somebody planted, in the source or in the lake's files, are found, told, repaired.

use std::collections::BTreeMap;

use deltalake::{
    DeltaTable,
    datafusion::{common::ScalarValue, prelude::*},
};
use serde_json::{Value, json};

use crate::stand::{Stand, json};

const TABLES: &str = "
    create table goods(id bigint primary key, name text, price numeric(12,2), changed timestamptz);
    create table lines(a int, b text, amount int, primary key (b, a));
    insert into goods select i, 'good ' || i, i, '2026-01-01T00:00:00Z' from generate_series(1, 1000) i;
    insert into lines select i, 'b' || i % 7, i from generate_series(1, 500) i;";

async fn captured() -> Stand {
    let stand = Stand::new().await;
    stand.sql(TABLES).await;
    stand.ingest_until_idle();
    stand
}

/// Behind the writer's back, in the lake's files: a changed cell, a row gone, a row doubled, a null.
async fn damage(stand: &Stand) {
    let path = stand.lake.path().join("silver/shop/public/goods");
    let url = url::Url::from_directory_path(&path).expect("an absolute path");
    let goods = deltalake::open_table(url).await.expect("the table is there");
    let with = async |table: DeltaTable, id: i64, column: &str, value: ScalarValue| {
        let update = table.update().with_predicate(col("id").eq(lit(id))).with_update(column, lit(value));
        update.await.expect("an update").0
    };
    let goods = with(goods, 1, "price", ScalarValue::Decimal128(Some(12_345), 12, 2)).await;
    let goods = with(goods, 2, "name", ScalarValue::Utf8(None)).await;
    let (goods, _) = goods.delete().with_predicate(col("id").eq(lit(3_i64))).await.expect("a delete");
    let session = SessionContext::new();
    let provider = goods.table_provider().build().await.expect("a table");
    let four = session
        .read_table(std::sync::Arc::new(provider))
        .and_then(|rows| rows.filter(col("id").eq(lit(4_i64))))
        .expect("a query")
        .collect()
        .await
        .expect("a row");
    goods.write(four).await.expect("a row is written");
}

/// Runs `reconcile`; its exit code and report.
fn reconcile(stand: &Stand, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = stand.capture(&[&["reconcile"], arguments].concat()).output().expect("it runs");
    (output.status.code(), json(&output))
}

/// The kind of difference and the columns, by the key's values.
fn differences(table: &Value) -> BTreeMap<String, (Value, Value)> {
    let found = table["differences"].as_array().expect("differences").iter();
    found
        .map(|found| {
            (
                found["key"][0].as_str().expect("a key").to_owned(),
                (found["kind"].clone(), found["columns"].clone()),
            )
        })
        .collect()
}

/// Changes that the stream does not bring: nothing of a table is in the log while it is out of the publication.
const MISSED: &str = "do $$ declare p text; begin select pubname into p from pg_publication;
               execute format('alter publication %I drop table goods', p);
               update goods set price = price + 1 where id = 77;
               delete from goods where id = 78;
               insert into goods(id) values (5000);
               update goods set name = 'many' where id > 500 and id <= 600;
             end $$;
             do $$ declare p text; begin select pubname into p from pg_publication;
               execute format('alter publication %I add table goods', p); end $$;";

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_did_to_the_lake_is_found_told_and_repaired() {
    let stand = captured().await;
    damage(&stand).await;
    let expected = |price: [&str; 2], name: &str| {
        BTreeMap::from([
            (
                "1".to_owned(),
                (
                    json!("different_values"),
                    json!([{"column": "price", "source": price[0], "lake": price[1]}]),
                ),
            ),
            (
                "2".to_owned(),
                (json!("different_values"), json!([{"column": "name", "source": name, "lake": null}])),
            ),
            ("3".to_owned(), (json!("missing_in_lake"), json!([]))),
            ("4".to_owned(), (json!("doubled_in_lake"), json!([]))),
        ])
    };
    let (code, report) = reconcile(&stand, &[]);
    let goods = &report["tables"][0];
    assert_eq!(
        (code, &goods["differing"], &report["tables"][1]["differing"]),
        (Some(1), &json!(4), &json!(0))
    );
    assert_eq!((&goods["source_rows"], &goods["lake_rows"]), (&json!(1000), &json!(1000)));
    assert_eq!(differences(goods), expected(["***", "***"], "***"));
    let (_, report) = reconcile(&stand, &["--show-values"]);
    assert_eq!(differences(&report["tables"][0]), expected(["1.00", "123.45"], "good 2"));

    let (code, report) = reconcile(&stand, &["--repair"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["tables"][0]["repair"], json!({"keys": 4, "passed_over": 0, "left": 0}));
    assert_eq!(report["tables"][1].get("repair"), None, "nothing was done to the other table");
    assert_eq!(stand.reconcile()[0], ("public.goods".to_owned(), 1000));

    // Capture goes on as if nothing had been.
    stand.sql("update goods set name = 'new' where id < 4; delete from goods where id = 4").await;
    stand.ingest_until_idle();
    assert_eq!(stand.reconcile()[0], ("public.goods".to_owned(), 999));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_stream_did_not_bring_is_found_and_repaired() {
    let stand = captured().await;
    stand.sql(MISSED).await;
    let (code, report) = reconcile(&stand, &[]);
    let goods = &report["tables"][0];
    assert_eq!((code, &goods["differing"]), (Some(1), &json!(103)), "{report}");
    assert_eq!(goods["differences"].as_array().expect("differences").len(), 20);

    let (code, report) = reconcile(&stand, &["--repair"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["tables"][0]["repair"]["keys"], 103);
    assert_eq!(stand.reconcile()[0], ("public.goods".to_owned(), 1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_ingester_does_the_repair() {
    let stand = captured().await;
    let ingester = stand.start_ingester().await;
    stand.sql(MISSED).await;
    stand.sql("update goods set price = 0 where id = 510").await;
    let (code, report) = reconcile(&stand, &["--repair"]);
    assert_eq!((code, &report["ran_ingester"]), (Some(0), &json!(false)), "{report}");
    assert_eq!(report["tables"][0]["repair"], json!({"keys": 102, "passed_over": 0, "left": 0}));
    assert_eq!(stand.reconcile()[0], ("public.goods".to_owned(), 1000));
    ingester.interrupt();
}
