//! Topics in Avro, whose schemas are at a registry: the same rows as without.

use std::time::Duration;

use rdkafka::producer::FutureRecord;
use serde_json::{Value, json};

use crate::{
    bad_events,
    services::{Services, apply_template},
    stand::{Background, Stand, fail, json as told, succeed, until},
    topics::{TABLES, every_kind_of_change, nothing_is_doubled, reconciled},
};

const KINDS: &str = "
    create type mood as enum ('happy', 'sad');
    create table \"Kinds\" (\"the-key\" int, \"2nd\" text, n numeric(12, 2), nn numeric, big numeric(60, 3), m money,
        i2 smallint, i8 bigint, b bool, r real, d float8, t text, long text, y bytea, u uuid, j json, jb jsonb, dt date,
        t3 time(3), t6 time, ts0 timestamp(0), ts3 timestamp(3), ts6 timestamp, tz timestamptz, e mood, ia int[], ta text[],
        na numeric(5, 1)[], tsa timestamp[], iv interval, bt bit(4), v varbit, pt point, \"weird col.\u{00e9}\" text,
        primary key (\"the-key\", \"2nd\"));
    alter table \"Kinds\" alter long set storage external, alter y set storage external;
    insert into \"Kinds\" (\"the-key\", \"2nd\") select i, 'copied' from generate_series(1, 50) i";

const TEMPLATE: &str = include_str!("../deploy/debezium/ecommerce-connector-avro.json");

/// What is other than in the shipped template.
fn settings(registry: &str) -> Value {
    json!({
        "decimal.handling.mode": "precise",
        "time.precision.mode": "adaptive",
        "key.converter.apicurio.registry.url": registry,
        "value.converter.apicurio.registry.url": registry,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_in_avro_are_the_rows_of_the_log() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let (mut services, stand, registry) = Services::with_registry().await;
    let stand = stand.with([
        ("LAKEWARD__SOURCE__EXCLUDE", "[\"public.events\"]".to_owned()),
        ("LAKEWARD__SOURCE__KAFKA__DECIMAL", "precise".to_owned()),
        ("LAKEWARD__SOURCE__KAFKA__TIME", "adaptive".to_owned()),
    ]);
    stand.sql(TABLES).await;
    stand.sql(KINDS).await;
    apply_template(&stand, TEMPLATE, &settings(&registry));

    whoever_does_not_name_the_registry_is_told(&stand);
    stand.ingest_until_idle();
    assert_eq!(reconciled(&stand)["public.Kinds"], 50);
    every_kind_of_value(&stand).await;
    every_kind_of_change(&stand).await;
    a_column_comes_and_the_registry_is_away(&mut services, &stand).await;
    an_unknown_schema_makes_a_letter(&services, &stand).await;
    nothing_is_doubled(&stand).await;
    assert!(services.first_bytes("ecommerce.public.Kinds").starts_with(&[0, 0, 0]), "no Avro");
    services.stop().await;
}

fn whoever_does_not_name_the_registry_is_told(stand: &Stand) {
    let mut ingest = stand.capture(&["ingest", "--until-idle"]);
    ingest.env_remove("LAKEWARD__SOURCE__KAFKA__REGISTRY");
    let (code, said) = fail(ingest);
    assert!(code != 0 && said.contains("[source.kafka] registry must say"), "{said}");
}

async fn every_kind_of_value(stand: &Stand) {
    stand
        .sql(
            "insert into \"Kinds\" values (100, 'ä b', 12.34, 1.25, 123456789012345678901234567890.125, '$3.50', -7, 9000000000,
                 true, 0.1, 1e300, 'häß ☃ 😀', repeat('lång ', 2000), decode(repeat('00ff', 3000), 'hex'),
                 '00000000-0000-0000-0000-000000000001', '{\"a\": [1]}', '{\"b\": null}', '2026-02-28', '10:11:12.345',
                 '10:11:12.345678', '2026-01-02 03:04:05', '2026-01-02 03:04:05.123', '1969-12-31 23:59:59.999999',
                 '2026-01-02 03:04:05.123456+02', 'happy', '{1,null,-3}', '{a,null,\"b c\"}', '{1.5,-2.5}',
                 '{\"2026-01-02 03:04:05\"}', '1 mon 2 days 03:00:00.5', '1010', '10101', '(1,2.5)', 'odd'),
                 (101, 'zeros', 0, 0, 0, '0', 0, 0, false, 'NaN', '-Infinity', '', '', '', null, '1', '[]', '0001-01-01 BC',
                 '00:00', '23:59:59.999999', null, null, null, null, 'sad', '{}', '{}', '{}', '{}', '0', '0000', '', null, '');
             insert into \"Kinds\" (\"the-key\", \"2nd\") values (102, 'nulls');
             update \"Kinds\" set n = -0.01, \"weird col.\u{00e9}\" = 'changed' where \"the-key\" = 100;
             update \"Kinds\" set \"2nd\" = 'with long values' where \"the-key\" = 100;
             update \"Kinds\" set \"the-key\" = 200, b = null where \"the-key\" = 100;
             delete from \"Kinds\" where \"the-key\" between 1 and 10",
        )
        .await;
    stand.ingest_until_idle();
    assert_eq!(reconciled(stand)["public.Kinds"], 43);
}

async fn a_column_comes_and_the_registry_is_away(services: &mut Services, stand: &Stand) {
    stand
        .sql(
            "insert into \"Kinds\" (\"the-key\", \"2nd\") values (300, 'before');
             alter table \"Kinds\" add column \"näu\" numeric(8, 3);
             insert into \"Kinds\" (\"the-key\", \"2nd\", \"näu\") values (301, 'after', 1.125)",
        )
        .await;
    stand.ingest_until_idle();
    assert_eq!(reconciled(stand)["public.Kinds"], 45);
    stand
        .sql(
            "truncate \"Kinds\"; insert into \"Kinds\" (\"the-key\", \"2nd\", \"näu\") values (1, 'anew', 2)",
        )
        .await;
    // The connector knows its schemas; who begins does not.
    let registry = services.registry.as_mut().expect("a registry");
    registry.kill().await.expect("it is killed");
    let ingester = Background::start(stand.capture(&["ingest"]));
    until("it is told", async || ingester.said().contains("the schema registry does not answer")).await;
    stand.sql("insert into \"Kinds\" (\"the-key\", \"2nd\", \"näu\") values (2, 'anew', 2)").await;
    registry.launch().await.expect("it comes back with what it knew");
    until("the rows are there", async || {
        let output = stand.capture(&["reconcile"]).output().expect("it runs");
        output.status.success() && told(&output)["tables"].to_string().contains("Kinds")
    })
    .await;
    ingester.interrupt();
    stand.ingest_until_idle();
    assert_eq!(reconciled(stand)["public.Kinds"], 2);
}

async fn an_unknown_schema_makes_a_letter(services: &Services, stand: &Stand) {
    let (topic, value) = ("ecommerce.public.accounts", [0, 0, 1, 0, 0, 2, 2]);
    let record = FutureRecord { key: Some("key"), ..FutureRecord::to(topic).payload(&value[..]) };
    services.producer().send(record, Duration::from_secs(60)).await.expect("Kafka takes it");
    stand.sql("insert into accounts values (3000, 1, 'behind it')").await;
    stand.ingest_until_idle();
    assert_eq!(bad_events::reconciled(stand)["public.accounts"], 50_193);
    let lake = ["--lake", stand.lake_path()];
    let list = stand.lakeward(&[&["dead-letters", "list", "--json"], &lake[..]].concat());
    let letters = String::from_utf8(succeed(list).stdout).expect("text");
    assert!(letters.contains("of schema 65536, which the registry does not have"), "{letters}");
    let replay =
        stand.capture(&["dead-letters", "replay", "--table", "public.accounts"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&[replay.stdout, replay.stderr].concat()).into_owned();
    assert!(said.contains("registry is not given or does not have schema 65536"), "{said}");
}
