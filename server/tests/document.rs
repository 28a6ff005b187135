//! The OpenAPI document and the router say the same.

use std::collections::BTreeSet;

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use serde_json::{Value, json};

use crate::{
    app::App,
    events::{Log, event},
};

fn document() -> Value {
    serde_json::to_value(lakeward_server::openapi()).unwrap()
}

/// Each operation as (method, path, operation).
fn operations(document: &Value) -> Vec<(Method, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().iter().map(move |(method, operation)| {
                (method.to_uppercase().parse().unwrap(), path.clone(), operation.clone())
            })
        })
        .collect()
}

#[test]
fn the_document_changes_only_on_purpose() {
    insta::assert_json_snapshot!("openapi", document());
}

#[tokio::test]
async fn it_is_served_as_3_1() {
    let app = App::bare();
    let served = app.ok("/api-docs/openapi.json").await;
    assert_eq!(served, document());
    assert!(served["openapi"].as_str().unwrap().starts_with("3.1"));
}

#[tokio::test]
async fn every_documented_operation_exists_and_answers_as_documented() {
    let app = App::trained().taking_events(Log::default());
    let operations = operations(&document());
    assert!(operations.len() >= 13);
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations {
        assert!(
            ids.insert(operation["operationId"].as_str().unwrap().to_owned()),
            "{path}: operation id used twice"
        );
        let uri = path.replace("{user_id}", "5").replace("{product_id}", "1");
        let body = match (&method, path.as_str()) {
            (&Method::POST, "/api/v1/events") => event().to_string(),
            (&Method::POST, _) => json!({"items": [{"product_id": 1}]}).to_string(),
            _ => String::new(),
        };
        let request = Request::builder()
            .method(&method)
            .uri(&uri)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .unwrap();
        let response = tower::ServiceExt::oneshot(app.router.clone(), request).await.unwrap();
        let status = if path == "/api/v1/events" { StatusCode::ACCEPTED } else { StatusCode::OK };
        assert_eq!(response.status(), status, "{method} {path}");
        let content = operation["responses"][status.as_str()]["content"].as_object().unwrap();
        let given = response.headers()[header::CONTENT_TYPE].to_str().unwrap();
        let given = given.split(';').next().unwrap();
        assert!(content.contains_key(given), "{method} {path} answers {given}, which is not in the document");
    }
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    if let ("$ref", Some(target)) = (key.as_str(), value.as_str()) {
                        found.insert(target.to_owned());
                    }
                    references(value, found);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.contains("#/components/schemas/Problem"));
    for target in found {
        assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target} is missing");
    }
}

/// axum tells its routes in its debug output only; should that change, this test fails rather than passes.
#[test]
fn every_route_is_documented_except_the_page_and_the_documentation_itself() {
    let app = App::bare();
    let debug = format!("{:?}", app.router);
    let routes: BTreeSet<String> = debug
        .split('"')
        .filter(|part| part.starts_with('/') && !part.contains("axum_fallback"))
        .map(str::to_owned)
        .collect();
    let page = ["/", "/app.js", "/chart.js", "/app.css", "/icon.svg"];
    let documentation = ["/docs", "/docs/", "/docs/{*rest}", "/api-docs/openapi.json"];
    let documented: BTreeSet<String> = operations(&document())
        .into_iter()
        .map(|(_, path, _)| path)
        .chain(page.into_iter().chain(documentation).map(str::to_owned))
        .collect();
    assert_eq!(routes, documented);
}
