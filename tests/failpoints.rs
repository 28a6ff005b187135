//! Every failpoint under load, told to kill, to fail and to stand still: nothing is lost, nothing is doubled.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt,
    time::Duration,
};

use arrow::{array::AsArray, datatypes::Int64Type};
use lakeward_change::{Lsn, TableId};
use lakeward_faults::SITES;
use tokio::task::JoinHandle;

use crate::{
    stand::{Background, Stand, fail, json, succeed, until},
    streams,
};

/// One after the other at the same site: the process goes on after the first two.
const ACTIONS: [&str; 3] = ["pause 400", "error", "kill"];

/// A pulse knows a position before its own commit.
const TABLES: &str = "
    create table goods(id int primary key, price numeric(12,2));
    create table lines(a int, b text, amount int, primary key (b, a));
    create table pulses(id bigserial primary key, lsn pg_lsn default pg_current_wal_insert_lsn());
    create table visits(page text, n int); alter table visits replica identity full;
    create table logged(n int);
    create table orders(order_id bigserial primary key, user_id bigint default 1, total_amount numeric(12,2),
        status text default 'placed', created_at timestamptz, cancelled_at timestamptz, returned_at timestamptz);
    insert into goods select i, i / 7.0 from generate_series(1, 500) i;
    insert into visits select nullif(i % 20, 0), 0 from generate_series(1, 500) i;
    insert into lines select i, 'b' || i % 7, i from generate_series(1, 500) i;
    create table odd(key numeric(10,2), n int, primary key (key, n));
    create table oddities(n int primary key);
    insert into pulses default values;";
/// A row that cannot be taken in comes with so many steps of the load, and goes at once: two letters each time, far from
/// the number that would stop the table.
const ODD_STEPS: u32 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn every_failpoint_is_hit_and_survived() {
    let stand = Stand::new().await;
    stand.sql(TABLES).await;
    stand.ingest_until_idle();
    let load = load(&stand.url).await;
    let mut durable = (1, Lsn(0));
    for (number, site) in SITES.into_iter().enumerate() {
        // Bronze and silver of several tables, and the watermarks, commit in no fixed order.
        strike(&stand, site, number % 3).await;
        let watermark = stand.watermark().await.expect("a watermark");
        let newer = (watermark.epoch, watermark.lsn);
        assert!(newer > durable, "{site}: the watermark stands still at {newer:?}");
        durable = newer;
        streams::revenue_is_that_of_silver(&stand).await;
        for (id, table) in watermark.tables {
            assert_eq!(
                stand.doubled_in_bronze(&table.bronze_path).await,
                0,
                "{site}: {id} has changes twice"
            );
        }
    }
    assert!(!load.is_finished(), "the load has ended early");
    load.abort();
}

/// An ingester's three faults, its restart, and the proof afterwards.
async fn strike(stand: &Stand, site: &str, passes: usize) {
    if site == "term_raised" {
        // An owner that did not give its lease back is taken over from.
        let ingester = stand.start_ingester().await;
        ingester.kill();
    }
    if site == "chunk_copied" {
        // Without its slot, the next start copies anew.
        succeed(stand.capture(&["source", "drop"]));
    }
    let actions = ACTIONS.map(|action| format!("1*return({action})")).join("->");
    let spec = match site {
        // It is visited after an error only.
        "txn_read" => format!("commit_sent={passes}*off->3*return(error);txn_read={actions}"),
        site => format!("{site}={passes}*off->{actions}"),
    };
    let mut command = stand.capture(&["ingest"]);
    command.env("FAILPOINTS", &spec).env("LAKEWARD__INGEST__FLUSH_SECONDS", "0.2");
    let mut ingester = Background::start(command);
    until("the ingester is dead", async || ingester.ended().is_some()).await;
    let said = ingester.said();
    assert_eq!(ingester.ended().and_then(|status| status.signal()), Some(9), "{spec}: {said}");
    for action in ACTIONS {
        assert!(said.contains(&format!("failpoint {site}: {action}")), "{spec}: {said}");
    }
    let durable = stand.watermark().await.expect("a watermark").lsn;
    let in_flight = format!("select count(*) from pulses where lsn >= '{durable}'");
    assert!(stand.count(&in_flight).await > 0, "{spec}: nothing was in flight");
    let report = json(&stand.capture(&["reconcile"]).output().expect("it runs"));
    assert_eq!(report["ran_ingester"], true, "{report}");
    for table in report["tables"].as_array().expect("tables") {
        assert_eq!((&table["differing"], &table["source_rows"]), (&0.into(), &table["lake_rows"]), "{table}");
    }
    let (watermark, lake) = (stand.watermark().await.expect("a watermark"), stand.open_lake());
    let open = lake.open_letters(&watermark).await.expect("letters");
    let open: u64 = open.values().flat_map(BTreeMap::values).sum();
    let followed = &watermark.tables[&TableId::new("public", "oddities")];
    let session = lake.session();
    let bronze = lake.read(&followed.bronze_path, Some(followed.bronze_version)).await.expect("bronze reads");
    session.register_table("oddities", bronze).expect("it registers");
    let query = format!("select count(*) from oddities where _op = 'c' and _epoch = {}", followed.epoch);
    let streamed = session.sql(&query).await.expect("it plans").collect().await.expect("it runs");
    let streamed = streamed[0].column(0).as_primitive::<Int64Type>().value(0);
    assert_eq!(open, 2 * streamed as u64, "{spec}: letters");
    let all = lake.dead_letters(None, false).await.expect("letters");
    let places: BTreeSet<_> = all.iter().map(|kept| &kept.letter.position).collect();
    assert_eq!(places.len(), all.len(), "{spec}: a letter comes twice");
}

/// Changes without end.
async fn load(url: &str) -> JoinHandle<()> {
    let client = lakeward_postgres::connect(url).await.expect("a connection");
    tokio::spawn(async move {
        for step in 0_u32.. {
            let id = step % 500 + 1;
            let odd = if step % ODD_STEPS == 0 {
                format!(
                    "insert into odd values ('NaN', {step}); delete from odd; insert into oddities values ({step});"
                )
            } else {
                String::new()
            };
            let statements = format!(
                "begin; insert into pulses default values; update goods set price = price + 1 where id = {id};
                 insert into logged values ({id}); insert into visits values (null, 0), ({id} % 20, 0);
                 update visits set n = n + 1 where page = '{id}'; delete from visits where n = 2;
                 insert into orders (total_amount, created_at) values ({id}, '2026-06-01Z'::timestamptz + interval '1 s' * {step});
                 update orders set status = 'cancelled' where order_id = {step} / 2;
                 {odd} commit"
            );
            client.batch_execute(&statements).await.expect("the load runs");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

#[test]
fn a_failpoint_that_does_not_exist_is_refused() {
    let mut command = crate::stand::lakeward(&["config", "check"]);
    command.env("FAILPOINTS", "comit_sent=return(kill)");
    let (code, said) = fail(command);
    assert_eq!(code, 2);
    assert!(said.contains("no failpoint") && said.contains("commit_sent"), "{said}");
}
