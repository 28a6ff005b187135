//! What every request passes through: its id, its measurement, its time limit, and errors written as problems.

use std::{
    any::Any,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tracing::Instrument;
use uuid::Uuid;

use crate::{problem, problem::Problem, telemetry};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MAX_REQUEST_ID: usize = 128;

/// Gives the request its id (the caller's, if it is short and printable), measures and logs it, and writes every
/// error answer as problem+json with the path and the id in it.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(&request);
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    // The route's pattern, never the path itself: labels must stay few.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |matched| matched.as_str().to_owned());
    let span = tracing::info_span!("request", %method, %route, request_id = %id);
    async move {
        let mut response = as_problem(next.run(request).await, &path, &id);
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        let status = response.status();
        let elapsed = started.elapsed();
        tracing::debug!(status = status.as_u16(), ms = elapsed.as_secs_f64() * 1e3, "answered");
        metrics::histogram!(
            telemetry::REQUEST_SECONDS,
            "method" => method_label(&method),
            "route" => route,
            "status" => status.as_str().to_owned()
        )
        .record(elapsed.as_secs_f64());
        response
    }
    .instrument(span)
    .await
}

fn request_id(request: &Request) -> String {
    request
        .headers()
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| {
            !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(|byte| byte.is_ascii_graphic())
        })
        .map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

/// Clients may send any word as a method; the label takes only those of the standard.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn as_problem(mut response: Response, path: &str, id: &str) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let mut problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        // A readiness report is no error of the request: it stays as it is.
        None if is_json(&response) => return response,
        None => Problem::of_status(status),
    };
    problem.instance = Some(path.to_owned());
    problem.request_id = Some(id.to_owned());
    let (mut parts, _) = response.into_parts();
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(problem::CONTENT_TYPE));
    parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(problem.render()))
}

fn is_json(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes() == b"application/json")
}

/// Ends a request that has no answer's head within the limit: 503, since a busy server is no fault of the client. A stream's body may go on for as long as it likes.
pub(crate) async fn time_limit(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail =
                format!("no answer within {} s: the server is busy, ask again later", limit.as_secs_f64());
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail);
            ([(header::RETRY_AFTER, HeaderValue::from_static("1"))], problem).into_response()
        }
    }
}

/// Turns a handler's panic into an answer. The panic hook has logged its message; clients do not see it.
pub(crate) fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    tracing::error!("a request handler panicked");
    Problem::internal().into_response()
}
