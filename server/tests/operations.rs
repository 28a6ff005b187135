//! Health, metrics, documentation and the page.

use std::sync::Arc;

use axum::http::{StatusCode, header};
use lakeward_features::{MemoryStore, ShopBatches};
use lakeward_server::{AppState, Clock, Limits, router};
use serde_json::json;

use crate::app::App;

#[tokio::test]
async fn readiness_names_each_part_and_its_reason() {
    let app = App::bare();
    assert_eq!(app.ok("/livez").await, "ok");
    let pending = app.get("/readyz").await;
    assert_eq!(
        (pending.status, &pending.body["status"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("failing"))
    );
    let names: Vec<_> =
        pending.body["checks"].as_array().unwrap().iter().map(|check| check["name"].clone()).collect();
    assert_eq!(names, ["store", "recommender", "churn", "shutdown"]);
    assert!(pending.body["checks"].as_array().unwrap().iter().all(|check| check["reason"].is_string()));

    app.state.recommender.mark_absent();
    app.state.churn.mark_absent();
    let absent = app.get("/readyz").await;
    assert_eq!((absent.status, &absent.body["status"]), (StatusCode::OK, &json!("degraded")));

    app.state.recommender.set("r1", app.shop.recommender(1));
    app.state.churn.set("c1", app.shop.churn());
    let ready = app.ok("/readyz").await;
    assert_eq!((&ready["status"], &ready["checks"][2]["status"]), (&json!("ok"), &json!("ok")));

    app.shutdown.cancel();
    assert_eq!(app.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn an_empty_shop_is_not_ready_and_its_lists_are_empty() {
    let mut app = App::bare();
    app.state =
        AppState::new(Arc::new(MemoryStore::from_batches(&ShopBatches::default()).unwrap()), Clock::Stream);
    app.router = router(app.state.clone(), Limits::default(), app.shutdown.clone()).unwrap();
    assert_eq!(app.get("/readyz").await.body["checks"][0]["status"], "failing");
    let list = app.ok("/api/v1/customers/1/recommendations").await;
    assert_eq!((&list["recommendations"], &list["fallback"]), (&json!([]), &json!(true)));
    assert_eq!(app.ok("/api/v1/customers").await["customers"], json!([]));
}

#[tokio::test]
async fn metrics_count_requests_by_route_and_never_by_path() {
    let app = App::trained();
    app.ok("/api/v1/customers/17/recommendations").await;
    app.get("/no/such/path").await;
    let answer = app.get("/metrics").await;
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.body.as_str().unwrap().to_owned();
    let counted = |route: &str, status: &str| {
        text.lines().any(|line| {
            line.starts_with("lakeward_http_request_duration_seconds_bucket{")
                && [format!("route=\"{route}\""), format!("status=\"{status}\""), "method=\"GET\"".to_owned()]
                    .iter()
                    .all(|label| line.contains(label))
        })
    };
    assert!(counted("/api/v1/customers/{user_id}/recommendations", "200"), "{text}");
    assert!(counted("unmatched", "404"), "{text}");
    assert!(!text.contains("customers/17"));
    assert!(
        text.contains("lakeward_recommendation_lists_total{kind=\"customer\",fallback=\"false\"}"),
        "{text}"
    );
    assert!(text.contains("lakeward_model_loads_total{kind=\"recommender\",outcome=\"loaded\"}"), "{text}");
}

#[tokio::test]
async fn the_page_is_whole_and_keeps_to_itself() {
    let app = App::bare();
    let page = app.get("/").await;
    assert_eq!(page.status, StatusCode::OK);
    let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"));
    let html = page.body.as_str().unwrap();
    assert!(!html.contains("style=") && !html.contains("onclick="), "the policy would block it");
    for (file, content_type) in [
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/chart.js", "text/javascript; charset=utf-8"),
        ("/app.css", "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let answer = app.get(file).await;
        assert_eq!(
            (answer.status, answer.headers[header::CONTENT_TYPE].to_str().unwrap()),
            (StatusCode::OK, content_type)
        );
        let text = answer.body.as_str().unwrap();
        assert!(
            !text.replace("http://www.w3.org/2000/svg", "").contains("http"),
            "{file} refers to another place"
        );
        assert!(!text.contains("innerHTML") && !text.contains("insertAdjacentHTML"), "{file} writes markup");
    }
}

#[tokio::test]
async fn the_documentation_is_served_from_here() {
    let app = App::bare();
    let docs = app.get("/docs/").await;
    assert_eq!(docs.status, StatusCode::OK);
    assert!(docs.body.as_str().unwrap().contains("swagger-ui"));
    assert_eq!(app.get("/docs/swagger-ui-bundle.js").await.status, StatusCode::OK);
}
