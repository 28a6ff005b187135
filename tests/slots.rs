//! Slots and tables that were chosen by name.

use crate::stand::{Stand, fail, succeed, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_and_a_publication_of_the_users_are_taken_as_they_are() {
    let stand = Stand::new().await;
    stand
        .sql(
            "create table t(id int primary key); create table hidden(id int primary key);
              create publication theirs for table t; insert into t values (1)",
        )
        .await;
    stand.sql("select pg_create_logical_replication_slot('theirs', 'pgoutput')").await;
    stand.sql("insert into t values (2)").await;
    let ingest = || {
        let mut command = stand.capture(&["ingest", "--until-idle"]);
        command.env("LAKEWARD__SOURCE__SLOT", "theirs").env("LAKEWARD__SOURCE__PUBLICATION", "theirs");
        command
    };
    let told = text(&succeed(ingest()).stderr);
    assert!(told.contains("Left out public.hidden"), "{told}");
    stand.sql("insert into t values (3)").await;
    succeed(ingest());
    let mut reconcile = stand.capture(&["reconcile"]);
    reconcile.env("LAKEWARD__SOURCE__SLOT", "theirs").env("LAKEWARD__SOURCE__PUBLICATION", "theirs");
    let report = crate::stand::json(&succeed(reconcile));
    assert_eq!(report["tables"][0]["lake_rows"], 3, "{report}");
    let slots = "select count(*) from pg_replication_slots where slot_name = 'theirs'";
    assert_eq!(stand.count(slots).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_table_is_not_lost_by_a_narrower_choice() {
    let stand = Stand::new().await;
    stand.sql("create table a(id int primary key); create table b(id int primary key)").await;
    stand.ingest_until_idle();
    let (code, error) = fail(stand.capture(&["ingest", "--until-idle", "--tables", "public.a"]));
    assert_eq!(code, 2);
    assert!(error.contains("public.b") && error.contains("not chosen any more"), "{error}");
    // One that is gone from the source is another matter.
    stand.sql("drop table b; insert into a values (1)").await;
    let told = text(&succeed(stand.capture(&["ingest", "--until-idle"])).stderr);
    assert!(told.contains("no such table any more"), "{told}");
    let listed = text(&succeed(stand.lakeward(&["table", "list", "--lake", stand.lake_path()])).stdout);
    assert!(listed.contains("public.a") && !listed.contains("public.b"), "{listed}");
}
