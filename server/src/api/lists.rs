//! Lists of products: for a customer, for an anonymous session, similar to a product, popular.

use std::sync::Arc;

use axum::extract::State;
use lakeward_recommender::{Reason, RepeatPolicy};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use utoipa::{IntoParams, ToSchema};

use super::{MAX_K, answer::Checked};
use crate::{
    extract::{Json, Parameters, Path},
    features,
    lists::{self, Fallback, List, NoSuchCategory, Wanted},
    problem::Problem,
    state::{Context, Shared},
    telemetry,
    value::{Money, Timestamp},
};

const MAX_EXCLUDED: usize = 1_000;
const MAX_ITEMS: usize = 200;

/// Whether products that were bought before may be recommended again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Repeat {
    Allow,
    Exclude,
}

impl From<Repeat> for RepeatPolicy {
    fn from(repeat: Repeat) -> Self {
        match repeat {
            Repeat::Allow => Self::Allow,
            Repeat::Exclude => Self::Exclude,
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct CustomerQuery {
    /// How many products.
    #[serde(default = "default_k")]
    #[param(minimum = 1, maximum = 100, default = 10)]
    k: usize,
    /// Products to leave out: ids, separated by commas.
    #[serde(default, deserialize_with = "ids")]
    #[param(style = Form, explode = false, max_items = 1000, required = false)]
    exclude: Vec<i64>,
    /// Only products of this category.
    category: Option<String>,
    /// Whether products that the customer bought before may be recommended again.
    #[serde(default = "allow")]
    #[param(inline, default = "allow", required = false)]
    repeat: Repeat,
    /// Whether to give reasons.
    #[serde(default)]
    #[param(default = false, required = false)]
    explain: bool,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// How many products.
    #[serde(default = "default_k")]
    #[param(minimum = 1, maximum = 100, default = 10)]
    k: usize,
    /// Only products of this category.
    category: Option<String>,
}

fn default_k() -> usize {
    10
}

fn allow() -> Repeat {
    Repeat::Allow
}

fn exclude() -> Repeat {
    Repeat::Exclude
}

pub(super) fn ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.split(',')
        .map(str::trim)
        .filter(|id| !id.is_empty())
        .map(|id| id.parse().map_err(|_| D::Error::custom("expected ids, whole numbers separated by commas")))
        .collect()
}

/// What lies in an anonymous visitor's session, and what is wanted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    /// Products looked at or put in the cart; those the shop does not have are named in the answer.
    #[schema(max_items = 200)]
    items: Vec<SessionItem>,
    /// How many products.
    #[serde(default = "default_k")]
    #[schema(minimum = 1, maximum = 100, default = 10)]
    k: usize,
    /// Products to leave out.
    #[serde(default)]
    #[schema(max_items = 1000)]
    exclude: Vec<i64>,
    /// Only products of this category.
    #[serde(default)]
    category: Option<String>,
    /// Whether the session's own products may be recommended.
    #[serde(default = "exclude")]
    #[schema(inline, default = "exclude")]
    repeat: Repeat,
    /// Whether to give reasons.
    #[serde(default)]
    explain: bool,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionItem {
    product_id: i64,
    #[serde(default = "one")]
    #[schema(minimum = 1, default = 1)]
    quantity: u32,
}

fn one() -> u32 {
    1
}

/// Products, best first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Recommendations {
    /// Whom the list is for; absent for sessions and general lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<i64>,
    /// What the list starts from; absent unless products similar to one were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    product_id: Option<i64>,
    recommendations: Vec<Recommended>,
    /// The list is not personal (or, for similar products, not about this one) but the most popular products.
    fallback: bool,
    /// Why the list is a fallback.
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback_reason: Option<Fallback>,
    /// The customer's newest orders may be missing: the online store, which has them first, does not answer.
    degraded: bool,
    /// Products of the session that the shop does not have; they were left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown_products: Vec<i64>,
    /// The model that made the list; null if none did.
    model_version: Option<String>,
    as_of: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Recommended {
    product_id: i64,
    name: Option<String>,
    category: Option<String>,
    price: Option<Money>,
    /// Higher is better; comparable within one list only. Null for products that only complete the list.
    score: Option<f64>,
    /// Given if `explain` was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<Why>,
}

/// Why a product is in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Why {
    /// `bought`: the customer buys it; `because`: it goes with another product of theirs; `popular`: many buy it.
    #[schema(example = "because")]
    kind: &'static str,
    /// The reason in words.
    text: String,
    /// The other product of `because`.
    #[serde(skip_serializing_if = "Option::is_none")]
    product_id: Option<i64>,
}

impl Recommendations {
    fn of(context: &Context, list: List, kind: &'static str, as_of: Timestamp) -> Self {
        let fallback = if list.fallback.is_some() { "true" } else { "false" };
        metrics::counter!(telemetry::LISTS, "kind" => kind, "fallback" => fallback).increment(1);
        let store = &context.app.store;
        let recommendations = list
            .ranked
            .into_iter()
            .map(|ranked| {
                let product = store.product(ranked.product_id);
                let (name, category, price) = product
                    .map_or((None, None, None), |product| (product.name, product.category, product.price));
                Recommended {
                    product_id: ranked.product_id,
                    name,
                    category,
                    price: price.map(Money),
                    score: ranked.score,
                    reasons: ranked.reasons.iter().map(|reason| Why::of(context, reason)).collect(),
                }
            })
            .collect();
        Self {
            user_id: None,
            product_id: None,
            recommendations,
            fallback: list.fallback.is_some(),
            fallback_reason: list.fallback,
            degraded: false,
            unknown_products: Vec::new(),
            model_version: list.model_version,
            as_of,
        }
    }
}

impl Why {
    fn of(context: &Context, reason: &Reason) -> Self {
        match reason {
            Reason::Because { item } => {
                let product_id = item.parse().ok();
                let name =
                    product_id.and_then(|id| context.app.store.product(id)).and_then(|product| product.name);
                let text = name.map_or_else(|| reason.to_string(), |name| format!("goes with {name}"));
                Self { kind: "because", text, product_id }
            }
            Reason::Bought { .. } => Self { kind: "bought", text: reason.to_string(), product_id: None },
            Reason::Popular { .. } => Self { kind: "popular", text: reason.to_string(), product_id: None },
        }
    }
}

fn check_k(k: usize) -> Result<usize, String> {
    if (1..=MAX_K).contains(&k) { Ok(k) } else { Err(format!("must be from 1 to {MAX_K}")) }
}

fn check_excluded(exclude: &[i64]) -> Result<(), String> {
    if exclude.len() <= MAX_EXCLUDED {
        Ok(())
    } else {
        Err(format!("must be at most {MAX_EXCLUDED} products"))
    }
}

const NO_SUCH_CATEGORY: &str = "the shop has no such category";

/// Scores apart from the reactor and writes the answer there too.
async fn answer(
    context: &Arc<Context>,
    kind: &'static str,
    as_of: Timestamp,
    list: impl FnOnce(&Context) -> Result<List, NoSuchCategory> + Send + 'static,
) -> Result<Result<Recommendations, NoSuchCategory>, Problem> {
    context
        .score(move |context| list(context).map(|list| Recommendations::of(context, list, kind, as_of)))
        .await
}

/// Recommendations for a customer
///
/// The k products this customer is most likely to buy next. Every committed order counts. A customer who is not known
/// gets the most popular products, with `fallback` set. The list is short only if the shop has no more products.
#[utoipa::path(get, path = "/customers/{user_id}/recommendations", tag = "recommendations",
    operation_id = "recommend_for_customer",
    params(("user_id" = i64, Path, description = "The customer's id in the shop"), CustomerQuery),
    responses((status = 200, description = "The list", body = Recommendations), Checked))]
pub(super) async fn for_customer(
    State(context): Shared,
    Path(user_id): Path<i64>,
    Parameters(query): Parameters<CustomerQuery>,
) -> Result<axum::Json<Recommendations>, Problem> {
    let k = check_k(query.k).map_err(|detail| Problem::invalid_parameter("k", detail))?;
    check_excluded(&query.exclude).map_err(|detail| Problem::invalid_parameter("exclude", detail))?;
    let CustomerQuery { exclude, category, repeat, explain, .. } = query;
    let wanted = Wanted { k, exclude, category, repeat: repeat.into(), explain };
    let as_of = context.app.as_of();
    let (newest, degraded) = features::newest_history(&context, user_id).await;
    let answered = answer(&context, "customer", as_of, move |context| {
        lists::for_customer(context, user_id, as_of.0, newest, &wanted)
    })
    .await?
    .map_err(|NoSuchCategory| Problem::invalid_parameter("category", NO_SUCH_CATEGORY))?;
    Ok(axum::Json(Recommendations { user_id: Some(user_id), degraded, ..answered }))
}

/// Recommendations for an anonymous session
///
/// The k products that go best with what lies in the session.
#[utoipa::path(post, path = "/recommendations", tag = "recommendations", operation_id = "recommend_for_session",
    request_body = Session,
    responses(
        (status = 200, description = "The list", body = Recommendations),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The body does not have the right fields", body = Problem, content_type = "application/problem+json"),
        Checked))]
pub(super) async fn for_session(
    State(context): Shared,
    Json(session): Json<Session>,
) -> Result<axum::Json<Recommendations>, Problem> {
    let k = check_k(session.k).map_err(|detail| Problem::invalid_body("/k", detail))?;
    check_excluded(&session.exclude).map_err(|detail| Problem::invalid_body("/exclude", detail))?;
    if session.items.len() > MAX_ITEMS {
        return Err(Problem::invalid_body("/items", format!("must be at most {MAX_ITEMS} products")));
    }
    if let Some(at) = session.items.iter().position(|item| item.quantity == 0) {
        return Err(Problem::invalid_body(&format!("/items/{at}/quantity"), "must be at least 1"));
    }
    let Session { items, exclude, category, repeat, explain, .. } = session;
    let (known, unknown): (Vec<_>, Vec<_>) = items
        .into_iter()
        .map(|item| (item.product_id, item.quantity))
        .partition(|&(product_id, _)| context.app.store.product(product_id).is_some());
    let wanted = Wanted { k, exclude, category, repeat: repeat.into(), explain };
    let as_of = context.app.as_of();
    let answered = answer(&context, "session", as_of, move |context| {
        lists::for_history(context, &lists::session(&known, as_of.0), as_of.0, &wanted)
    })
    .await?
    .map_err(|NoSuchCategory| Problem::invalid_body("/category", NO_SUCH_CATEGORY))?;
    let unknown_products = unknown.into_iter().map(|(product_id, _)| product_id).collect();
    Ok(axum::Json(Recommendations { unknown_products, ..answered }))
}

/// Similar products
///
/// Products that the same customers buy. For one that the model does not know yet: popular products of its category.
#[utoipa::path(get, path = "/products/{product_id}/similar", tag = "recommendations", operation_id = "similar_products",
    params(("product_id" = i64, Path, description = "The product's id in the shop"), ListQuery),
    responses(
        (status = 200, description = "The list", body = Recommendations),
        (status = 404, description = "No such product", body = Problem, content_type = "application/problem+json"),
        Checked))]
pub(super) async fn similar(
    State(context): Shared,
    Path(product_id): Path<i64>,
    Parameters(query): Parameters<ListQuery>,
) -> Result<axum::Json<Recommendations>, Problem> {
    let wanted = query.checked()?;
    if context.app.store.product(product_id).is_none() {
        return Err(Problem::unknown_product(product_id));
    }
    let as_of = context.app.as_of();
    let answered =
        answer(&context, "similar", as_of, move |context| lists::similar(context, product_id, &wanted))
            .await?
            .map_err(|NoSuchCategory| Problem::invalid_parameter("category", NO_SUCH_CATEGORY))?;
    Ok(axum::Json(Recommendations { product_id: Some(product_id), ..answered }))
}

/// Popular products
///
/// The products in most kept orders.
#[utoipa::path(get, path = "/products/popular", tag = "recommendations", operation_id = "popular_products",
    params(ListQuery),
    responses((status = 200, description = "The list", body = Recommendations), Checked))]
pub(super) async fn popular(
    State(context): Shared,
    Parameters(query): Parameters<ListQuery>,
) -> Result<axum::Json<Recommendations>, Problem> {
    let wanted = query.checked()?;
    let as_of = context.app.as_of();
    answer(&context, "popular", as_of, move |context| lists::popular(context, &wanted))
        .await?
        .map(axum::Json)
        .map_err(|NoSuchCategory| Problem::invalid_parameter("category", NO_SUCH_CATEGORY))
}

impl ListQuery {
    fn checked(self) -> Result<Wanted, Problem> {
        let k = check_k(self.k).map_err(|detail| Problem::invalid_parameter("k", detail))?;
        Ok(Wanted {
            k,
            exclude: Vec::new(),
            category: self.category,
            repeat: RepeatPolicy::Allow,
            explain: true,
        })
    }
}
