//! Changes by way of Debezium and Kafka: the same rows as without. What is killed meanwhile is chaos' business.

use std::collections::BTreeMap;

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminOptions, NewTopic, TopicReplication},
};
use serde_json::json;

use crate::{
    passed_over,
    services::{Services, apply_connector},
    stand::{Stand, fail, succeed, text, until},
};

const ACCOUNTS: &str = "ecommerce.public.accounts";

pub const TABLES: &str = "
    create table accounts (id int primary key, balance numeric(12, 2) not null, note text);
    alter table accounts alter note set storage external;
    create table \"Odd Names\" (\"Key\" text primary key, at timestamptz, tags text[], doc jsonb);
    create table parts (at date, id int, primary key (id, at));
    create table events (id int primary key, kind text);
    create type colour as enum ('red', 'blue');
    create type pair as (a int, b text);
    create table rare (id int primary key, at pg_lsn, price money, spot box, couple pair, pairs pair[], zoned timetz,
        spans int4multirange, mood colour, moods colour[], net inet, span tstzrange, every interval, words tsvector,
        pos point, days date[], whens interval[]);
    insert into accounts select i, 100, repeat(md5(i::text), 400) from generate_series(1, 200) i;
    insert into parts select '2026-06-01', i from generate_series(1, 20) i";

#[tokio::test(flavor = "multi_thread")]
async fn changes_by_topics_are_those_of_the_log() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let (mut services, stand) = Services::start().await;
    let stand = stand.with([("LAKEWARD__SOURCE__EXCLUDE", "[\"public.events\"]".to_owned())]);
    stand.sql(TABLES).await;
    let (code, said) = fail(stand.capture(&["ingest", "--until-idle"]));
    assert!(code != 0 && said.contains("connector apply"), "{said}");
    apply_connector(&stand, &json!({}));

    stand.ingest_until_idle();
    let copied = reconciled(&stand);
    assert_eq!((copied["public.accounts"], copied["public.parts"]), (200, 20));
    every_kind_of_change(&stand).await;
    a_column_comes(&stand).await;
    a_connector_dies_within_a_transaction(&mut services, &stand).await;
    a_connector_begins_anew(&stand).await;
    kafka_removes_what_was_not_read(&services, &stand).await;
    a_topic_is_made_anew(&services, &stand).await;
    passed_over::a_connector_passes_over_changes(&services, &stand).await;
    assert_eq!(reconciled(&stand)["public.accounts"], 200_196);
    nothing_is_doubled(&stand).await;
    delete_connector(&stand);
    services.stop().await;
}

fn delete_connector(stand: &Stand) {
    succeed(stand.lakeward(&["connector", "delete", "ecommerce-connector", "--postgres-url", &stand.url]));
}

/// The rows of each table, which are those of the source.
pub fn reconciled(stand: &Stand) -> BTreeMap<String, u64> {
    stand.reconcile().into_iter().collect()
}

pub async fn nothing_is_doubled(stand: &Stand) {
    for table in ["accounts", "parts"] {
        assert_eq!(stand.doubled_in_bronze(&format!("bronze/ecommerce/public/{table}")).await, 0, "{table}");
    }
}

pub async fn every_kind_of_change(stand: &Stand) {
    stand
        .sql(
            "begin;
         insert into accounts values (1000, 5, 'new'), (1001, 6, null);
         update accounts set balance = balance + 1 where id <= 10;
         insert into \"Odd Names\" values ('Ärger', '2026-02-03 04:05:06.789+00', '{a,NULL}', '{\"a\": [1]}');
         delete from accounts where id between 11 and 20;
         insert into rare values (1, '0/12345678', 1.5, '(1,1),(0,0)', '(1,x)', '{\"(1,x)\"}', '10:00+02', '{[1,3)}', 'red',
             '{blue,NULL}', '10.0.0.1', '[2026-01-01Z,2026-02-01Z)', '1 mon 2 days', 'a b', '(1,2)', '{2026-01-01}',
             '{1 day}');
         commit;",
        )
        .await;
    // The long value is not sent, and is in the row of the old key.
    stand.sql("update accounts set id = id + 5000 where id between 21 and 25").await;
    stand.sql("begin; update accounts set id = -1 where id = 30; update accounts set id = 30 where id = 31; update accounts set id = 31 where id = -1; commit").await;
    stand.sql("update parts set at = '2026-08-01' where id <= 5").await;
    stand.sql("delete from accounts where id = 40; insert into accounts values (40, 1, 'again')").await;
    stand.ingest_until_idle();
    assert_eq!(reconciled(stand)["public.accounts"], 192);
    stand.sql("truncate \"Odd Names\"; insert into \"Odd Names\" values ('after', null, null, null)").await;
    // More than can be held at a time.
    stand.sql("insert into accounts select i, 1, 'many' from generate_series(10001, 60000) i").await;
    let mut ingest = stand.capture(&["ingest", "--until-idle"]);
    ingest.env("LAKEWARD__INGEST__FLUSH_ROWS", "5000");
    succeed(ingest);
    let rows = reconciled(stand);
    assert_eq!((rows["public.accounts"], rows["public.Odd Names"]), (50_192, 1));
    nothing_is_doubled(stand).await;
}

/// Its events are of two definitions.
async fn a_column_comes(stand: &Stand) {
    stand.sql("insert into accounts values (2000, 1, 'before'); alter table accounts add column colour text; insert into accounts values (2001, 1, 'after', 'red')").await;
    stand.ingest_until_idle();
    assert_eq!(reconciled(stand)["public.accounts"], 50_194);
}

/// Some of it is in Kafka by then, the rest comes from the next one.
async fn a_connector_dies_within_a_transaction(services: &mut Services, stand: &Stand) {
    let before = services.end(ACCOUNTS);
    stand.sql("insert into accounts select i, 1, 'one of many' from generate_series(100001, 250000) i").await;
    until("some are in Kafka", async || services.end(ACCOUNTS) > before + 20_000).await;
    services.connect.kill().await.expect("it is killed");
    services.connect.launch().await.expect("it comes again");
    stand.ingest_until_idle();
    assert_eq!(reconciled(stand)["public.accounts"], 200_194);
}

/// Its slot went with what was changed meanwhile; its topics are those of before, with a new snapshot in them.
async fn a_connector_begins_anew(stand: &Stand) {
    delete_connector(stand);
    stand.sql("delete from accounts where id = 2000; update accounts set balance = 7 where id = 2001").await;
    apply_connector(stand, &json!({}));
    stand.sql("insert into accounts values (2002, 1, 'anew', 'blue')").await;
    let said = text(&succeed(stand.capture(&["ingest", "--until-idle"])).stderr);
    assert!(said.contains("snapshot that the connector took again"), "{said}");
    assert_eq!(reconciled(stand)["public.accounts"], 200_194);
}

async fn kafka_removes_what_was_not_read(services: &Services, stand: &Stand) {
    let before = services.end(ACCOUNTS);
    stand.sql("update accounts set balance = 8 where id = 2001; delete from accounts where id = 2002").await;
    until("the changes are in Kafka", async || services.end(ACCOUNTS) >= before + 3).await;
    let mut removed = TopicPartitionList::new();
    removed.add_partition_offset(ACCOUNTS, 0, Offset::Offset(before + 1)).expect("an offset");
    services.admin().delete_records(&removed, &AdminOptions::new()).await.expect("Kafka removes them");
    copied_anew(stand, "which had not been read");
    assert_eq!(reconciled(stand)["public.accounts"], 200_193);
}

/// Its offsets begin at 0 again.
async fn a_topic_is_made_anew(services: &Services, stand: &Stand) {
    let (admin, options) = (services.admin(), AdminOptions::new());
    let deleted = admin.delete_topics(&[ACCOUNTS], &options).await.expect("Kafka answers");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    until("the topic can be made", async || {
        let anew = NewTopic::new(ACCOUNTS, 1, TopicReplication::Fixed(1));
        admin.create_topics(&[anew], &options).await.expect("Kafka answers").iter().all(Result::is_ok)
    })
    .await;
    stand.sql("update accounts set balance = 9 where id = 2001").await;
    until("the change is there", async || services.end(ACCOUNTS) > 0).await;
    copied_anew(stand, "the topic was made anew");
    stand.sql("insert into accounts values (2003, 1, 'followed', 'blue')").await;
    stand.ingest_until_idle();
    assert_eq!(reconciled(stand)["public.accounts"], 200_194);
}

pub fn copied_anew(stand: &Stand, reason: &str) {
    let said = text(&succeed(stand.capture(&["ingest", "--until-idle"])).stderr);
    assert!(said.contains(reason) && said.contains("All tables are copied anew"), "{said}");
}
