//! Models change while requests run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, http::Request};
use lakeward_recommender::{Model, RecommenderError};
use lakeward_server::{Availability, Champion, watch};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::app::{App, products};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn swapping_models_under_load_fails_no_request_and_mixes_no_answer() {
    let app = App::trained();
    let bytes = [app.shop.recommender(1).to_bytes(), app.shop.recommender(99).to_bytes()];
    let mut expected = Vec::new();
    for (version, bytes) in ["even", "odd"].into_iter().zip(&bytes) {
        app.state.recommender.set(version, Model::from_bytes(bytes).unwrap());
        expected.push(app.ok("/api/v1/customers/5/recommendations?k=20").await);
    }
    assert_ne!(expected[0]["recommendations"], expected[1]["recommendations"], "the two models differ");

    let done = Arc::new(AtomicBool::new(false));
    let seen = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (router, done, seen, expected) =
                (app.router.clone(), Arc::clone(&done), Arc::clone(&seen), expected.clone());
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let request =
                        Request::get("/api/v1/customers/5/recommendations?k=20").body(Body::empty()).unwrap();
                    let response = router.clone().oneshot(request).await.unwrap();
                    assert!(response.status().is_success());
                    let body = axum::body::to_bytes(response.into_body(), 1_000_000).await.unwrap();
                    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    let which = usize::from(answer["model_version"] == "odd");
                    assert_eq!(answer, expected[which]);
                    seen[which].fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut swaps = 0;
    while swaps < 100 || seen.iter().any(|count| count.load(Ordering::Relaxed) < 20) {
        let (version, bytes) = if swaps % 2 == 0 { ("even", &bytes[0]) } else { ("odd", &bytes[1]) };
        app.state.recommender.set(version, Model::from_bytes(bytes).unwrap());
        swaps += 1;
        tokio::task::yield_now().await;
        assert!(!clients.iter().any(tokio::task::JoinHandle::is_finished), "a client gave up");
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
}

/// What the registry of the test holds: an ETag, a version and a model's bytes.
type Held = Arc<std::sync::Mutex<Option<(String, String, Vec<u8>)>>>;

#[tokio::test]
async fn the_watcher_follows_the_champion_and_refuses_what_it_cannot_read() {
    let app = App::bare();
    let held: Held = Arc::default();
    let shutdown = CancellationToken::new();
    let watcher = tokio::spawn({
        let (slot, shutdown) = (Arc::clone(&app.state.recommender), shutdown.clone());
        let (asked, loaded) = (Arc::clone(&held), Arc::clone(&held));
        async move {
            watch(
                &slot,
                Duration::from_millis(2),
                shutdown,
                || async { Ok::<_, RecommenderError>(asked.lock().unwrap().clone().map(|(etag, ..)| etag)) },
                || async {
                    let Some((etag, version, bytes)) = loaded.lock().unwrap().clone() else {
                        return Ok(None);
                    };
                    Model::from_bytes(&bytes).map(|model| Some(Champion { etag, version, model }))
                },
            )
            .await;
        }
    });
    let until = async |wanted: &dyn Fn(&Availability) -> bool| {
        while !wanted(&app.state.recommender.availability()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let list = "/api/v1/customers/5/recommendations";
    until(&|now| *now == Availability::Absent).await;
    assert_eq!(app.ok(list).await["fallback_reason"], "no_model");

    let good = app.shop.recommender(1).to_bytes();
    *held.lock().unwrap() = Some(("a".to_owned(), "v1".to_owned(), good.clone()));
    until(&|now| *now == Availability::Loaded).await;
    let served = app.ok(list).await;
    assert_eq!((&served["model_version"], products(&served).len()), (&json!("v1"), 10));

    let mut damaged = good.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    *held.lock().unwrap() = Some(("b".to_owned(), "v2".to_owned(), damaged));
    until(&|now| matches!(now, Availability::Refused(_))).await;
    assert_eq!(app.ok(list).await, served, "the old model goes on");
    let ready = app.get("/readyz").await.body;
    assert_eq!(ready["checks"][1]["status"], "degraded");
    assert!(ready["checks"][1]["reason"].as_str().unwrap().contains("version v1 in use"));

    *held.lock().unwrap() = Some(("c".to_owned(), "v3".to_owned(), good));
    until(&|now| *now == Availability::Loaded).await;
    assert_eq!(app.ok(list).await["model_version"], "v3");
    shutdown.cancel();
    watcher.await.unwrap();
}
