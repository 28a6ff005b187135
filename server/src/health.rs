//! `/livez`, `/readyz` and `/metrics`.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use lakeward_online::Online;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    slot::{Availability, ModelSlot},
    state::{Context, Shared},
    value::Timestamp,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Ok,
    /// It answers, but less well than it should.
    Degraded,
    /// It cannot answer yet, or no more.
    Failing,
}

/// Whether the server can do its work: the worst of its checks.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Readiness {
    status: Status,
    checks: Vec<Check>,
    as_of: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Check {
    /// `store`, `online` (if there is one), `recommender`, `churn` or `shutdown`.
    name: &'static str,
    status: Status,
    reason: String,
}

/// Liveness
///
/// The process answers; says nothing about its data.
#[utoipa::path(get, path = "/livez", tag = "operations", operation_id = "livez",
    responses((status = 200, description = "Alive", body = String, content_type = "text/plain", example = "ok")))]
pub(crate) async fn livez() -> &'static str {
    "ok"
}

/// Readiness
///
/// Each part that answers depend on, with its state and the reason. Degraded still serves: without a recommender model
/// lists are of popular products, and without Redis features are this process's own. Failing asks for no traffic: models have not been looked for yet, the store holds
/// nothing, or the server is shutting down.
#[utoipa::path(get, path = "/readyz", tag = "operations", operation_id = "readyz",
    responses(
        (status = 200, description = "Ready, perhaps degraded", body = Readiness),
        (status = 503, description = "Not ready", body = Readiness)))]
pub(crate) async fn readyz(State(context): Shared) -> Response {
    let mut checks =
        vec![store(&context), model(&context.app.recommender), model(&context.app.churn), shutdown(&context)];
    if let Some(store) = &context.app.online {
        checks.insert(1, online(store).await);
    }
    let status = checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok);
    let code = if status == Status::Failing { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, axum::Json(Readiness { status, checks, as_of: context.app.as_of() })).into_response()
}

fn store(context: &Context) -> Check {
    let held = context.app.store.status();
    let (status, reason) = if held.products == 0 && held.orders == 0 {
        (Status::Failing, "the store holds neither products nor orders".to_owned())
    } else {
        (Status::Ok, format!("{} customers, {} products, {} orders", held.users, held.products, held.orders))
    };
    Check { name: "store", status, reason }
}

async fn online(store: &Online) -> Check {
    let (status, reason) = match store.ping().await {
        Ok(()) => (Status::Ok, "it answers".to_owned()),
        Err(error) => (Status::Degraded, format!("{error}: features are this process's own")),
    };
    Check { name: "online", status, reason }
}

fn model<M>(slot: &ModelSlot<M>) -> Check {
    let served = slot.load();
    let availability = slot.availability();
    let status = match (availability.as_ref(), &served) {
        (Availability::Loaded, _) => Status::Ok,
        (Availability::Pending, None) => Status::Failing,
        _ => Status::Degraded,
    };
    let reason = match served {
        Some(served) => format!("version {} in use; {}", served.version, availability.reason()),
        None => availability.reason(),
    };
    Check { name: slot.kind(), status, reason }
}

fn shutdown(context: &Context) -> Check {
    let (status, reason) = if context.shutdown.is_cancelled() {
        (Status::Failing, "shutting down")
    } else {
        (Status::Ok, "running")
    };
    Check { name: "shutdown", status, reason: reason.to_owned() }
}

/// Metrics
///
/// Counters, gauges and histograms of this process in Prometheus's text format.
#[utoipa::path(get, path = "/metrics", tag = "operations", operation_id = "metrics",
    responses((status = 200, description = "Metrics", body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(State(context): Shared) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], context.metrics.render())
}
