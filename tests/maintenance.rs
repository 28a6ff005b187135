//! Maintenance of captured tables: by the ingester while it writes, by `lakeward table` when none runs.

use std::path::Path;

use crate::stand::{Background, Stand, fail, json, succeed, until};

/// How many commits of a table put files together.
fn compactions(table: &Path) -> usize {
    let log = std::fs::read_dir(table.join("_delta_log")).expect("a log");
    let entries = log.map(|entry| entry.expect("an entry").path());
    entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        // One that is being written is looked at again later.
        .filter(|path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("\"OPTIMIZE\"")))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_are_put_together_while_rows_keep_coming() {
    let stand = Stand::new().await;
    stand.sql("create table t(id int primary key, name text); insert into t values (0, 'copied')").await;
    stand.ingest_until_idle();
    let mut command = stand.capture(&["ingest"]);
    command.env("LAKEWARD__INGEST__FLUSH_SECONDS", "0.05").env("LAKEWARD__MAINTENANCE__SMALL_FILES", "4");
    let ingester = Background::start(command);
    let tables = ["bronze", "silver"].map(|layer| stand.lake.path().join(layer).join("shop/public/t"));
    let mut rows = 1;
    until("both halves have been compacted twice", async || {
        stand.sql(&format!("insert into t values ({rows}, 'streamed')")).await;
        rows += 1;
        tables.iter().all(|table| compactions(table) > 1)
    })
    .await;
    ingester.interrupt();
    assert_eq!(stand.reconcile(), [("public.t".to_owned(), rows)]);

    let optimize = || json(&succeed(stand.capture(&["table", "optimize", "public.t"])));
    let done = optimize();
    assert!(done["optimized"]["files_removed"].as_u64().expect("a count") > 1, "{done}");
    assert_eq!(optimize()["optimized"]["files_removed"], 0);
    let vacuumed = json(&succeed(stand.capture(&["table", "vacuum", "public.t"])));
    assert_eq!(vacuumed["vacuumed"]["files"], 0, "all is younger than the grace: {vacuumed}");
    assert_eq!(stand.reconcile(), [("public.t".to_owned(), rows)]);

    let (code, error) = fail(stand.capture(&["table", "optimize", "public.nope"]));
    assert_eq!(code, 2);
    assert!(error.contains("public.nope is not captured"), "{error}");
}
