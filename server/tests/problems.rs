//! Every kind of error is problem+json.

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use serde_json::json;

use crate::app::{Answer, App};

fn check(answer: &Answer, status: u16, code: &str, path: &str) {
    assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.body);
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/problem+json", "{path}");
    let body = &answer.body;
    assert_eq!((&body["status"], &body["code"]), (&json!(status), &json!(code)), "{path}: {body}");
    assert_eq!(body["type"], format!("tag:lakeward,2026:problem/{code}"));
    assert_eq!(body["instance"], path.split('?').next().unwrap());
    assert_eq!(body["request_id"], answer.headers["x-request-id"].to_str().unwrap());
    assert!(body["title"].is_string() && body["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
}

#[tokio::test]
async fn wrong_questions_are_told_what_is_wrong() {
    let app = App::trained();
    let long = format!("/api/v1/customers/1/recommendations?exclude={}", vec!["1"; 1_001].join(","));
    for (path, status, code, pointer) in [
        ("/api/v1/customers/1/recommendations?k=0", 400, "invalid_parameter", Some("k")),
        ("/api/v1/customers/1/recommendations?k=101", 400, "invalid_parameter", Some("k")),
        ("/api/v1/customers/1/recommendations?k=ten", 400, "invalid_parameter", None),
        ("/api/v1/customers/1/recommendations?exclude=1,x", 400, "invalid_parameter", None),
        (long.as_str(), 400, "invalid_parameter", Some("exclude")),
        ("/api/v1/customers/1/recommendations?repeat=maybe", 400, "invalid_parameter", None),
        ("/api/v1/customers/1/recommendations?category=cars", 400, "invalid_parameter", Some("category")),
        ("/api/v1/customers/one", 400, "invalid_parameter", None),
        ("/api/v1/customers/999999", 404, "unknown_customer", None),
        ("/api/v1/customers/999999/orders", 404, "unknown_customer", None),
        ("/api/v1/customers/999999/churn", 404, "unknown_customer", None),
        ("/api/v1/customers?limit=0", 400, "invalid_parameter", Some("limit")),
        ("/api/v1/customers/1/orders?limit=101", 400, "invalid_parameter", Some("limit")),
        ("/api/v1/products/999999/similar", 404, "unknown_product", None),
        ("/api/v1/products/1/similar?k=0", 400, "invalid_parameter", Some("k")),
        ("/api/v1/products/1/similar?category=cars", 400, "invalid_parameter", Some("category")),
        ("/api/v1/products/popular?category=cars", 400, "invalid_parameter", Some("category")),
        ("/api/v1/revenue/minutes?from=yesterday", 400, "invalid_parameter", None),
        (
            "/api/v1/revenue/minutes?from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z",
            400,
            "invalid_parameter",
            Some("from"),
        ),
        (
            "/api/v1/revenue/minutes?from=2020-02-01T00:00:00Z&to=2026-01-01T00:00:00Z",
            400,
            "invalid_parameter",
            Some("from"),
        ),
        ("/api/v1/nothing/here", 404, "not_found", None),
        ("/nothing/here", 404, "not_found", None),
    ] {
        let answer = app.get(path).await;
        check(&answer, status, code, path);
        if let Some(pointer) = pointer {
            assert_eq!(answer.body["errors"][0]["pointer"], pointer, "{path}");
        }
    }
}

#[tokio::test]
async fn wrong_bodies_are_told_what_is_wrong() {
    let app = App::trained();
    let path = "/api/v1/recommendations";
    let many = json!({"items": vec![json!({"product_id": 1}); 201]}).to_string();
    for (body, status, code) in [
        ("{", 400, "malformed_json"),
        ("{}", 422, "invalid_body"),
        (r#"{"items": [], "kk": 1}"#, 422, "invalid_body"),
        (r#"{"items": [{"product_id": "x"}]}"#, 422, "invalid_body"),
        (r#"{"items": [], "k": 0}"#, 422, "invalid_body"),
        (r#"{"items": [{"product_id": 1, "quantity": 0}]}"#, 422, "invalid_body"),
        (r#"{"items": [], "category": "cars"}"#, 422, "invalid_body"),
        (many.as_str(), 422, "invalid_body"),
    ] {
        check(&app.post(path, body.to_owned()).await, status, code, path);
    }
    check(&app.post(path, " ".repeat(70_000)).await, 413, "payload_too_large", path);
    let text = Request::post(path).header(header::CONTENT_TYPE, "text/plain").body(Body::from("{}")).unwrap();
    check(&app.send(text).await, 415, "unsupported_media_type", path);
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let app = App::trained();
    let answer = app.send(Request::delete("/api/v1/customers/1").body(Body::empty()).unwrap()).await;
    check(&answer, 405, "method_not_allowed", "/api/v1/customers/1");
    assert!(answer.headers[header::ALLOW].to_str().unwrap().contains("GET"));
}

#[tokio::test]
async fn request_ids_are_kept_if_they_are_fit_and_made_if_not() {
    let app = App::bare();
    let ask = |id: &str| Request::get("/livez").header("x-request-id", id).body(Body::empty()).unwrap();
    assert_eq!(app.send(ask("order-42")).await.headers["x-request-id"], "order-42");
    for unfit in ["", "two words", &"x".repeat(129)] {
        let answer = app.send(ask(unfit)).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers["x-request-id"].len(), 36);
    }
}
