//! What a visitor's tracker sends is in the customer's session at once: in Redis, and in every server's memory.

use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use reqwest::Client;
use serde_json::{Value, json};

use crate::stand::{Background, Stand, free_port, succeed, until};

const CUSTOMER: i64 = 7;
/// Events whose way is timed.
const TIMED: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_tracked_event_is_in_its_session_at_once_and_once() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let say = |doing: &str| eprintln!("{doing}");
    let (mut kafka, brokers) = lakeward_stack::kafka(folder.path(), &say).await.expect("Kafka");
    let (mut redis, address) = lakeward_stack::redis(folder.path(), None).await.expect("Redis");
    let stand = Stand::new().await.with([("LAKEWARD__EVENTS__BROKERS", brokers)]);
    succeed(stand.lakeward(&["simulate", "seed", "--small", "--postgres-url", &stand.url]));
    stand.sql("truncate events").await;
    stand.ingest_until_idle();
    let validator = Background::start(stand.lakeward(&["validate"]));

    let first = Server::start(&stand, &["serve", "--ingest"], Some(&address)).await;
    let now = Utc::now();
    let ago = |minutes| now - TimeDelta::minutes(minutes);
    let cart = event(CUSTOMER, "cart", ago(2));
    first.send(&[event(CUSTOMER, "view", ago(3)), cart.clone(), event(CUSTOMER, "view", ago(1))]).await;
    // A clock that is a year ahead, and who sends again what was not acknowledged.
    first.send(&[event(CUSTOMER + 1, "view", now + TimeDelta::days(365)), cart.clone()]).await;
    first.shows(CUSTOMER, 3).await;
    let session = first.session(CUSTOMER).await;
    let held = ["last_event", "product_id", "category_code_level2", "brand", "price"];
    assert_eq!(
        held.map(|name| session[name].clone()),
        [json!("view"), json!(44_600_062), json!("smartphone"), json!("samsung"), json!("35.79")]
    );

    // The shop has one of them, too, and one that was not tracked.
    let store = |id: &str, at: DateTime<Utc>| {
        format!(
            "insert into events (event_id, event_time, event_type, product_id, user_id, user_session)
             values ('{id}', '{}', 'cart', 1, {CUSTOMER}, '{VISIT}')",
            text(at)
        )
    };
    stand.sql(&store(cart["event_id"].as_str().expect("an id"), ago(2))).await;
    stand.sql(&store(&id(), ago(4))).await;
    first.shows(CUSTOMER, 4).await;
    stand.sql("truncate events").await;
    first.shows(CUSTOMER, 3).await;

    let mut waits = Vec::new();
    for _ in 0..TIMED {
        let sent = Instant::now();
        let before = first.count(CUSTOMER).await;
        first.send(&[event(CUSTOMER, "view", Utc::now())]).await;
        while first.count(CUSTOMER).await <= before {
            assert!(sent.elapsed() < Duration::from_secs(30), "an event does not come");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        waits.push(sent.elapsed());
    }
    waits.sort();
    eprintln!(
        "from the request to Redis: {:?} in half of the cases, at most {:?}",
        waits[TIMED / 2],
        waits[TIMED - 1]
    );

    // Who starts later, or again, reads the topic's last hours; and needs no Redis.
    first.process.kill();
    let others = Server::start(&stand, &["serve"], None).await;
    others.shows(CUSTOMER, 3 + TIMED as u64).await;
    others.process.interrupt();
    validator.interrupt();
    redis.stop().await.expect("it stops");
    kafka.stop().await.expect("it stops");
}

const VISIT: &str = "72d76fde-8bb3-4e00-8c23-a032dfed738c";

fn id() -> String {
    format!("00000000-0000-4000-8000-{:012x}", rand::random::<u32>())
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn event(user_id: i64, event_type: &str, at: DateTime<Utc>) -> Value {
    json!({
        "event_id": id(), "event_time": text(at), "event_type": event_type,
        "product_id": 44_600_062, "category_id": 2_103_807_459_595_387_724_i64, "category_code": "electronics.smartphone",
        "brand": "samsung", "price": 35.79, "user_id": user_id, "user_session": VISIT,
    })
}

struct Server {
    process: Background,
    base: String,
    client: Client,
    /// What its features must come from.
    store: &'static str,
}

impl Server {
    async fn start(stand: &Stand, arguments: &[&str], redis: Option<&str>) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = stand.lakeward(arguments);
        command.args(["--lake", stand.lake_path(), "--address", &address]);
        command.env("LAKEWARD_POSTGRES_URL", &stand.url);
        command.envs(redis.map(|address| ("LAKEWARD__ONLINE__URL", format!("redis://{address}"))));
        let process = Background::start(command);
        let store = if redis.is_some() { "redis" } else { "memory" };
        let server = Self { process, base: format!("http://{address}/api/v1"), client: Client::new(), store };
        let ready = format!("http://{address}/readyz");
        until("the server is ready", async || {
            server.client.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        server
    }

    async fn send(&self, events: &[Value]) {
        let url = format!("{}/events", self.base);
        let answer = self.client.post(url).json(events).send().await.expect("an answer");
        assert_eq!(answer.status(), 202, "{}", answer.text().await.unwrap_or_default());
    }

    /// Null if there is none.
    async fn session(&self, user_id: i64) -> Value {
        let url = format!("{}/customers/{user_id}/features", self.base);
        let answer = self.client.get(url).send().await.expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        if answer["store"] == self.store { answer["views"]["session"]["values"].clone() } else { Value::Null }
    }

    async fn count(&self, user_id: i64) -> u64 {
        self.session(user_id).await["activity_count"].as_u64().unwrap_or_default()
    }

    async fn shows(&self, user_id: i64, events: u64) {
        until(&format!("a session of {events}"), async || self.count(user_id).await == events).await;
    }
}
