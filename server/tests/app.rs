//! A server over the made-up shop, asked in process.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode, header},
};
use lakeward_features::MemoryStore;
use lakeward_server::{AppState, Clock, Limits, router};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::shop::{SMALL, Shop};

pub struct App {
    pub shop: Shop,
    pub store: Arc<MemoryStore>,
    pub state: AppState,
    pub router: Router,
    pub shutdown: CancellationToken,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl App {
    /// Without models.
    pub fn bare() -> Self {
        let shop = Shop::new(SMALL, 7);
        let store = Arc::new(shop.store());
        let state = AppState::new(Arc::clone(&store) as _, Clock::Stream);
        let shutdown = CancellationToken::new();
        let router = router(state.clone(), Limits::default(), shutdown.clone()).expect("metrics are ours");
        Self { shop, store, state, router, shutdown }
    }

    /// With both models.
    pub fn trained() -> Self {
        let app = Self::bare();
        app.state.recommender.set("r1", app.shop.recommender(1));
        app.state.churn.set("c1", app.shop.churn());
        app
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("the router never fails");
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 10_000_000).await.expect("a body in memory");
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).expect("a valid path")).await
    }

    /// The body of an answer that must be 200.
    pub async fn ok(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
        answer.body
    }

    pub async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json").body(body.into());
        self.send(request.expect("a valid path")).await
    }
}

/// The ids of a list's products, in order.
pub fn products(list: &Value) -> Vec<i64> {
    let rows = list["recommendations"].as_array().expect("a list");
    rows.iter().map(|row| row["product_id"].as_i64().expect("an id")).collect()
}
