//! `customers/…`: who bought last, profile, orders, churn risk.

use std::collections::HashSet;

use axum::{extract::State, http::StatusCode};
use lakeward_features::Customer;
use lakeward_propensity::Reason;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::answer::{Checked, Order};
use crate::{
    churn,
    extract::{Parameters, Path},
    problem::Problem,
    slot::Availability,
    state::{Context, Shared},
    value::{Money, Timestamp},
};

const MAX_LIMIT: usize = 100;
/// How far back recent buyers are looked for.
const RECENT_ORDERS: usize = 2_000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Limit {
    /// How many at most.
    #[serde(default = "default_limit")]
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: usize,
}

fn default_limit() -> usize {
    20
}

impl Limit {
    fn checked(&self) -> Result<usize, Problem> {
        if (1..=MAX_LIMIT).contains(&self.limit) {
            Ok(self.limit)
        } else {
            Err(Problem::invalid_parameter("limit", format!("must be from 1 to {MAX_LIMIT}")))
        }
    }
}

/// Customers who bought last, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RecentCustomers {
    customers: Vec<RecentCustomer>,
    as_of: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RecentCustomer {
    user_id: i64,
    name: Option<String>,
    last_order_at: Timestamp,
}

/// Recent buyers
///
/// The customers with the newest orders, newest first: some to start with.
#[utoipa::path(get, path = "/customers", tag = "customers", operation_id = "list_customers", params(Limit),
    responses((status = 200, description = "Recent buyers", body = RecentCustomers), Checked))]
pub(super) async fn list(
    State(context): Shared,
    Parameters(limit): Parameters<Limit>,
) -> Result<axum::Json<RecentCustomers>, Problem> {
    let limit = limit.checked()?;
    let (store, as_of) = (&context.app.store, context.app.as_of());
    let mut seen = HashSet::new();
    let customers = store
        .newest_orders(RECENT_ORDERS)
        .into_iter()
        .filter_map(|order| Some((order.user_id?, order.created_at)))
        .filter(|(user_id, _)| seen.insert(*user_id))
        .take(limit)
        .map(|(user_id, last_order_at)| RecentCustomer {
            user_id,
            name: store.customer(user_id, as_of.0).and_then(|customer| customer.name),
            last_order_at: Timestamp(last_order_at),
        })
        .collect();
    Ok(axum::Json(RecentCustomers { customers, as_of }))
}

/// A customer with what their orders say about them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Profile {
    user_id: i64,
    name: Option<String>,
    created_at: Option<Timestamp>,
    last_login: Option<Timestamp>,
    /// All orders, also those cancelled or returned.
    orders: u64,
    /// Orders that are neither cancelled nor returned: the F of RFM.
    frequency: u64,
    /// What the kept orders are worth: the M of RFM.
    monetary: Money,
    /// Whole days since the newest kept order: the R of RFM.
    recency_days: Option<i64>,
    first_order_at: Option<Timestamp>,
    last_order_at: Option<Timestamp>,
    rfm: Option<Rfm>,
    as_of: Timestamp,
}

/// Quintile scores from 1 (worst) to 5 (best), and the group they place the customer in.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Rfm {
    #[schema(minimum = 1, maximum = 5)]
    recency_score: u8,
    #[schema(minimum = 1, maximum = 5)]
    frequency_score: u8,
    #[schema(minimum = 1, maximum = 5)]
    monetary_score: u8,
    #[schema(example = "loyal")]
    segment: String,
}

impl Profile {
    fn of(customer: Customer, as_of: Timestamp) -> Self {
        Self {
            user_id: customer.user_id,
            name: customer.name,
            created_at: customer.created_at.map(Timestamp),
            last_login: customer.last_login.map(Timestamp),
            orders: customer.orders,
            frequency: customer.kept_orders,
            monetary: Money(customer.monetary),
            recency_days: customer.recency_days,
            first_order_at: customer.first_order_at.map(Timestamp),
            last_order_at: customer.last_order_at.map(Timestamp),
            rfm: customer.rfm.map(|rfm| Rfm {
                recency_score: rfm.recency_score,
                frequency_score: rfm.frequency_score,
                monetary_score: rfm.monetary_score,
                segment: rfm.segment.to_string(),
            }),
            as_of,
        }
    }
}

fn customer(context: &Context, user_id: i64, as_of: Timestamp) -> Result<Customer, Problem> {
    context.app.store.customer(user_id, as_of.0).ok_or_else(|| Problem::unknown_customer(user_id))
}

/// Profile
///
/// A customer with recency, frequency and monetary value up to this moment.
#[utoipa::path(get, path = "/customers/{user_id}", tag = "customers", operation_id = "get_customer",
    params(("user_id" = i64, Path, description = "The customer's id in the shop")),
    responses(
        (status = 200, description = "The profile", body = Profile),
        (status = 404, description = "No such customer", body = Problem, content_type = "application/problem+json"),
        Checked))]
pub(super) async fn profile(
    State(context): Shared,
    Path(user_id): Path<i64>,
) -> Result<axum::Json<Profile>, Problem> {
    let as_of = context.app.as_of();
    Ok(axum::Json(Profile::of(customer(&context, user_id, as_of)?, as_of)))
}

/// A customer's orders, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Orders {
    user_id: i64,
    orders: Vec<Order>,
    as_of: Timestamp,
}

/// Purchase history
///
/// A customer's newest orders with their lines, in every status.
#[utoipa::path(get, path = "/customers/{user_id}/orders", tag = "customers", operation_id = "list_customer_orders",
    params(("user_id" = i64, Path, description = "The customer's id in the shop"), Limit),
    responses(
        (status = 200, description = "The orders", body = Orders),
        (status = 404, description = "No such customer", body = Problem, content_type = "application/problem+json"),
        Checked))]
pub(super) async fn orders(
    State(context): Shared,
    Path(user_id): Path<i64>,
    Parameters(limit): Parameters<Limit>,
) -> Result<axum::Json<Orders>, Problem> {
    let limit = limit.checked()?;
    let as_of = context.app.as_of();
    let name = customer(&context, user_id, as_of)?.name;
    let store = context.app.store.as_ref();
    let orders =
        store.orders(user_id, limit).into_iter().map(|order| Order::of(order, name.clone(), store)).collect();
    Ok(axum::Json(Orders { user_id, orders, as_of }))
}

/// How likely a customer is to place no kept order within the horizon.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Churn {
    user_id: i64,
    /// From 0 to 1; null for a customer who has no kept order and so cannot leave.
    #[schema(minimum = 0, maximum = 1)]
    churn_probability: Option<f64>,
    /// How many days ahead the probability looks.
    horizon_days: u32,
    /// What moves the probability most for this customer, strongest first.
    reasons: Vec<ChurnReason>,
    model_version: String,
    as_of: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChurnReason {
    /// The feature's name in `user_activity`.
    #[schema(example = "recency_days")]
    feature: String,
    /// The feature's value for this customer.
    value: f64,
    /// The feature's value for a typical customer.
    typical: f64,
    /// What it adds to the log-odds of leaving, against the average customer; negative speaks for staying.
    contribution: f64,
    /// The same in words.
    text: String,
}

/// Churn risk
///
/// The probability that the customer places no order within the model's horizon, from their activity up to this moment.
#[utoipa::path(get, path = "/customers/{user_id}/churn", tag = "customers", operation_id = "get_customer_churn",
    params(("user_id" = i64, Path, description = "The customer's id in the shop")),
    responses(
        (status = 200, description = "The risk", body = Churn),
        (status = 404, description = "No such customer", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "No model is in use yet", body = Problem, content_type = "application/problem+json"),
        Checked))]
pub(super) async fn churn_risk(
    State(context): Shared,
    Path(user_id): Path<i64>,
) -> Result<axum::Json<Churn>, Problem> {
    let as_of = context.app.as_of();
    customer(&context, user_id, as_of)?;
    let served = context.app.churn.load().ok_or_else(|| no_churn_model(&context.app.churn.availability()))?;
    let risk = match context.app.store.activity(user_id, as_of.0) {
        None => None,
        Some(activity) => Some(churn::assess(&served.model, &activity).map_err(|error| {
            tracing::error!(%error, version = served.version, "the churn model does not fit the features");
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "model_mismatch",
                "the churn model in use does not fit this server's features; train it anew",
            )
        })?),
    };
    let (churn_probability, reasons) =
        risk.map_or((None, Vec::new()), |risk| (Some(risk.probability), risk.reasons));
    Ok(axum::Json(Churn {
        user_id,
        churn_probability,
        horizon_days: served.model.params().horizon_days,
        reasons: reasons.into_iter().map(ChurnReason::from).collect(),
        model_version: served.version.clone(),
        as_of,
    }))
}

impl From<Reason> for ChurnReason {
    fn from(reason: Reason) -> Self {
        Self {
            text: churn::text(&reason),
            value: reason.value,
            typical: reason.typical,
            contribution: reason.contribution,
            feature: reason.feature,
        }
    }
}

fn no_churn_model(availability: &Availability) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "no_model",
        format!("there is no churn model to answer with: {}", availability.reason()),
    )
}
