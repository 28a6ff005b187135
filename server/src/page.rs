//! The page at `/`: files embedded in the program, no build step, nothing from elsewhere.

use axum::{
    Router,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};

/// Scripts, styles and data from this server only; no inline script, no frames, no forms elsewhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(|| file("text/html; charset=utf-8", include_str!("../page/index.html"))))
        .route("/app.js", get(|| file("text/javascript; charset=utf-8", include_str!("../page/app.js"))))
        .route("/chart.js", get(|| file("text/javascript; charset=utf-8", include_str!("../page/chart.js"))))
        .route("/app.css", get(|| file("text/css; charset=utf-8", include_str!("../page/app.css"))))
        .route("/icon.svg", get(|| file("image/svg+xml", include_str!("../page/icon.svg"))))
}

async fn file(content_type: &'static str, content: &'static str) -> Response {
    let mut response = content.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // The files change with the program only, but under the same names.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
