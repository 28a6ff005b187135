//! `lakeward status`: how far capture is, and what is stuck.

use serde_json::Value;

use crate::stand::{Background, Stand, json, succeed, text, until};

fn status(stand: &Stand) -> Value {
    json(&succeed(stand.capture(&["status"])))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_and_what_is_stuck_is_told() {
    let stand = Stand::new().await;
    stand.sql("create table t(id int primary key); create table u(id int primary key)").await;
    let before = status(&stand);
    assert_eq!(before["durable"], Value::Null);
    assert!(
        before["findings"][0].as_str().expect("a finding").contains("nothing is captured yet"),
        "{before}"
    );

    let told = text(&succeed(stand.capture(&["ingest", "--until-idle"])).stderr);
    assert!(told.contains("of its log for slot"), "{told}");
    let stopped = status(&stand);
    assert!(stopped["wal"]["kept_bytes"].is_u64() && stopped["ingester"].is_null(), "{stopped}");
    assert!(
        stopped["findings"][0].as_str().expect("a finding").contains("nobody reads the slot"),
        "{stopped}"
    );

    let mut command = stand.capture(&["ingest"]);
    command.env("LAKEWARD__INGEST__FLUSH_SECONDS", "3600");
    let ingester = Background::start(command);
    let cuts = stand.watermarks().await.len();
    stand.sql("insert into t values (0)").await;
    until("the first cut is made, which comes at once", async || stand.watermarks().await.len() > cuts).await;
    stand.sql("insert into t select generate_series(1, 123)").await;
    until("the rows are seen to wait", async || status(&stand)["tables"][0]["rows_behind"] == 123).await;
    let waiting = status(&stand);
    assert!(waiting["tables"][0]["seconds_behind"].as_f64().expect("an age") >= 0.0);
    assert!(waiting["ingester"]["buffered_bytes"].as_u64().expect("bytes") > 0, "{waiting}");
    assert_eq!(waiting["tables"][1]["rows_behind"], 0);
    ingester.interrupt();
    assert_eq!(status(&stand)["tables"][0]["rows_behind"], 0);
}
