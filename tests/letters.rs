//! Rows that cannot be taken in: kept, told, and put in after all, while everything else goes on.

use std::sync::Arc;

use lakeward_change::{DeadLetter, Op, Position, TableId};
use lakeward_lakehouse::{CapturedTable, SourceRef};
use serde_json::Value;

use crate::stand::{Stand, fail, json, succeed, text, until};

const TABLES: &str = "
    create table lines(id int primary key, note text);
    insert into lines select i, 'line ' || i from generate_series(1, 10) i;
    create table odd(key numeric(10,2), day date, at timestamp, n int, note text, primary key (key, day, at, n));
    insert into odd select i, '2026-01-01', '2026-01-01', i, 'fine' from generate_series(1, 10) i;
    insert into odd values ('NaN', '2026-01-01', '2026-01-01', 0, 'secret');";
const BAD: &str = "
    begin; insert into odd values (90, '2026-01-01', '2026-01-01', 90, 'fine');
    insert into odd values (1, 'infinity', '2026-01-01', 1, 'secret');
    insert into odd values (1, '2026-01-01', '294276-01-01', 1, 'secret');
    insert into odd values (91, '2026-01-01', '2026-01-01', 91, 'fine'); commit;
    update odd set note = 'secret too' where key = 'NaN'; insert into lines values (11, 'after');";

fn letters(stand: &Stand, table: &str) -> Vec<Value> {
    let output = succeed(stand.lakeward(&[
        "dead-letters",
        "list",
        "--table",
        table,
        "--lake",
        stand.lake_path(),
        "--json",
    ]));
    json(&output).as_array().expect("a list").clone()
}

fn found<'a>(report: &'a Value, table: &str) -> &'a Value {
    let tables = report["tables"].as_array().expect("tables");
    tables.iter().find(|found| found["table"] == table).expect(table)
}

fn replay(stand: &Stand, what: &[&str]) -> (Option<i32>, Value) {
    let output = stand.capture(&[&["dead-letters", "replay"], what].concat()).output().expect("it runs");
    assert!(!output.stdout.is_empty(), "{}", text(&output.stderr));
    (output.status.code(), json(&output))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_taken_in_stops_nothing_and_is_not_forgotten() {
    let stand = Stand::new().await;
    stand.sql(TABLES).await;
    stand.ingest_until_idle();
    assert_eq!(letters(&stand, "public.odd").len(), 1, "one of the copy");
    let ingester = stand.start_ingester().await;
    stand.sql(BAD).await;
    until("all letters are there", async || letters(&stand, "public.odd").len() == 4).await;

    let (code, report) = {
        let output = stand.capture(&["reconcile"]).output().expect("it runs");
        (output.status.code(), json(&output))
    };
    assert_eq!((code, &found(&report, "public.lines")["differing"]), (Some(1), &0.into()), "{report}");
    let odd = found(&report, "public.odd");
    assert_eq!(
        (&odd["source_rows"], &odd["lake_rows"], &odd["differing"]),
        (&15.into(), &12.into(), &3.into())
    );
    let reasons: Vec<_> = odd["dead_letters"].as_object().expect("reasons").iter().collect();
    let counts: Vec<_> = ["column at ", "column day ", "column key "]
        .map(|column| reasons.iter().find(|(reason, _)| reason.contains(column)).expect(column).1.as_u64())
        .to_vec();
    assert_eq!(counts, [Some(1), Some(1), Some(2)], "{odd}");
    let status = json(&succeed(stand.capture(&["status"])));
    let told = status["findings"].to_string();
    assert!(told.contains("4 rows of public.odd") && told.contains("dead-letters list"), "{told}");

    let listed = letters(&stand, "public.odd");
    assert!(listed.iter().all(|letter| letter["state"] == "open"), "{listed:?}");
    let ids: Vec<_> = listed.iter().map(|letter| letter["id"].as_str().expect("an id").to_owned()).collect();
    for (id, operation) in ids.iter().zip(["r", "c", "c", "u"]) {
        let show = ["dead-letters", "show", id, "--lake", stand.lake_path()];
        let masked = text(&succeed(stand.lakeward(&show)).stdout);
        assert!(!masked.contains("secret"), "{masked}");
        let shown = json(&succeed(stand.lakeward(&[&show[..], &["--show-values", "--json"]].concat())));
        assert_eq!(shown["operation"], operation);
        assert!(shown["text"].as_str().expect("a text").contains("secret"), "{shown}");
    }
    // By the ingester, and without one.
    let (code, refused) = replay(&stand, &["--table", "public.odd"]);
    assert_eq!((code, refused["refused"].as_object().map(|all| all.len())), (Some(1), Some(4)), "{refused}");
    ingester.interrupt();
    let (code, refused) = replay(&stand, &[&ids[1]]);
    assert_eq!((code, refused["applied"].as_u64()), (Some(1), Some(0)), "{refused}");
    assert!(refused["refused"][&ids[1]].as_str().is_some_and(|reason| reason.contains("key column day")));
    let (code, error) = fail(stand.capture(&["dead-letters", "replay", "0123"]));
    assert!(code == 2 && error.contains("no dead letter 0123"), "{error}");

    // Right in the source, and copied anew.
    stand.sql("delete from odd where note like 'secret%'").await;
    succeed(stand.lakeward(&["table", "resync", "public.odd", "--lake", stand.lake_path()]));
    stand.ingest_until_idle();
    stand.reconcile();
    assert!(letters(&stand, "public.odd").iter().all(|letter| letter["state"] == "of an earlier copy"));
    let (code, closed) = replay(&stand, &["--all"]);
    assert_eq!((code, &closed["superseded"]), (Some(0), &letters(&stand, "public.odd").len().into()));
}

/// The stream's messages of `lines`.
fn messages(relation: u32, id: &str, note: &str) -> (Vec<u8>, Vec<u8>) {
    let mut described = vec![b'R'];
    described.extend(relation.to_be_bytes());
    described.extend(b"public\0lines\0d\0\x02");
    for (key, name, type_oid) in [(1, &b"id\0"[..], 23_u32), (0, b"note\0", 25)] {
        described.push(key);
        described.extend(name);
        described.extend(type_oid.to_be_bytes());
        described.extend((-1_i32).to_be_bytes());
    }
    let mut insert = vec![b'I'];
    insert.extend(relation.to_be_bytes());
    insert.extend(b"N\0\x02");
    for value in [id, note] {
        insert.push(b't');
        insert.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
        insert.extend(value.as_bytes());
    }
    (described, insert)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_can_be_read_by_now_is_put_in_once() {
    let stand = Stand::new().await;
    stand.sql(TABLES).await;
    stand.ingest_until_idle();
    // As a version that could not read these would have left them.
    let (watermark, lake) = (stand.watermark().await.expect("a watermark"), stand.open_lake());
    let id = TableId::new("public", "lines");
    let entry = &watermark.tables[&id];
    let schema = lake.definition(&entry.silver_path).await.expect("it reads").expect("a definition");
    let source = SourceRef { name: watermark.source.clone(), system_id: watermark.system_id.clone() };
    let relation: u32 =
        stand.client.query_one("select 'lines'::regclass::oid", &[]).await.expect("an oid").get(0);
    let dead = |order, key: &str| {
        let (relation, message) = messages(relation, key, "replayed");
        DeadLetter {
            table: id.clone(),
            position: Position { epoch: entry.epoch, commit: watermark.lsn.as_i64(), order },
            op: Op::Insert,
            lsn: watermark.lsn.as_i64(),
            xid: Some(7),
            committed_at: Some(0),
            reason: "could not be read".to_owned(),
            message,
            relation,
        }
    };
    let mut table = CapturedTable::open(&lake, &source, Arc::new(schema)).await.expect("it opens");
    let three = [dead(1000, "100"), dead(1001, "101"), dead(1002, "102")];
    table.set_aside(&three, 0).await.expect("they are kept");
    let ids: Vec<_> = letters(&stand, "public.lines");
    let ids: Vec<_> = ids.iter().map(|letter| letter["id"].as_str().expect("an id")).collect();
    stand.sql("insert into lines values (101, 'newer'); insert into lines values (100, 'alone')").await;
    stand.sql("delete from lines where id = 100").await;

    let ingester = stand.start_ingester().await;
    until("what is newer is in", async || stand.watermark().await.is_some_and(|w| w.lsn > watermark.lsn))
        .await;
    let (code, replayed) = replay(&stand, &[ids[1], ids[2]]);
    assert_eq!((code, &replayed["applied"], &replayed["superseded"]), (Some(0), &1.into(), &1.into()));
    ingester.interrupt();
    let (code, replayed) = replay(&stand, &["--table", "public.lines"]);
    assert_eq!((code, &replayed["applied"], &replayed["superseded"]), (Some(0), &0.into(), &1.into()));
    let (code, replayed) = replay(&stand, &ids);
    assert_eq!((code, &replayed["applied"], &replayed["superseded"]), (Some(0), &0.into(), &0.into()));
    // The source never had 102.
    let output = stand.capture(&["reconcile"]).output().expect("it runs");
    let report = json(&output);
    let lines = found(&report, "public.lines");
    assert_eq!((&lines["differing"], lines.get("dead_letters")), (&1.into(), None), "{lines}");
    assert_eq!(lines["differences"][0]["key"][0], "102", "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_builds_on_a_dead_one_has_its_table_copied_anew() {
    let stand = Stand::new().await;
    stand
        .sql(
            "create table odd(key numeric(10,2) primary key, n int, large text);
             alter table odd alter large set storage external;
             insert into odd values (1, 1, 'small')",
        )
        .await;
    stand.ingest_until_idle();
    stand
        .sql("insert into odd values ('NaN', 1, repeat('large', 5000)); update odd set key = 5 where key = 'NaN'")
        .await;
    stand.ingest_until_idle();
    assert_eq!(letters(&stand, "public.odd").len(), 2);
    // Its large value is not sent, and not in the lake.
    stand.sql("update odd set n = 2 where key = 5").await;
    stand.ingest_until_idle();
    assert_eq!(stand.reconcile(), [("public.odd".to_owned(), 2)]);
}
