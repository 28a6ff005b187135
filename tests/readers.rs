//! The tables as an engine sees them that is not ours: Python's `deltalake`, installed by `make test`.

use std::{path::Path, process::Command};

use crate::stand::{Stand, python, succeed, text};

const ROWS: &str = "
    create table goods(id bigint primary key, name text, price numeric(12,2), made timestamptz, sold boolean);
    insert into goods select i, case when i % 5 = 0 then null else 'gööd ' || i end, i / 7.0,
        '2026-01-01T00:00:00.123456Z'::timestamptz + i * interval '1 hour', i % 2 = 0 from generate_series(1, 300) i;";
const CHANGES: &str = "
    update goods set price = price + 1, name = 'changed' where id % 3 = 0;
    delete from goods where id % 10 = 0;
    insert into goods select i, 'new', 1.10, now(), null from generate_series(301, 350) i;";
const AS_TEXT: &str = "
    select json_agg(json_build_array(id::text, name, price::text,
        to_char(made at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),
        case sold when true then 'True' when false then 'False' end) order by id)::text from goods";

#[tokio::test(flavor = "multi_thread")]
async fn another_engine_reads_the_same_rows() {
    let Some(python) = python() else { return };
    let stand = Stand::new().await;
    stand.sql(ROWS).await;
    stand.ingest_until_idle();
    stand.sql(CHANGES).await;
    stand.ingest_until_idle();

    let mut reader = Command::new(python);
    reader
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers.py"))
        .arg(stand.lake.path().join("silver/shop/public/goods"))
        .args(["id", "id", "name", "price", "made", "sold"]);
    let read: serde_json::Value = serde_json::from_str(&text(&succeed(reader).stdout)).expect("JSON");
    let row = stand.client.query_one(AS_TEXT, &[]).await.expect("the query runs");
    let expected: serde_json::Value = serde_json::from_str(row.get(0)).expect("JSON");
    assert_eq!(read, expected);
}
