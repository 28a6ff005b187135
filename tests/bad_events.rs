//! What a connector's topics should not hold: each becomes a dead letter that says why, and everything else goes on.

use std::{collections::BTreeMap, time::Duration};

use futures::future::try_join_all;
use rdkafka::producer::FutureRecord;
use serde_json::{Value, json};

use crate::{
    services::{Services, apply_connector},
    stand::{Background, Stand, fail, json, listed, succeed, text, until},
};

const TABLES: &str = "
    create table orders (id int primary key, total numeric(6, 2), at timestamp, note text);
    create table lines (id int primary key, note text);
    create table twins (id int primary key, \"Note\" text, note text, \"NOTE\" int);
    create table early (id int primary key, note text);
    insert into orders values (1, 1, '2026-01-01', 'first');
    insert into early select i, 'early' from generate_series(1, 10) i";
const ORDERS: &str = "ecommerce.public.orders";
const LARGE: usize = 50 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn bad_events_become_letters_and_the_rest_goes_on() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let (services, stand) = Services::start().await;
    let stand = stand.with([("LAKEWARD__SOURCE__EXCLUDE", "[\"public.events\"]".to_owned())]);
    stand.sql(TABLES).await;
    let said = apply_connector(&stand, &json!({}));
    assert!(
        said.contains("public.twins is left out: it has columns whose names differ only by case"),
        "{said}"
    );
    stand.ingest_until_idle();
    bad_messages_stand_beside_good_ones(&services, &stand).await;
    odd_values_names_and_tables_are_taken_in(&stand).await;
    letters_are_replayed_once_the_definition_is_right(&stand).await;
    a_flood_stops_its_table_alone(&services, &stand).await;
    a_garbled_end_of_a_transaction_begins_anew(&services, &stand).await;
    services.stop().await;
}

/// The rows of each table, which are those of the source: letters alone are no difference.
pub fn reconciled(stand: &Stand) -> BTreeMap<String, u64> {
    let report = json(&stand.capture(&["reconcile"]).output().expect("it runs"));
    let tables = report["tables"].as_array().expect("tables").iter();
    let rows = tables.map(|table| {
        assert_eq!((&table["source_rows"], &table["differing"]), (&table["lake_rows"], &json!(0)), "{table}");
        (table["table"].as_str().expect("a name").to_owned(), table["lake_rows"].as_u64().expect("a count"))
    });
    rows.collect()
}

/// The open letters of a table by their ids, with the reasons.
fn letters(stand: &Stand, table: &str) -> BTreeMap<String, String> {
    let list = ["dead-letters", "list", "--table", table, "--lake", stand.lake_path(), "--json"];
    let listed = json(&succeed(stand.lakeward(&list)));
    let open = listed.as_array().expect("a list").iter().filter(|letter| letter["state"] == "open");
    let text = |letter: &Value, field: &str| letter[field].as_str().expect(field).to_owned();
    open.map(|letter| (text(letter, "id"), text(letter, "reason"))).collect()
}

async fn bad_messages_stand_beside_good_ones(services: &Services, stand: &Stand) {
    stand.sql("insert into orders values (2, 2, '2026-02-02', 'second')").await;
    stand.ingest_until_idle();
    let event = services.first_event(ORDERS);
    let foreign = |changed: &dyn Fn(&mut Value)| {
        let mut event: Value = serde_json::from_str(&event).expect("an event");
        event["transaction"] = Value::Null;
        event["op"] = json!("c");
        event["source"]["snapshot"] = json!("false");
        changed(&mut event);
        event.to_string()
    };
    let key = Some("{\"id\":77}");
    let bad = [
        ("\u{1}garbage".to_owned(), key, "is no JSON"),
        ("\u{0}\u{1}garbage".to_owned(), key, "[source.kafka] registry is not given"),
        ("{\"hello\":[1,2]}".to_owned(), key, "no operation"),
        (foreign(&|event| event["op"] = json!("x")), key, "operation that is not known"),
        (
            foreign(&|event| event["source"]["db"] = json!("another")),
            key,
            "not of the connector that is read",
        ),
        (foreign(&|_| ()), None, "not of the connector that is read"),
        ("x".repeat(LARGE), key, "is no JSON"),
        (
            foreign(&|event| event["after"]["note"] = json!("long".repeat(LARGE / 4))),
            key,
            "tells of no transaction",
        ),
    ];
    let producer = services.producer();
    for (value, key, _) in &bad {
        let record = FutureRecord { key: *key, ..FutureRecord::to(ORDERS).payload(value) };
        producer.send(record, Duration::from_secs(60)).await.expect("Kafka takes it");
    }
    stand.sql("insert into lines values (1, 'meanwhile')").await;
    stand.ingest_until_idle();
    assert_eq!(reconciled(stand)["public.lines"], 1);
    // They are told with the table's next change.
    stand.sql("insert into orders values (3, 3, '2026-03-03', 'third'); update orders set total = 4 where id = 1").await;
    stand.ingest_until_idle();
    assert_eq!(reconciled(stand)["public.orders"], 3);
    let letters = letters(stand, "public.orders");
    assert_eq!(letters.len(), bad.len(), "{letters:?}");
    for (_, _, reason) in &bad {
        assert!(letters.values().any(|told| told.contains(reason)), "{reason} is not in {letters:?}");
    }
    let sizes = letters.keys().map(|id| {
        let shown = json(&succeed(stand.lakeward(&[
            "dead-letters",
            "show",
            id,
            "--lake",
            stand.lake_path(),
            "--json",
        ])));
        assert_eq!(shown["topic"], ORDERS, "{shown}");
        shown["bytes"].as_u64().expect("a number")
    });
    assert_eq!(sizes.filter(|bytes| *bytes >= LARGE as u64).count(), 2, "the bytes are kept");
}

async fn odd_values_names_and_tables_are_taken_in(stand: &Stand) {
    stand
        .sql(
            "insert into orders values (4, 'NaN', '2026-04-04', E'\\t\\u0001'), (5, -9999.99, '294276-12-31 23:59:59', ''),
                 (6, 0, 'infinity', '');
             insert into twins values (1, 'upper', 'lower', 3); update twins set note = 'other' where id = 1",
        )
        .await;
    let before = letters(stand, "public.orders").len();
    stand.ingest_until_idle();
    // The connector sends the same number for whatever its own does not hold.
    let new = letters(stand, "public.orders");
    assert_eq!(new.values().filter(|reason| reason.contains("column at")).count(), 2, "{new:?}");
    assert_eq!(new.len(), before + 2);
    stand.sql("delete from orders where id in (5, 6)").await;
    stand.ingest_until_idle();
    let rows = reconciled(stand);
    assert_eq!((rows["public.orders"], rows.get("public.twins")), (4, None));
    let ingester = Background::start(stand.capture(&["ingest"]));
    stand.sql("update early set note = 'before' where id = 1; alter table early rename to late").await;
    stand.sql("update late set note = 'after' where id = 2; delete from late where id = 3").await;
    until("the table is followed under its new name", async || {
        let tables = listed(stand);
        tables.iter().any(|table| table["name"] == "public.late")
    })
    .await;
    stand.sql("insert into late values (100, 'later'); update orders set note = 'still' where id = 2").await;
    ingester.interrupt();
    stand.ingest_until_idle();
    let rows = reconciled(stand);
    assert_eq!((rows["public.late"], rows.get("public.early")), (10, None));
}

async fn letters_are_replayed_once_the_definition_is_right(stand: &Stand) {
    let replay = |what: &[&str]| {
        let output = stand.capture(&[&["dead-letters", "replay"], what].concat()).output().expect("it runs");
        assert!(!output.stdout.is_empty(), "{}", text(&output.stderr));
        (output.status.code(), json(&output))
    };
    let before = letters(stand, "public.orders");
    // Read by a setting that is not the connector's.
    stand
        .sql("insert into orders values (10, 10.5, now(), 'replayed'), (11, 11.5, now(), 'and changed')")
        .await;
    let mut ingest = stand.capture(&["ingest", "--until-idle"]);
    ingest.env("LAKEWARD__SOURCE__KAFKA__DECIMAL", "double");
    succeed(ingest);
    let mut new = letters(stand, "public.orders");
    new.retain(|id, _| !before.contains_key(id));
    assert_eq!(new.len(), 2, "{new:?}");
    assert!(new.values().all(|reason| reason.contains("column total")), "{new:?}");
    stand.sql("update orders set total = 12, note = 'newer' where id = 11").await;
    stand.ingest_until_idle();

    let ids: Vec<&str> = new.keys().map(String::as_str).collect();
    let (code, report) = replay(&ids);
    assert_eq!(
        (code, &report["applied"], &report["superseded"]),
        (Some(0), &1.into(), &1.into()),
        "{report}"
    );
    let (code, report) = replay(&ids);
    assert_eq!(
        (code, &report["applied"], &report["superseded"]),
        (Some(0), &0.into(), &0.into()),
        "{report}"
    );
    assert_eq!(reconciled(stand)["public.orders"], 6);
    // What is still no event stays open.
    let (code, report) = replay(&["--table", "public.orders"]);
    assert_eq!(
        (code, report["refused"].as_object().map(|all| all.len())),
        (Some(1), Some(before.len())),
        "{report}"
    );
}

async fn a_flood_stops_its_table_alone(services: &Services, stand: &Stand) {
    let producer = services.producer();
    let sent = (0..1_100).map(|_| {
        let record = FutureRecord::<str, str>::to("ecommerce.public.lines").payload("garbage");
        producer.send(record, Duration::from_secs(60))
    });
    try_join_all(sent).await.expect("Kafka takes them");
    for id in [30, 31] {
        stand
            .sql(&format!("insert into lines values ({id}, 'flooded'); insert into orders values ({id}, 1)"))
            .await;
        let (code, said) = fail(stand.capture(&["ingest", "--until-idle"]));
        assert!(code == 2 && said.contains("Stopped public.lines: more than 1000 rows"), "{code} {said}");
        let told = json(&succeed(stand.capture(&["status"])))["findings"].to_string();
        assert!(told.contains("public.lines"), "{told}");
    }
    // Copied anew, it is not stopped by what came before the copy, though nothing else came since.
    succeed(stand.lakeward(&["table", "resync", "public.lines", "--lake", stand.lake_path()]));
    stand.ingest_until_idle();
    stand.sql("insert into lines values (32, 'after it')").await;
    stand.ingest_until_idle();
    let rows = reconciled(stand);
    assert_eq!((rows["public.lines"], rows["public.orders"]), (4, 8));
}

async fn a_garbled_end_of_a_transaction_begins_anew(services: &Services, stand: &Stand) {
    let record = FutureRecord::<str, str>::to("ecommerce.transaction").payload("garbage");
    services.producer().send(record, Duration::from_secs(60)).await.expect("Kafka takes it");
    stand.sql("insert into orders values (20, 20, now(), 'beyond'); delete from lines").await;
    let said = text(&succeed(stand.capture(&["ingest", "--until-idle"])).stderr);
    assert!(said.contains("tells of no transaction") && said.contains("ecommerce.transaction"), "{said}");
    assert_eq!(reconciled(stand)["public.orders"], 9);
}
