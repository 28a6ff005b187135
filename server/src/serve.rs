//! Puts the routes together and serves them.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderValue, header},
    middleware::{from_fn, from_fn_with_state, map_response},
    response::Response,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_swagger_ui::SwaggerUi;

use crate::{
    api, middleware, page,
    state::{AppState, Context},
    telemetry::{self, MetricsError},
};

/// How often the metrics recorder folds what it has gathered, so that it does not grow between scrapes.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// What the server allows a client.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Time for a request to be complete and answered; streams, once begun, may go on.
    pub request_timeout: Duration,
    /// Largest request body, bytes.
    pub body_bytes: usize,
    /// Time that requests under way have to end after shutdown was asked for.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(10),
            body_bytes: 64 * 1024,
            drain: Duration::from_secs(10),
        }
    }
}

/// The server could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot accept connections")]
    Accept(#[source] std::io::Error),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// Serves until `shutdown`, then lets requests under way end and closes live streams.
///
/// # Errors
/// Connections can no longer be accepted, or another metrics recorder is installed in this process.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    limits: Limits,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let metrics = telemetry::install_metrics()?;
    let router = router(state, limits, shutdown.clone())?;
    let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(limits.drain).await;
    };
    let upkeep = async {
        loop {
            tokio::time::sleep(METRICS_UPKEEP).await;
            metrics.run_upkeep();
        }
    };
    tokio::select! {
        served = serving => served.map_err(ServeError::Accept),
        () = drained => {
            tracing::warn!(after = ?limits.drain, "requests were still under way at shutdown");
            Ok(())
        }
        () = upkeep => Ok(()),
    }
}

/// Serves `/livez` and `/metrics` alone, for a process that has no API, until `shutdown`.
///
/// # Errors
/// As [`serve`].
pub async fn serve_metrics(listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
    let metrics = telemetry::install_metrics()?;
    let rendered = metrics.clone();
    let router = Router::new()
        .route("/livez", get(async || "ok"))
        .route("/metrics", get(async move || rendered.render()));
    let upkeep = async {
        loop {
            tokio::time::sleep(METRICS_UPKEEP).await;
            metrics.run_upkeep();
        }
    };
    let serving = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
    tokio::select! {
        served = serving => served.map_err(ServeError::Accept),
        () = upkeep => Ok(()),
    }
}

/// All routes: the API, its document at `/api-docs/openapi.json` and `/docs`, health, metrics and the page.
///
/// # Errors
/// Another metrics recorder is installed in this process.
pub fn router(state: AppState, limits: Limits, shutdown: CancellationToken) -> Result<Router, MetricsError> {
    let context = Arc::new(Context::new(state, telemetry::install_metrics()?, shutdown));
    let (documented, document) = api::documented().split_for_parts();
    let routes = documented
        .merge(page::routes())
        .merge(SwaggerUi::new("/docs").url("/api-docs/openapi.json", document))
        .with_state(context);
    Ok(layered(routes, &limits))
}

/// What every request passes through, the outermost last.
fn layered(routes: Router, limits: &Limits) -> Router {
    routes
        .layer(DefaultBodyLimit::max(limits.body_bytes))
        .layer(from_fn_with_state(limits.request_timeout, middleware::time_limit))
        .layer(CatchPanicLayer::custom(middleware::panicked))
        .layer(from_fn(middleware::observe))
        .layer(map_response(no_sniffing))
}

/// The OpenAPI 3.1 document of the API.
pub fn openapi() -> utoipa::openapi::OpenApi {
    api::documented().into_openapi()
}

async fn no_sniffing(mut response: Response) -> Response {
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, to_bytes},
        http::{Request, StatusCode},
        routing::post,
    };
    use tower::ServiceExt;

    use super::*;

    /// Routes that misbehave, behind the layers of the server.
    fn misbehaving() -> Router {
        let limits =
            Limits { request_timeout: Duration::from_millis(20), body_bytes: 8, ..Limits::default() };
        let routes = Router::new()
            .route("/panic", get(|| async { panic!("secret: customer 7") as &'static str }))
            .route("/slow", get(std::future::pending::<&'static str>))
            .route("/bytes", post(|_: axum::body::Bytes| async { "taken" }));
        layered(routes, &limits)
    }

    async fn problem_of(request: Request<Body>) -> serde_json::Value {
        let response = misbehaving().oneshot(request).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        let (parts, body) = response.into_parts();
        let problem: serde_json::Value =
            serde_json::from_slice(&to_bytes(body, 10_000).await.unwrap()).unwrap();
        assert_eq!(problem["status"], parts.status.as_u16());
        assert_eq!(problem["request_id"], parts.headers["x-request-id"].to_str().unwrap());
        problem
    }

    #[tokio::test]
    async fn a_panic_is_a_500_that_tells_nothing() {
        let problem = problem_of(Request::get("/panic").body(Body::empty()).unwrap()).await;
        assert_eq!((&problem["status"], &problem["code"]), (&500.into(), &"internal_error".into()));
        assert!(!problem.to_string().contains("secret"));
    }

    #[tokio::test]
    async fn a_handler_that_never_ends_is_a_503() {
        let problem = problem_of(Request::get("/slow").body(Body::empty()).unwrap()).await;
        assert_eq!((&problem["status"], &problem["code"]), (&503.into(), &"timeout".into()));
        assert_eq!(problem["instance"], "/slow");
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_a_413() {
        let problem = problem_of(Request::post("/bytes").body(Body::from("123456789")).unwrap()).await;
        assert_eq!((&problem["status"], &problem["code"]), (&413.into(), &"payload_too_large".into()));
        let taken = misbehaving()
            .oneshot(Request::post("/bytes").body(Body::from("12345678")).unwrap())
            .await
            .unwrap();
        assert_eq!(taken.status(), StatusCode::OK);
    }
}
