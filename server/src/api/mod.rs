//! The routes under `/api/v1` and their document.

mod answer;
mod customers;
mod events;
mod features;
mod lists;
mod live;
mod revenue;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{health, problem::Problem, state::Context};

const MAX_K: usize = 100;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Lakeward",
        description = "Recommendations, churn risk, customers and revenue of a shop, kept current by its change \
                       stream. Every answer names the moment it is about in `as_of`. Amounts are decimal strings, \
                       times RFC 3339 in UTC. Errors are problem details (RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(Problem)),
    tags(
        (name = "customers", description = "Who buys, what they bought, what they may buy next, whether they may leave"),
        (name = "features", description = "Feature values as models use them, from the online store"),
        (name = "recommendations", description = "Lists of products"),
        (name = "revenue", description = "Revenue by the minute, and live"),
        (name = "events", description = "Behaviour events come in"),
        (name = "operations", description = "Health and metrics")
    )
)]
struct Document;

/// Routes with their document. Routes are added with `routes!` only, so that none is undocumented.
pub(crate) fn documented() -> OpenApiRouter<Arc<Context>> {
    let api = OpenApiRouter::new()
        .routes(routes!(customers::list))
        .routes(routes!(customers::profile))
        .routes(routes!(customers::orders))
        .routes(routes!(customers::churn_risk))
        .routes(routes!(features::of_customer))
        .routes(routes!(features::of_many))
        .routes(routes!(lists::for_customer))
        .routes(routes!(lists::for_session))
        .routes(routes!(lists::similar))
        .routes(routes!(lists::popular))
        .routes(routes!(revenue::minutes))
        .routes(routes!(live::stream));
    let events =
        OpenApiRouter::new().routes(routes!(events::take)).layer(DefaultBodyLimit::max(events::BODY_BYTES));
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .nest("/api/v1", api.merge(events))
}
