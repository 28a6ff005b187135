use std::sync::Mutex;

use chrono::{DateTime, Utc};
use lakeward_simulator::{
    Error, ReplayOptions, ShopEvent, complete_journey_period, create_schema, import_complete_journey, replay,
};
use tokio_util::sync::CancellationToken;

use crate::server::Database;
use crate::wheel::{self, ROWS};

fn from() -> DateTime<Utc> {
    // In the middle of order 502's life cycle, before the baskets 503 to 505.
    "2017-01-02T11:10:00Z".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn import_and_replay_together_are_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("small.whl");
    wheel::write(&file, &ROWS);
    let cancel = CancellationToken::new();
    let whole = Database::new("replay_whole").await;
    import_complete_journey(&whole.url, &file, None, &|_, _| {}, &cancel).await.unwrap();

    let parts = Database::new("replay_parts").await;
    let report = import_complete_journey(&parts.url, &file, Some(from()), &|_, _| {}, &cancel).await.unwrap();
    assert_eq!((report.users, report.orders, report.order_items), (3, 3, 5));
    assert_ne!(parts.text("select status from orders where order_id = 502").await, "completed");

    let events = Mutex::new(Vec::new());
    let note = |event: &ShopEvent| events.lock().unwrap().push(event.clone());
    let first = ReplayOptions { from: from(), speed: f64::INFINITY, orders: Some(1) };
    assert_eq!(replay(&parts.url, &file, &first, &note, &cancel).await.unwrap().orders, 1);
    // A second call goes on where the first one ended.
    let rest = ReplayOptions { orders: None, ..first };
    assert_eq!(replay(&parts.url, &file, &rest, &note, &cancel).await.unwrap().orders, 2);
    assert_eq!(replay(&parts.url, &file, &rest, &note, &cancel).await.unwrap().transactions, 0);

    for (table, key) in [("orders", "order_id"), ("order_items", "order_item_id")] {
        assert_eq!(parts.checksum(table, key).await, whole.checksum(table, key).await, "{table}");
    }
    let times: Vec<DateTime<Utc>> = events
        .into_inner()
        .unwrap()
        .iter()
        .map(|event| match event {
            ShopEvent::Order { created_at, .. } => *created_at,
            ShopEvent::Status { at, .. } => *at,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(times.is_sorted());
    assert!(times.iter().all(|time| *time >= from()));
}

#[tokio::test]
async fn replay_wants_an_imported_shop_and_a_positive_speed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("small.whl");
    wheel::write(&file, &ROWS);
    let database = Database::new("replay_empty").await;
    create_schema(&database.url).await.unwrap();
    let cancel = CancellationToken::new();
    let options = ReplayOptions { from: from(), speed: 1.0, orders: None };
    let error = replay(&database.url, &file, &options, &|_| {}, &cancel).await.unwrap_err();
    assert!(matches!(error, Error::Unprepared { .. }));
    let still = ReplayOptions { speed: 0.0, ..options };
    let error = replay(&database.url, &file, &still, &|_| {}, &cancel).await.unwrap_err();
    assert!(matches!(error, Error::Option { name: "speed", .. }));

    let (first, last) = complete_journey_period(&file).unwrap();
    assert_eq!(first.to_rfc3339(), "2017-01-01T10:00:00+00:00");
    assert_eq!(last.to_rfc3339(), "2017-01-05T10:40:00+00:00");
}
