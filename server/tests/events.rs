//! Events come in: checked, written, answered. The log is one in memory.

use std::sync::{Arc, Mutex};

use axum::{
    body::Body,
    http::{Request, header},
};
use futures::{FutureExt, future::BoxFuture};
use lakeward_events::ContractFile;
use lakeward_server::{EventDoor, EventLog, KeyedEvent, Limits, NotTaken, router};
use serde_json::{Value, json};

use crate::app::App;

const PATH: &str = "/api/v1/events";

/// A key, and an event's bytes.
type Entry = (Option<String>, Vec<u8>);

#[derive(Clone, Default)]
pub struct Log {
    taken: Arc<Mutex<Vec<Entry>>>,
    is_away: bool,
}

impl EventLog for Log {
    fn append<'e>(&'e self, events: &'e [KeyedEvent<'e>]) -> BoxFuture<'e, Result<(), NotTaken>> {
        async move {
            if self.is_away {
                return Err(NotTaken);
            }
            let events = events.iter().map(|(key, event)| (key.clone(), event.to_vec()));
            self.taken.lock().unwrap().extend(events);
            Ok(())
        }
        .boxed()
    }
}

impl App {
    /// Events go into this log.
    pub fn taking_events(mut self, log: Log) -> Self {
        let contract = Arc::clone(ContractFile::open(None).unwrap().contract());
        self.state.events = Some(Arc::new(EventDoor::new(contract, Box::new(log))));
        self.router = router(self.state.clone(), Limits::default(), self.shutdown.clone()).unwrap();
        self
    }
}

pub fn event() -> Value {
    json!({
        "event_id": "0b83a1f4-25f4-4f8e-9a3b-0d4f1c3f7a10", "event_time": "2019-10-01T00:00:00Z", "event_type": "view",
        "product_id": 44600062, "category_id": 2103807459595387724_u64, "brand": "shiseido", "price": 35.79,
        "user_id": 541312140, "user_session": "72d76fde-8bb3-4e00-8c23-a032dfed738c"
    })
}

#[tokio::test]
async fn events_are_taken_with_their_bytes_and_keys() {
    let log = Log::default();
    let app = App::bare().taking_events(log.clone());
    let one = format!("  {{ \"more\" : 1.50, {}", &event().to_string()[1..]);
    let answer = app.post(PATH, one.clone()).await;
    assert_eq!((answer.status.as_u16(), &answer.body), (202, &json!({"accepted": 1, "invalid": []})));
    let many = json!([event(), event()]).to_string();
    assert_eq!(app.post(PATH, many).await.body["accepted"], 2);
    let taken = log.taken.lock().unwrap();
    assert_eq!(taken[0], (Some("541312140".to_owned()), one.trim().as_bytes().to_vec()));
    assert_eq!(taken[2].1, event().to_string().into_bytes());
}

#[tokio::test]
async fn what_does_not_conform_is_refused_with_its_place_or_routed() {
    let log = Log::default();
    let app = App::bare().taking_events(log.clone());
    let mut bad = event();
    bad["price"] = json!(-1);
    bad["event_type"] = json!("secret-word");
    let answer = app.post(PATH, json!([event(), bad, 7]).to_string()).await;
    assert_eq!((answer.status.as_u16(), &answer.body["code"]), (422, &json!("invalid_events")));
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/problem+json");
    assert!(!answer.body.to_string().contains("secret-word"));
    let faults: Vec<_> =
        answer.body["errors"].as_array().unwrap().iter().map(|fault| &fault["pointer"]).collect();
    assert_eq!(faults, ["/1/event_type", "/1/price", "/2"]);
    let single = app.post(PATH, bad.to_string()).await;
    assert_eq!(single.body["errors"][0]["pointer"], "/event_type");
    assert!(log.taken.lock().unwrap().is_empty());

    let routed = app.post(&format!("{PATH}?invalid=route"), json!([event(), bad]).to_string()).await;
    assert_eq!(routed.status.as_u16(), 202);
    assert_eq!(routed.body["invalid"][0]["index"], 1);
    assert_eq!(routed.body["invalid"][0]["reasons"][1], json!({"field": "price", "rule": "minimum"}));
    assert_eq!(log.taken.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn limits_and_troubles_are_told() {
    let app = App::bare().taking_events(Log::default());
    let many = json!(vec![1; 501]).to_string();
    for (body, status, code) in [
        ("{", 400, "malformed_json"),
        ("7", 400, "malformed_json"),
        ("[]", 422, "invalid_body"),
        (many.as_str(), 422, "invalid_body"),
        ("{}", 422, "invalid_events"),
    ] {
        let answer = app.post(PATH, body.to_owned()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.body["code"].as_str().unwrap()),
            (status, code),
            "{body:.20}"
        );
    }
    // More than other routes take, and less than anything.
    let padded = |bytes: usize| format!("{}{}", event(), " ".repeat(bytes));
    assert_eq!(app.post(PATH, padded(500_000)).await.status.as_u16(), 202);
    assert_eq!(app.post(PATH, padded(1 << 20)).await.status.as_u16(), 413);
    let text = Request::post(PATH).header(header::CONTENT_TYPE, "text/plain").body(Body::from("{}")).unwrap();
    assert_eq!(app.send(text).await.status.as_u16(), 415);
    assert_eq!(app.post(&format!("{PATH}?invalid=maybe"), "{}").await.status.as_u16(), 400);

    let away = App::bare().taking_events(Log { is_away: true, ..Log::default() });
    let answer = away.post(PATH, event().to_string()).await;
    assert_eq!((answer.status.as_u16(), answer.body["code"].as_str()), (503, Some("events_not_taken")));
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    let without = App::bare().post(PATH, event().to_string()).await;
    assert_eq!(
        (without.status.as_u16(), without.body["code"].as_str()),
        (503, Some("events_not_configured"))
    );
}
