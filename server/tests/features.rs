//! Features by the API: from Redis, and without it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lakeward_change::Op;
use lakeward_features::OnlineStore;
use lakeward_online::{
    CUSTOMER_VIEWS, Online, OnlineOptions, Publisher, Row, Stamp, TimesToLive, customer_values,
};
use lakeward_server::{Limits, router};
use serde_json::{Value, json};

use crate::{
    app::{App, products},
    shop::{END, changes},
};

fn online(address: &str) -> Online {
    let options = OnlineOptions {
        url: format!("redis://{address}/0"),
        certificates: None,
        source: "shop".to_owned(),
        ttl: TimesToLive::default(),
    };
    Online::open(&options).unwrap()
}

fn app_with(online: Online) -> App {
    let mut app = App::trained();
    app.state.online = Some(online);
    app.router = router(app.state.clone(), Limits::default(), app.shutdown.clone()).unwrap();
    app
}

#[tokio::test]
async fn without_redis_features_are_the_servers_own() {
    let app = App::trained();
    let one = app.ok("/api/v1/customers/5/features").await;
    assert_eq!(
        (&one["user_id"], &one["store"], &one["degraded"]),
        (&json!(5), &json!("memory"), &json!(false))
    );
    let as_of = app.store.status().as_of.unwrap();
    let customer = app.store.customer(5, as_of).unwrap();
    let rfm = &one["views"]["user_rfm"];
    assert_eq!((&rfm["status"], &rfm["event_time"]), (&json!("present"), &one["as_of"]));
    assert_eq!(rfm["values"]["frequency"], customer.kept_orders);
    assert_eq!(rfm["values"]["monetary"], customer.monetary.to_string());
    let scores = one["views"]["user_item_interactions"]["values"].as_array().unwrap();
    assert_eq!(scores.len(), app.store.interactions(5, as_of).len());
    assert!(scores.is_sorted_by(|a, b| a["score"].as_f64() >= b["score"].as_f64()));

    let many = app.ok("/api/v1/features?user_id=5,999999&product_id=1").await;
    assert_eq!(many["customers"][0]["views"], one["views"]);
    assert_eq!(many["customers"][1]["views"]["user_activity"]["status"], "not_found");
    assert_eq!(many["products"][0]["views"]["product_popularity"]["status"], "unavailable");
    let ids: Vec<_> = (0..101).map(|id| id.to_string()).collect();
    let answer = app.get(&format!("/api/v1/features?user_id={}", ids.join(","))).await;
    assert_eq!((answer.status.as_u16(), &answer.body["code"]), (400, &json!("invalid_parameter")));
    assert_eq!(app.get("/api/v1/features?user_id=x").await.status.as_u16(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_redis_degrades_and_heals() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut redis, address) = lakeward_stack::redis(folder.path(), None).await.unwrap();
    let app = app_with(online(&address));
    let as_of = app.store.status().as_of.unwrap();
    let stamp =
        Stamp { position: lakeward_change::Position { epoch: 1, commit: 9, order: 1 }, event_time: as_of };
    let fill = async || {
        let writer = online(&address);
        for (view, texts) in customer_values(app.store.as_ref(), 5, as_of) {
            writer.put(view, stamp, &[Row { entity: 5, texts }]).await.unwrap();
        }
    };
    fill().await;
    let features = async || app.ok("/api/v1/features?user_id=5,6&product_id=1").await;
    let check = async || {
        let readiness = app.get("/readyz").await;
        let checks = readiness.body["checks"].as_array().unwrap().clone();
        let online: Value = checks.into_iter().find(|check| check["name"] == "online").unwrap();
        (readiness.status.as_u16(), online["status"].as_str().unwrap().to_owned())
    };
    let before = features().await;
    assert_eq!((&before["store"], &before["degraded"]), (&json!("redis"), &json!(false)));
    assert_eq!(before["customers"][0]["views"]["user_rfm"]["position"], json!([1, 9, 1]));
    assert_eq!(before["customers"][1]["views"]["user_rfm"]["status"], "not_found");
    assert_eq!(before["products"][0]["views"]["product_popularity"]["status"], "not_found");
    // The same values as from memory, whoever answers.
    let memory = App::trained().ok("/api/v1/customers/5/features").await;
    for view in CUSTOMER_VIEWS {
        let name = view.name();
        assert_eq!(
            before["customers"][0]["views"][name]["values"], memory["views"][name]["values"],
            "{name}"
        );
    }
    assert_eq!(check().await, (200, "ok".to_owned()));

    for stop in ["kill", "pause"] {
        if stop == "kill" {
            redis.kill().await.unwrap()
        } else {
            redis.pause().unwrap()
        };
        for _ in 0..20 {
            let during = features().await;
            assert_eq!((&during["store"], &during["degraded"]), (&json!("memory"), &json!(true)), "{stop}");
            assert_eq!(during["customers"][0]["views"]["user_rfm"]["status"], "present");
            let list = app.ok("/api/v1/customers/5/recommendations?k=5").await;
            assert_eq!(list["recommendations"].as_array().unwrap().len(), 5);
        }
        assert_eq!(check().await, (200, "degraded".to_owned()), "{stop}");
        if stop == "kill" {
            redis.launch().await.unwrap()
        } else {
            redis.resume().unwrap()
        };
        until(async || features().await["degraded"] == json!(false)).await;
        fill().await;
        assert_eq!(features().await["customers"][0]["views"]["user_rfm"]["status"], "present");
        assert_eq!(check().await, (200, "ok".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_knows_the_order_that_another_process_has_seen() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut redis, address) = lakeward_stack::redis(folder.path(), None).await.unwrap();
    let mut app = app_with(online(&address));
    app.state.behind = true;
    app.router = router(app.state.clone(), Limits::default(), app.shutdown.clone()).unwrap();
    let path = "/api/v1/customers/5/recommendations?k=5&repeat=exclude";
    let before = app.ok(path).await;
    assert_eq!(before["degraded"], false);
    let first = products(&before)[0];

    // The other process follows the stream, and sees the first of the list bought.
    let ahead = Arc::new(app.shop.store());
    let mut order = app.shop.next_order(5, END);
    order.lines = vec![(first, 1, 100)];
    let publisher = Arc::new(Publisher::new(online(&address), Arc::clone(&ahead)));
    let running = tokio::spawn({
        let publisher = Arc::clone(&publisher);
        async move { publisher.run(|stream| stream.unwrap_or(0)).await }
    });
    publisher.changed(ahead.follow_chunk(&changes(&order, Op::Insert, 77)).unwrap().customers);
    until(async || !products(&app.ok(path).await).contains(&first)).await;
    assert_eq!(app.ok(path).await["degraded"], false);

    redis.kill().await.unwrap();
    let during = app.ok(path).await;
    assert_eq!((&during["degraded"], products(&during).len()), (&json!(true), 5));
    assert_eq!(products(&during), products(&before));
    redis.launch().await.unwrap();
    until(async || {
        let list = app.ok(path).await;
        list["degraded"] == false && !products(&list).contains(&first)
    })
    .await;
    running.abort();
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(60), "not after a minute");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
