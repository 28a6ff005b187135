//! The live stream, and a real connection from start to shutdown.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{Request, header};
use futures::StreamExt;
use lakeward_change::Op;
use lakeward_server::{Limits, serve};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tower::ServiceExt;

use crate::{
    app::App,
    shop::{self, END, MINUTE},
};

/// Far longer than anything here takes: a test that fails ends.
const PATIENCE: Duration = Duration::from_secs(20);

struct Events {
    body: BodyDataStream,
    buffer: String,
}

impl Events {
    async fn open(app: &App) -> Self {
        let request = Request::get("/api/v1/revenue/stream").body(Body::empty()).unwrap();
        let response = app.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), buffer: String::new() }
    }

    /// The next event's name and data; `None` at the stream's end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let field =
                    |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let read = field("event:")
                    .zip(field("data:"))
                    .map(|(name, data)| (name.to_owned(), serde_json::from_str(data).unwrap()));
                self.buffer = rest.to_owned();
                if read.is_some() {
                    return read;
                }
                continue;
            }
            let bytes = timeout(PATIENCE, self.body.next()).await.expect("an event in time")?.unwrap();
            self.buffer.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }
}

#[tokio::test]
async fn the_stream_begins_with_a_snapshot_and_goes_on_with_changes() {
    let mut app = App::bare();
    let mut events = Events::open(&app).await;
    let (name, snapshot) = events.next().await.unwrap();
    assert_eq!(name, "snapshot");
    let minutes = app.ok("/api/v1/revenue/minutes?from=2026-02-28T12:00:00Z&to=2026-03-02T00:00:00Z").await;
    let newest = |list: &Value| list.as_array().unwrap().last().cloned();
    assert!(newest(&snapshot["minutes"]).is_some());
    assert_eq!(newest(&snapshot["minutes"]), newest(&minutes["minutes"]));
    assert_eq!(snapshot["orders"].as_array().unwrap().len(), 20);

    let order = app.shop.next_order(9, END + 5 * MINUTE);
    app.store.apply(&shop::changes(&order, Op::Insert, 1)).unwrap();
    let (mut placed, mut earned) = (None, None);
    while placed.is_none() || earned.is_none() {
        let (name, data) = events.next().await.unwrap();
        match name.as_str() {
            "order" => placed = Some(data),
            "revenue" => earned = Some(data),
            other => panic!("unexpected event {other}"),
        }
    }
    let (placed, earned) = (placed.unwrap(), earned.unwrap());
    assert_eq!(placed["order"]["order_id"], order.order_id);
    assert_eq!(placed["order"]["customer_name"], shop::customer_name(9));
    assert_eq!(placed["order"]["items"].as_array().unwrap().len(), order.lines.len());
    assert_eq!(earned["minute"]["revenue"], placed["order"]["total_amount"]);
    assert_eq!(earned["minute"]["minute"], "2026-03-01T12:05:00.000000Z");
    assert_eq!(earned["as_of"], "2026-03-01T12:05:00.000000Z");
}

#[tokio::test]
async fn a_reader_who_missed_changes_gets_a_snapshot_with_all_of_them() {
    let mut app = App::bare();
    let mut events = Events::open(&app).await;
    assert_eq!(events.next().await.unwrap().0, "snapshot");
    let mut last = 0;
    for commit in 1..=5_000 {
        let order = app.shop.next_order(1 + commit % app.shop.size.customers, END + MINUTE);
        last = order.order_id;
        app.store.apply(&shop::changes(&order, Op::Insert, commit)).unwrap();
    }
    let (name, snapshot) = events.next().await.unwrap();
    assert_eq!((name.as_str(), &snapshot["orders"][0]["order_id"]), ("snapshot", &last.into()));
}

#[tokio::test]
async fn shutdown_ends_streams_and_then_the_server() {
    let app = App::trained();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits { drain: PATIENCE, ..Limits::default() };
    let server = tokio::spawn(serve(listener, app.state.clone(), limits, app.shutdown.clone()));

    let mut short = TcpStream::connect(address).await.unwrap();
    short
        .write_all(b"GET /api/v1/customers/5 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    short.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("x-request-id:"));

    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /api/v1/revenue/stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 64];
    stream.read_exact(&mut first).await.unwrap();
    app.shutdown.cancel();
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the stream ends").unwrap();
    timeout(PATIENCE, server).await.expect("the server ends").unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}
