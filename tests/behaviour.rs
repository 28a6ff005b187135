//! Behaviour events by both of their ways: tracked through a contract and a topic, and stored by the shop itself. In the
//! lake each is once, whatever is killed.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use rdkafka::producer::FutureRecord;
use serde_json::{Value, json};

use crate::{
    services::{Services, connector},
    stand::{Background, PATIENCE, Stand, json, succeed, text, until},
};

const SILVER: &str = "silver/events/tracking/events";
const TRACKED: &str = "bronze/events/tracking/topic";
const CHANGES: &str = "bronze/events/tracking/changes";
const RAW: &str = "tracking.raw_user_behavior";
const TABLE: &str = "
    create table events (
        event_id uuid primary key, event_time timestamptz not null, event_type text not null, product_id bigint not null,
        category_id bigint, category_code text, brand text, price numeric(12, 2), user_id bigint not null,
        user_session uuid not null)";

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_once_by_whatever_way_it_comes() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let (services, stand) = Services::start().await;
    let stand = stand.with([
        ("LAKEWARD__EVENTS__BROKERS", services.brokers.clone()),
        ("LAKEWARD__INGEST__FLUSH_SECONDS", "0.1".to_owned()),
    ]);
    stand.sql(TABLE).await;
    store(&stand, 0..1_000).await;
    let shipped = include_str!("../deploy/debezium/tracking-connector.json");
    succeed(connector(&stand, "apply", &serde_json::from_str(shipped).expect("JSON")));
    let validator = Background::start(stand.lakeward(&["validate"]));
    both_ways_and_kills(&services, &stand).await;
    what_breaks_the_contract_is_a_letter(&stand).await;
    two_at_a_time_double_nothing(&services, &stand).await;
    too_many_letters_stop_it_before_anything_is_written(&stand).await;
    validator.interrupt();
    services.stop().await;
}

/// Of the 6,000 the shop stores the first half, and all but the first thousand are tracked; each hundredth is bad there.
async fn both_ways_and_kills(services: &Services, stand: &Stand) {
    let mut loader = Background::start(load(stand, &[]));
    for part in 0..10 {
        let tracked = 1_000 + part * 500;
        track(services, tracked..tracked + 500).await;
        store(stand, 1_000 + part * 200..1_000 + (part + 1) * 200).await;
        tokio::time::sleep(Duration::from_millis(300 * (part % 3))).await;
        if part % 3 == 2 {
            loader.kill();
            loader = Background::start(load(stand, &[]));
        }
    }
    // What the shop has not is bad among the tracked: 30 of 3,000.
    arrived(stand, 5_970).await;
    until("nothing waits in the topics", async || waiting(stand) == [0, 0, 0, 0]).await;
    loader.interrupt();
    assert_eq!(stand.number(TRACKED, None, "select count(*) from t").await, 4_950);
    assert_eq!(stand.number(CHANGES, None, "select count(*) from t").await, 3_000);
    for bronze in [TRACKED, CHANGES] {
        assert_eq!(
            stand.number(bronze, None, "select count(distinct (_partition, _offset)) from t").await,
            { stand.number(bronze, None, "select count(*) from t").await }
        );
    }
    let letters = letters(stand, "tracking.invalid");
    assert_eq!(letters.len(), 50);
    assert!(letters.iter().all(|letter| letter["reason"] == "price breaks the rule minimum"), "{letters:?}");
    let id = letters[0]["id"].as_str().expect("an id");
    let shown = json(&succeed(stand.lakeward(&[
        "dead-letters",
        "show",
        id,
        "--show-values",
        "--lake",
        stand.lake_path(),
        "--json",
    ])));
    assert_eq!(shown["topic"], RAW);
    assert!(shown["text"].as_str().expect("its text").contains("event_id"), "{shown}");
    // Nothing comes twice if all is read again, by one who ends by itself.
    let said = succeed(load(stand, &["--until-idle", "--json"]));
    let reports: Value = json(&said);
    assert!(reports.as_array().expect("topics").iter().all(|topic| topic["messages"] == 0), "{reports}");
    let whole =
        "select count(*) from t where event_time = timestamp '2026-01-01T00:40:00Z' and price = 2400.25
        and user_id = 401 and category_code = 'a.b' and brand is null";
    assert_eq!(stand.number(SILVER, None, whole).await, 1);
}

/// A letter whose contract is mended is replayed once; `reconcile` knows which events are letters.
async fn what_breaks_the_contract_is_a_letter(stand: &Stand) {
    store(stand, 7_000..7_001).await;
    let mut insert = "insert into events select gen_random_uuid(), now(), 'look', 1".to_owned();
    insert += ", null, null, null, 1, 1, gen_random_uuid()";
    stand.sql(&insert).await;
    until("it waits", async || waiting(stand) == [0, 0, 2, 0]).await;
    until("the bad one is a letter", async || {
        succeed(load(stand, &["--until-idle"]));
        letters(stand, "tracking.changes").len() == 1
    })
    .await;
    let letter = &letters(stand, "tracking.changes")[0];
    let (id, reason) = (letter["id"].as_str().expect("an id"), &letter["reason"]);
    assert_eq!(reason, "after.event_type breaks the rule invalidValues");
    arrived(stand, 5_971).await;
    let proof = |code: i32| {
        let output = stand.capture(&["reconcile", "--events", "--wait", "20"]).output().expect("it runs");
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        json(&output)
    };
    let report = proof(0);
    let counts =
        ["source_rows", "dead_letters", "missing"].map(|name| report[name].as_u64().expect("a count"));
    assert_eq!(counts, [3_002, 1, 0], "{report}");
    let contract = include_str!("../contracts/tracking_postgres_cdc.public.events.yaml");
    let mended = stand.lake.path().join("mended.yaml");
    std::fs::write(&mended, contract.replace("[view, cart,", "[look, view, cart,")).expect("it is written");
    succeed(stand.lakeward(&["dead-letters", "park", id, "--lake", stand.lake_path()]));
    assert_eq!(letters(stand, "tracking.changes")[0]["state"], "parked");
    let replay = |chosen: &[&str], applied: u64| {
        let mut command = stand.lakeward(&["dead-letters", "replay", "--json"]);
        command.args(chosen);
        command.args(["--lake", stand.lake_path()]).env("LAKEWARD__EVENTS__CHANGES_CONTRACT", &mended);
        assert_eq!(json(&succeed(command))["applied"], applied);
    };
    // Whoever parked it must name it.
    let of_table = ["--table", "tracking.changes"];
    replay(&of_table, 0);
    assert_eq!(proof(0)["dead_letters"], 1);
    replay(&[id], 1);
    replay(&of_table, 0);
    arrived(stand, 5_972).await;
    assert_eq!(proof(0)["dead_letters"], 0);
}

/// A contract that refuses nearly everything is rather wrong than right.
async fn too_many_letters_stop_it_before_anything_is_written(stand: &Stand) {
    let rows = "insert into events select gen_random_uuid(), now(), 'stare', 1, null, null, null, 1, 1, gen_random_uuid()
        from generate_series(1, 500)";
    stand.sql(rows).await;
    let before = letters(stand, "tracking.changes").len();
    until("it stops", async || {
        let mut command = load(stand, &["--until-idle"]);
        // All that comes within this time is one.
        command.env("LAKEWARD__INGEST__FLUSH_SECONDS", "2");
        let output = command.output().expect("it runs");
        let said = text(&output.stderr);
        assert_eq!(said.contains("would be dead letters"), output.status.code() == Some(2), "{said}");
        output.status.code() == Some(2)
    })
    .await;
    assert_eq!(letters(stand, "tracking.changes").len(), before);
    let mut command = load(stand, &["--until-idle"]);
    command.env("LAKEWARD__EVENTS__MOST_LETTERS", "1");
    succeed(command);
    assert_eq!(letters(stand, "tracking.changes").len(), before + 500);
}

async fn two_at_a_time_double_nothing(services: &Services, stand: &Stand) {
    let loaders = [Background::start(load(stand, &[])), Background::start(load(stand, &[]))];
    for part in 0..5 {
        let numbers = 10_000 + part * 200;
        track(services, numbers..numbers + 200).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    arrived(stand, 5_972 + 990).await;
    for loader in loaders {
        loader.interrupt();
    }
    assert_eq!(stand.number(TRACKED, None, "select count(*) from t").await, 4_950 + 990);
}

/// In the four topics, raw events' first.
fn waiting(stand: &Stand) -> Vec<u64> {
    let mut command = stand.capture(&["status"]);
    // Nobody captures the shop here.
    command.env_remove("LAKEWARD__SOURCE__KAFKA__PREFIX");
    let status = json(&succeed(command));
    let topics = status["events"].as_array().expect("topics");
    topics.iter().map(|topic| topic["messages"].as_u64().expect("a number")).collect()
}

fn load(stand: &Stand, more: &[&str]) -> Command {
    let mut command = stand.lakeward(&["load", "topics", "--lake", stand.lake_path()]);
    command.args(more);
    command
}

/// Waits until silver has so many events, each once.
async fn arrived(stand: &Stand, events: i64) {
    let began = Instant::now();
    let count = async |what: &str| {
        let lake = stand.open_lake();
        if lake.read(SILVER, None).await.is_err() {
            return 0;
        }
        stand.number(SILVER, None, &format!("select count({what}) from t")).await
    };
    while count("*").await != events {
        assert!(began.elapsed() < PATIENCE, "{} instead of {events} events", count("*").await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(count("distinct event_id").await, events);
}

fn letters(stand: &Stand, table: &str) -> Vec<Value> {
    let list = ["dead-letters", "list", "--table", table, "--lake", stand.lake_path(), "--json"];
    let output = succeed(stand.lakeward(&list));
    let listed: Value = serde_json::from_str(&text(&output.stdout)).expect("a list");
    listed.as_array().expect("letters").clone()
}

async fn store(stand: &Stand, numbers: std::ops::Range<u64>) {
    stand
        .sql(&format!(
            "insert into events select
                ('00000000-0000-4000-8000-' || lpad(to_hex(i), 12, '0'))::uuid,
                timestamptz '2026-01-01Z' + i * interval '1 second', 'view', i % 50 + 1, 7, 'a.b', null, i + 0.25,
                i % 1000 + 1, '26dd6e6e-4dac-4778-8d2c-92e149dab885'
             from generate_series({}, {}) i",
            numbers.start,
            numbers.end - 1
        ))
        .await;
}

async fn track(services: &Services, numbers: std::ops::Range<u64>) {
    let producer = services.producer();
    let events: Vec<_> = numbers
        .map(|number| {
            let time = chrono::DateTime::from_timestamp(1_767_225_600 + number as i64, 0).expect("a time");
            let price = if number % 100 == 0 { -1.0 } else { number as f64 + 0.25 };
            let event = json!({
                "event_id": format!("00000000-0000-4000-8000-{number:012x}"), "event_time": time.to_rfc3339(),
                "event_type": "view", "product_id": number % 50 + 1, "category_id": 7, "category_code": "a.b",
                "price": price, "user_id": number % 1000 + 1,
                "user_session": "26dd6e6e-4dac-4778-8d2c-92e149dab885", "page": "not a column",
            });
            (number.to_string(), event.to_string())
        })
        .collect();
    let sent = events.iter().map(|(key, event)| {
        let record = FutureRecord::to(RAW).key(key).payload(event);
        async { producer.send(record, PATIENCE).await.map_err(|(error, _)| error) }
    });
    try_join_all(sent).await.expect("they are taken");
}
