//! Topics behind TLS and a password, compressed, of several partitions, from a connector that is not exactly once.

use serde_json::{Value, json};

use crate::{
    services::{PASSWORD, Services, apply_connector, authority},
    stand::{Stand, fail, succeed, text, until},
    topics::{TABLES, every_kind_of_change, nothing_is_doubled, reconciled},
};

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_repeat_themselves_behind_tls_lead_to_the_same_rows() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let (mut services, stand) = Services::secured().await;
    let stand = stand.with([("LAKEWARD__SOURCE__EXCLUDE", "[\"public.events\"]".to_owned())]);
    stand.sql(TABLES).await;
    let connector = json!({
        "exactly.once.support": null,
        "topic.creation.default.compression.type": "zstd",
        // The ends of transactions keep their order in one partition.
        "topic.creation.groups": "changes",
        "topic.creation.changes.include": "ecommerce\\.public\\..*",
        "topic.creation.changes.partitions": "3",
        "topic.creation.changes.replication.factor": "-1",
        "topic.creation.changes.compression.type": "zstd",
    });
    apply_connector(&stand, &connector);

    whom_kafka_does_not_take_is_told_what_to_do(&stand);
    stand.ingest_until_idle();
    assert_eq!(reconciled(&stand)["public.accounts"], 200);
    every_kind_of_change(&stand).await;
    truncates_and_keys_meet_across_partitions(&stand, &connector).await;
    a_connector_is_killed_in_the_middle(&mut services, &stand).await;
    nothing_is_doubled(&stand).await;
    for partition in 0..3 {
        let kept = std::fs::read(services.segment(&format!("ecommerce.public.accounts-{partition}")));
        let kept = kept.expect("a partition");
        let is_zstd = kept.windows(4).any(|four| four == [0x28, 0xb5, 0x2f, 0xfd]);
        assert!(is_zstd, "partition {partition} of {} bytes is not compressed", kept.len());
    }
    services.stop().await;
}

fn whom_kafka_does_not_take_is_told_what_to_do(stand: &Stand) {
    let mut ingest = stand.capture(&["ingest", "--until-idle"]);
    ingest.env("LAKEWARD__SOURCE__KAFKA__SASL_PASSWORD", "a-wrong-one");
    let (code, said) = fail(ingest);
    assert!(code != 0 && said.contains("SASL authentication error"), "{said}");
    assert!(said.contains("[source.kafka] sasl_username, sasl_password"), "{said}");
    assert!(!said.contains("a-wrong-one") && !said.contains(PASSWORD), "{said}");

    let foreign = stand.lake.path().join("foreign.pem");
    std::fs::write(&foreign, authority().pem()).expect("it is written");
    let mut ingest = stand.capture(&["ingest", "--until-idle"]);
    ingest.env("LAKEWARD__SOURCE__KAFKA__CERTIFICATES", &foreign);
    let (code, said) = fail(ingest);
    assert!(code != 0 && said.contains("certificate verify failed"), "{said}");
    assert!(said.contains("[source.kafka] certificates"), "{said}");

    let mut ingest = stand.capture(&["ingest", "--until-idle"]);
    ingest.env("LAKEWARD__SOURCE__KAFKA__CERTIFICATES", "nowhere.pem");
    let (code, said) = fail(ingest);
    assert!(code != 0 && said.contains("[source.kafka] certificates"), "{said}");
    let shown = text(&succeed(stand.lakeward(&["config", "show"])).stdout);
    assert!(shown.contains("SASL_SSL") && !shown.contains(PASSWORD), "{shown}");
}

async fn truncates_and_keys_meet_across_partitions(stand: &Stand, connector: &Value) {
    stand
        .sql(
            "create table moved (id int primary key, n int, long text);
             alter table moved alter long set storage external;
             insert into moved select i, 0, repeat('long', 2000) from generate_series(1, 100) i",
        )
        .await;
    // The connector takes it from now on, its topic comes with its first event.
    apply_connector(stand, connector);
    stand.ingest_until_idle();
    assert_eq!(reconciled(stand)["public.moved"], 100);
    // Keys go round, values that are not sent with them; a truncate between two inserts of one key.
    stand
        .sql(
            "begin; update moved set id = id + 1000; update moved set id = id - 999 where id <= 1050; commit;
             update moved set n = 1 where id in (7, 1070); delete from moved where id = 9;
             insert into moved values (9, 9, 'short')",
        )
        .await;
    stand
        .sql("begin; truncate moved; insert into moved values (1, 1, 'in the same transaction'); commit")
        .await;
    stand.sql("insert into moved select i, 2, repeat('more', 2000) from generate_series(2, 60) i").await;
    stand.sql("update moved set id = id + 500 where id % 2 = 0; update moved set n = 3 where id > 530").await;
    stand.ingest_until_idle();
    assert_eq!(reconciled(stand)["public.moved"], 60);
}

/// Not being exactly once, it tells again what it had told.
async fn a_connector_is_killed_in_the_middle(services: &mut Services, stand: &Stand) {
    for round in 0..3 {
        let first = 100_000 + round * 10_000;
        let insert = format!(
            "insert into accounts select i, 1, 'of round {round}' from generate_series({first}, {first} + 4999) i;
             update accounts set balance = 2 where id between {first} and {first} + 999"
        );
        let before = services.end("ecommerce.public.accounts");
        stand.sql(&insert).await;
        until("the connector is at work", async || services.end("ecommerce.public.accounts") > before).await;
        services.connect.kill().await.expect("it is killed");
        stand.sql(&format!("delete from accounts where id between {first} and {first} + 9")).await;
        services.connect.launch().await.expect("it comes back");
        stand.ingest_until_idle();
        reconciled(stand);
    }
}
