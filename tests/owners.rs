//! Who may write, and what a copy that died leaves behind.

use nix::sys::signal::Signal;

use crate::stand::{Background, Stand, succeed, text, until};

/// Rows of each of the tables; enough that a copy takes a while.
const ROWS: i64 = 300_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_first_copy_that_died_goes_on_with_the_tables_it_lacks() {
    let stand = Stand::new().await;
    stand
        .sql(&format!(
            "create table small(id int primary key); insert into small select generate_series(1, 10);
             create table wide(id int primary key, note text);
             insert into wide select n, repeat('x', 200) from generate_series(1, {ROWS}) n"
        ))
        .await;
    let ingester = Background::start(stand.capture(&["ingest"]));
    let copied = stand.lake.path().join("silver/shop/public/small/_delta_log/00000000000000000001.json");
    until("the small table is copied", async || copied.exists()).await;
    ingester.kill();
    stand.sql("delete from small where id > 5; update wide set note = 'y' where id <= 5").await;
    let told = text(&succeed(stand.capture(&["ingest", "--until-idle"])).stderr);
    assert!(!told.contains("small: 10 rows copied"), "it was whole: {told}");
    let rows = u64::try_from(ROWS).expect("positive");
    assert_eq!(stand.reconcile(), [("public.small".to_owned(), 5), ("public.wide".to_owned(), rows)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ingester_waits_and_takes_over_from_one_that_stands_still() {
    let stand = Stand::new().await;
    stand.sql("create table t(id int primary key)").await;
    stand.sql("alter system set wal_sender_timeout = '3s'").await;
    stand.sql("select pg_reload_conf()").await;
    let mut first = stand.start_ingester().await;
    stand.sql("insert into t select generate_series(1, 100)").await;
    let second = Background::start(stand.capture(&["ingest"]));
    let control = lakeward_postgres::connect(&stand.server.url("control")).await.expect("a connection");
    let term = async || -> i64 {
        control.query_one("select max(term) from leases", &[]).await.expect("it runs").get(0)
    };
    until("the first one owns the source", async || term().await == 1).await;
    until("it has copied the table", async || stand.watermark().await.is_some()).await;
    first.signal(Signal::SIGSTOP);
    stand.sql("insert into t select generate_series(101, 200)").await;
    // Nobody renews its lease: half a minute is made shorter here.
    control.batch_execute("update leases set renewed_at = now() - interval '1 hour'").await.expect("it runs");
    until("the second one has taken over", async || term().await == 2).await;
    stand.sql("insert into t select generate_series(201, 300)").await;
    assert_eq!(stand.reconcile(), [("public.t".to_owned(), 300)]);
    first.signal(Signal::SIGCONT);
    until("the first one sees that it is not the owner any more", async || first.ended().is_some()).await;
    stand.sql("insert into t values (301)").await;
    assert_eq!(stand.reconcile(), [("public.t".to_owned(), 301)]);
    second.interrupt();
}
