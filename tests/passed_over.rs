//! What Debezium passes over: it begins again where it had told of a transaction's beginning, and a change of the
//! transaction lies right behind the end of the one before. It takes that change for the last it has written.

use std::time::Duration;

use rdkafka::producer::FutureRecord;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    services::Services,
    stand::{Stand, until},
    topics::copied_anew,
};

const TRANSACTIONS: &str = "ecommerce.transaction";
/// How far the log is, as a connector has it.
const HERE: &str = "select (pg_current_wal_insert_lsn() - '0/0')::bigint";

/// Two changes of `accounts`, which come to no topic.
pub async fn a_connector_passes_over_changes(services: &Services, stand: &Stand) {
    let connector = Connector { client: Client::new(), url: services.connector_url("ecommerce-connector") };
    connector.put("stop").await;
    until("it is stopped", async || connector.state().await == "STOPPED").await;

    let other = lakeward_postgres::connect(&stand.url).await.expect("a connection");
    stand.sql("begin").await;
    let begun = stand.count(HERE).await;
    stand.sql("insert into accounts values (3000, 1, 'not told of')").await;
    let xid = stand.count("select pg_current_xact_id()::text::bigint").await;
    let before = "begin; select pg_logical_emit_message(true, 'lakeward-heartbeat', ''); commit";
    other.batch_execute(before).await.expect("it commits");
    let after = stand.count(HERE).await;
    stand.sql("insert into accounts values (3001, 1, 'nor this one'); commit").await;

    // As if it had been stopped right after the beginning.
    send(services, "END", xid - 1, after, Some(0)).await;
    send(services, "BEGIN", xid, begun, None).await;
    connector.go_on_from(xid, begun, after).await;
    // One that still ran would take this long to stop.
    sleep(Duration::from_millis(500)).await;
    connector.put("resume").await;
    let told = || services.search(TRANSACTIONS, &format!("\"{xid}:"));
    until("the transaction's end is told of", async || told().len() == 2).await;
    let end = told().remove(1).1;
    assert!(end.contains("\"event_count\":0"), "a connector that passes nothing over needs no test: {end}");

    copied_anew(stand, "began again right after");
}

/// Says of a transaction what a connector would.
async fn send(services: &Services, status: &str, xid: i64, lsn: i64, events: Option<i64>) {
    let tables = events.map(|_| json!([]));
    let id = format!("{xid}:{lsn}");
    let mark =
        json!({"status": status, "id": id, "event_count": events, "data_collections": tables, "ts_ms": 0});
    let value = mark.to_string();
    let record = FutureRecord::<(), _>::to(TRANSACTIONS).payload(&value);
    services.producer().send(record, Duration::from_secs(60)).await.expect("Kafka takes it");
}

/// One of Connect's.
struct Connector {
    client: Client,
    url: String,
}

impl Connector {
    async fn put(&self, what: &str) {
        let answer = self.client.put(format!("{}/{what}", self.url)).send().await;
        answer.and_then(Response::error_for_status).expect("Connect does so");
    }

    async fn state(&self) -> String {
        let answer = self.client.get(format!("{}/status", self.url)).send().await.expect("an answer");
        let status: Value = answer.json().await.expect("JSON");
        let running = status["tasks"].as_array().is_some_and(|tasks| !tasks.is_empty());
        if running {
            String::new()
        } else {
            status["connector"]["state"].as_str().unwrap_or_default().to_owned()
        }
    }

    /// Its last message was a transaction's beginning.
    async fn go_on_from(&self, xid: i64, begun: i64, after: i64) {
        let offset = json!({
            "transaction_id": xid.to_string(), "txId": xid, "messageType": "BEGIN", "lsn": begun, "lsn_proc": after,
            "lsn_commit": after, "ts_usec": 0,
        });
        let offsets = json!({"offsets": [{"partition": {"server": "ecommerce"}, "offset": offset}]});
        let patched = self.client.patch(format!("{}/offsets", self.url)).json(&offsets).send().await;
        patched.and_then(Response::error_for_status).expect("Connect takes it");
    }
}
