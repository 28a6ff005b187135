//! `revenue/minutes`: what the orders of each minute are worth.

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Checked, Minute};
use crate::{extract::Parameters, problem::Problem, state::Shared, value::Timestamp};

pub(super) const MINUTE: i64 = 60_000_000;
const MAX_SPAN_DAYS: i64 = 31;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Span {
    /// The first minute; an hour before `to` unless given.
    from: Option<DateTime<Utc>>,
    /// The end, not included; the end of the current minute unless given.
    to: Option<DateTime<Utc>>,
}

/// Revenue by the minute in which orders were placed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RevenueMinutes {
    from: Timestamp,
    to: Timestamp,
    /// Minutes with orders, in time order. Those without are left out.
    minutes: Vec<Minute>,
    as_of: Timestamp,
}

/// Revenue per minute
///
/// The amounts of the kept orders by the minute of their `created_at`: a cancelled or returned order leaves its own minute.
#[utoipa::path(get, path = "/revenue/minutes", tag = "revenue", operation_id = "list_revenue_minutes", params(Span),
    responses((status = 200, description = "The minutes", body = RevenueMinutes), Checked))]
pub(super) async fn minutes(
    State(context): Shared,
    Parameters(span): Parameters<Span>,
) -> Result<axum::Json<RevenueMinutes>, Problem> {
    let as_of = context.app.as_of();
    let to = span.to.map_or_else(|| end_of_minute(as_of.0), |to| to.timestamp_micros());
    let from = span.from.map_or_else(|| to.saturating_sub(60 * MINUTE), |from| from.timestamp_micros());
    if from >= to {
        return Err(Problem::invalid_parameter("from", "must be before `to`"));
    }
    if to.saturating_sub(from) > MAX_SPAN_DAYS * 24 * 60 * MINUTE {
        return Err(Problem::invalid_parameter(
            "from",
            format!("must be at most {MAX_SPAN_DAYS} days before `to`"),
        ));
    }
    let minutes = context.app.store.revenue_minutes(from, to).into_iter().map(Minute::from).collect();
    Ok(axum::Json(RevenueMinutes { from: Timestamp(from), to: Timestamp(to), minutes, as_of }))
}

/// The end of the minute that holds `time`, microseconds.
pub(super) fn end_of_minute(time: i64) -> i64 {
    time.div_euclid(MINUTE).saturating_add(1).saturating_mul(MINUTE)
}
