//! Who may use a slot, and which slots are left alone.

use lakeward_cdc::{CdcError, PostgresOptions, PostgresSource, SlotState};
use lakeward_change::Lsn;

use crate::server::{Database, WAIT, followed};

const TABLE: &str = "CREATE TABLE t(id int PRIMARY KEY);";

#[tokio::test]
async fn one_process_at_a_time_decides_about_a_slot() {
    let database = Database::create(TABLE).await;
    let (first, second) = (database.source().await, database.source().await);
    let claim = first.claim().await.expect("nobody has it");
    let error = second.claim().await.err().expect("the first has it");
    assert!(matches!(error, CdcError::SlotInUse { .. }) && error.is_retryable(), "{error}");
    assert!(claim.holds());
    drop(claim);
    second.claim().await.expect("the first is gone");
}

#[tokio::test]
async fn a_slot_that_moved_on_is_not_streamed() {
    let database = Database::create(TABLE).await;
    let (source, stream) = database.capture().await;
    stream.close().await;
    let SlotState::Present { confirmed, .. } = source.slot().await.expect("a state") else {
        panic!("no slot")
    };
    let error =
        source.stream(Lsn(confirmed.0 - 1), &followed(&source)).await.err().expect("changes would be missed");
    assert!(matches!(error, CdcError::SlotMoved { .. }) && error.is_retryable(), "{error}");
    source.drop_slot().await.expect("it goes");
    let error = source.stream(confirmed, &followed(&source)).await.err().expect("there is none");
    assert!(matches!(error, CdcError::SlotMoved { .. }), "{error}");
}

#[tokio::test]
async fn a_slot_of_something_else_is_left_alone() {
    let (database, other) = (Database::create(TABLE).await, Database::create(TABLE).await);
    let name = format!("foreign_{}", database.url.len());
    other.run(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")).await;
    let options = PostgresOptions { slot: Some(name.clone()), ..PostgresOptions::new(&database.url) };
    let source = PostgresSource::open(options).await.expect("a source");
    for error in [
        source.slot().await.expect_err("of another database"),
        source.drop_slot().await.expect_err("not ours to drop"),
    ] {
        assert!(matches!(error, CdcError::SlotUnfit { .. }) && !error.is_retryable(), "{error}");
    }
    assert_eq!(
        other
            .one::<i64>(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'"))
            .await,
        1
    );
    other.run(&format!("SELECT pg_drop_replication_slot('{name}')")).await;
}

#[tokio::test]
async fn tables_of_another_owner_are_skipped_and_the_rest_is_published() {
    let database = Database::create(TABLE).await;
    let role = format!("reader_{}", database.one::<String>("SELECT current_database()").await);
    database
        .run(&format!(
            "CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'x';
             GRANT CREATE ON DATABASE {} TO {role}; GRANT CREATE ON SCHEMA public TO {role};
             GRANT SELECT ON t TO {role};
             CREATE TABLE own(id int PRIMARY KEY); ALTER TABLE own OWNER TO {role};",
            database.one::<String>("SELECT current_database()").await
        ))
        .await;
    let mut url = url::Url::parse(&database.url).expect("a URL");
    url.set_username(&role).expect("a name");
    url.set_password(Some("x")).expect("a password");
    let source = PostgresSource::open(PostgresOptions::new(url)).await.expect("a source");
    assert_eq!(source.tables().iter().map(|table| table.id.name.as_str()).collect::<Vec<_>>(), ["own"]);
    let skipped = source.skipped().iter().find(|table| table.id.name == "t").expect("it is told");
    assert!(skipped.reason.contains("only an owner") && !skipped.by_definition, "{}", skipped.reason);
    source.prepare().await.expect("a publication of what is ours");
    source.create_slot(WAIT).await.expect("a slot");
    source.drop_all().await.expect("nothing stays");
}
