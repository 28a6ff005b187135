//! On the real Kafka Connect, with Debezium, Kafka and Postgres.

use std::time::{Duration, Instant};

use lakeward_connect::{ConnectError, Connectors, Report, Template};
use lakeward_stack::{DATABASE, Ports, Stack};
use tokio_postgres::Client;

/// Whatever takes longer will not happen.
const PATIENCE: Duration = Duration::from_secs(120);
const TABLES: &str = "
    create table users (id int primary key, name text);
    create table orders (id int primary key, total numeric(10, 2));
    create table events (id int primary key, kind text);
    create table notes (note text);
    insert into orders values (1, 9.99);
    insert into events values (1, 'view')";

struct Shop {
    stack: Stack,
    connectors: Connectors,
    url: String,
    client: Client,
    /// Last, since the services end before their folder.
    _folder: tempfile::TempDir,
}

impl Shop {
    async fn open() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ports = Ports::free().expect("free ports");
        let stack = Stack::start(folder.path(), ports, &|doing| eprintln!("{doing}")).await.expect("a stack");
        let url = stack.postgres.url(DATABASE);
        let client = lakeward_postgres::connect(&url).await.expect("a connection");
        client.batch_execute(TABLES).await.expect("a shop");
        let connectors = Connectors::new(&api(&stack), &url).expect("connectors");
        Self { stack, connectors, url, client, _folder: folder }
    }

    async fn sql(&self, statements: &str) {
        self.client.batch_execute(statements).await.expect("the statements run");
    }

    async fn count(&self, query: &str) -> i64 {
        self.client.query_one(query, &[]).await.expect("the query runs").get(0)
    }

    async fn confirmed(&self) -> i64 {
        let query = "select (confirmed_flush_lsn - '0/0')::int8 from pg_replication_slots
            where slot_name = 'debezium_ecommerce'";
        self.count(query).await
    }
}

fn api(stack: &Stack) -> String {
    format!("http://127.0.0.1:{}", stack.ports.connect)
}

fn templates() -> [Template; 2] {
    Template::shipped(&[]).expect("they are read").try_into().expect("two of them")
}

fn fixes(report: &Report) -> String {
    report.problems.iter().map(|problem| format!("{}: {}\n", problem.what, problem.fix)).collect()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "still not true: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connectors_are_made_watched_and_taken_away() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let shop = Shop::open().await;
    let [ecommerce, tracking] = templates();

    let absent = shop.connectors.status(&ecommerce).await.expect("a report");
    assert!(
        !absent.is_well() && fixes(&absent).contains("connector apply ecommerce-connector"),
        "{absent:?}"
    );
    let refused = shop.connectors.restart(&tracking).await.expect_err("there is none");
    assert!(matches!(refused, ConnectError::Missing { .. }), "{refused}");

    // Twice is as once.
    for _ in 0..2 {
        let made = shop.connectors.apply(&ecommerce).await.expect("it is made");
        assert!(made.is_well(), "{made:?}");
        assert_eq!(made.tables, ["public.orders", "public.users"]);
        assert!(fixes(&made).contains("public.notes is left out: it has no key"), "{made:?}");
        let made = shop.connectors.apply(&tracking).await.expect("it is made");
        assert!(made.is_well(), "{made:?}");
        assert_eq!(made.tables, ["public.events"]);
    }
    // It has no key: were it published, the update would be refused.
    shop.sql("insert into notes values ('a'); update notes set note = 'b'").await;
    // A table that came later is taken by the next apply.
    shop.sql("create table returns (id int primary key)").await;
    let made = shop.connectors.apply(&ecommerce).await.expect("it is changed");
    assert!(made.is_well() && made.tables == ["public.orders", "public.returns", "public.users"], "{made:?}");

    heartbeats_move_the_slot(&shop).await;
    a_failed_task_is_told(&shop).await;
    a_lost_slot_is_not_passed_over(&shop).await;
    wrong_places_are_told(&shop).await;

    // Nothing is left, and a new beginning is one.
    for template in [&ecommerce, &tracking, &ecommerce] {
        shop.connectors.delete(template).await.expect("it goes");
    }
    assert_eq!(shop.count("select count(*) from pg_replication_slots").await, 0);
    assert_eq!(shop.count("select count(*) from pg_publication").await, 0);
    let again = shop.connectors.apply(&ecommerce).await.expect("it is made");
    assert!(again.is_well(), "{again:?}");
    shop.connectors.delete(&ecommerce).await.expect("it goes");
    shop.stack.stop().await.expect("the stack stops");
}

/// Other tables' changes must not pile up behind an idle connector.
async fn heartbeats_move_the_slot(shop: &Shop) {
    let before = shop.confirmed().await;
    shop.sql("insert into notes select md5(i::text) from generate_series(1, 1000) i").await;
    let written = shop.count("select (pg_current_wal_lsn() - '0/0')::int8").await;
    assert!(before < written);
    until("the slot has passed them", async || shop.confirmed().await >= written).await;
}

/// Of a connector that says RUNNING all the while.
async fn a_failed_task_is_told(shop: &Shop) {
    let [ecommerce, tracking] = templates();
    shop.sql("drop publication debezium_tracking").await;
    let report = shop.connectors.restart(&tracking).await.expect("a report");
    assert_eq!(report.state.as_deref(), Some("RUNNING"));
    assert_eq!(report.tasks[0].state, "FAILED");
    assert!(
        !report.is_well() && fixes(&report).contains("connector delete tracking-connector"),
        "{report:?}"
    );
    let other = shop.connectors.status(&ecommerce).await.expect("a report");
    assert!(other.is_well(), "{other:?}");
    // What has failed is started again, also with the settings that it had.
    let mended = shop.connectors.apply(&tracking).await.expect("a report");
    assert!(mended.is_well(), "{mended:?}");
}

/// Debezium alone would find out only at its next start.
async fn a_lost_slot_is_not_passed_over(shop: &Shop) {
    let [ecommerce, _] = templates();
    let slot = "from pg_replication_slots where slot_name = 'debezium_ecommerce'";
    until("the slot is dropped", async || {
        // Debezium comes back for it at once.
        let _ = shop.client.execute(&format!("select pg_terminate_backend(active_pid) {slot}"), &[]).await;
        shop.client.execute("select pg_drop_replication_slot('debezium_ecommerce')", &[]).await.is_ok()
    })
    .await;
    for failed in
        [shop.connectors.apply(&ecommerce).await.err(), shop.connectors.restart(&ecommerce).await.err()]
    {
        let said = failed.expect("changes are lost").to_string();
        assert!(said.contains("debezium_ecommerce") && said.contains("is missing"), "{said}");
        assert!(said.contains("connector delete ecommerce-connector"), "{said}");
    }
    let report = shop.connectors.status(&ecommerce).await.expect("a report");
    assert!(!report.is_well() && fixes(&report).contains("is missing: changes are lost"), "{report:?}");
    assert_eq!(shop.count(&format!("select count(*) {slot}")).await, 0);
}

async fn wrong_places_are_told(shop: &Shop) {
    let [_, tracking] = templates();
    let (user, rest) = shop.url.split_once('@').expect("a URL with credentials");
    let wrong = format!("{}:nonsense@{rest}", user.rsplit_once(':').expect("a password").0);
    let elsewhere = Connectors::new(&api(&shop.stack), &wrong).expect("connectors");
    let refused = elsewhere.apply(&tracking).await.expect_err("a wrong password");
    assert!(!refused.is_retryable() && !format!("{refused:?}").contains("nonsense"), "{refused:?}");
    let report = elsewhere.status(&tracking).await.expect("a report, for what Connect says");
    assert!(report.tasks[0].state == "RUNNING" && !report.is_well(), "{report:?}");

    let nowhere = Connectors::new("http://127.0.0.1:1", &shop.url).expect("connectors");
    let refused = nowhere.status(&tracking).await.expect_err("nobody answers there");
    assert!(refused.is_retryable() && refused.to_string().contains("[connect] url"), "{refused}");
    let postgres = format!("http://127.0.0.1:{}", shop.stack.ports.minio);
    let refused = Connectors::new(&postgres, &shop.url).expect("connectors").status(&tracking).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("not Kafka Connect")));
}
