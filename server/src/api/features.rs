//! `…/features`: feature values of customers and products.

use std::collections::BTreeMap;

use axum::extract::State;
use lakeward_features::View;
use lakeward_online::{Features, Status, ViewValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{answer::Checked, lists::ids};
use crate::{
    extract::{Parameters, Path},
    features::{self, Store},
    problem::Problem,
    state::Shared,
    value::Timestamp,
};

const MAX_ENTITIES: usize = 100;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Entities {
    /// Customers: ids, separated by commas.
    #[serde(default, deserialize_with = "ids")]
    #[param(style = Form, explode = false, max_items = 100, required = false)]
    user_id: Vec<i64>,
    /// Products: ids, separated by commas.
    #[serde(default, deserialize_with = "ids")]
    #[param(style = Form, explode = false, max_items = 100, required = false)]
    product_id: Vec<i64>,
}

/// Whether there is a value.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ValueStatus {
    Present,
    /// There is no value of this customer or product.
    NotFound,
    /// The value is older than its view allows, and is not told.
    OutsideMaxAge,
    /// Only the online store has it, and it is away, or none is configured.
    Unavailable,
}

/// One view's values.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Values {
    status: ValueStatus,
    /// The moment that the values are true for.
    event_time: Option<Timestamp>,
    /// The change up to which they count: epoch, commit and order. Greater ones, compared from the left, are newer.
    #[schema(example = json!([1, 24_023_128, 7]))]
    position: Option<[i64; 3]>,
    /// The view's columns by name; of `user_item_interactions` a list of `product_id` and `score`, highest first.
    #[schema(example = json!({"recency_days": 3, "frequency": 12, "monetary": "310.40", "segment": "loyal"}))]
    values: Option<Value>,
}

/// A customer's values by view: `user_rfm`, `user_activity`, `session`, `user_item_interactions`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CustomerFeatures {
    user_id: i64,
    views: BTreeMap<&'static str, Values>,
}

/// A product's values by view: `product_popularity`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProductFeatures {
    product_id: i64,
    views: BTreeMap<&'static str, Values>,
}

/// One customer's features.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OneCustomer {
    #[serde(flatten)]
    features: CustomerFeatures,
    store: Store,
    /// The online store did not answer: the values are what this process knows, which may be some seconds older.
    degraded: bool,
    as_of: Timestamp,
}

/// Features of several customers and products, in the order asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Many {
    customers: Vec<CustomerFeatures>,
    products: Vec<ProductFeatures>,
    store: Store,
    /// The online store did not answer: the values are what this process knows, which may be some seconds older.
    degraded: bool,
    as_of: Timestamp,
}

impl From<ViewValue> for Values {
    fn from(value: ViewValue) -> Self {
        Self {
            status: match value.status {
                Status::Present => ValueStatus::Present,
                Status::NotFound => ValueStatus::NotFound,
                Status::OutsideMaxAge => ValueStatus::OutsideMaxAge,
            },
            event_time: value.event_time.map(Timestamp),
            position: value.position.map(|at| [at.epoch, at.commit, at.order]),
            values: value.values,
        }
    }
}

fn by_view(features: Features) -> BTreeMap<&'static str, Values> {
    features.views.into_iter().map(|value| (value.view.name(), value.into())).collect()
}

impl From<Features> for CustomerFeatures {
    fn from(features: Features) -> Self {
        Self { user_id: features.entity, views: by_view(features) }
    }
}

impl From<Features> for ProductFeatures {
    fn from(features: Features) -> Self {
        Self { product_id: features.entity, views: by_view(features) }
    }
}

impl ProductFeatures {
    fn unavailable(product_id: i64) -> Self {
        let status = ValueStatus::Unavailable;
        let values = Values { status, event_time: None, position: None, values: None };
        Self { product_id, views: BTreeMap::from([(View::ProductPopularity.name(), values)]) }
    }
}

/// A customer's features
///
/// What the feature views say of a customer, from the online store. A view without a value has a status that says why;
/// nobody has features who has neither bought nor looked at anything.
#[utoipa::path(get, path = "/customers/{user_id}/features", tag = "features", operation_id = "get_customer_features",
    params(("user_id" = i64, Path, description = "The customer's id in the shop")),
    responses((status = 200, description = "The features", body = OneCustomer), Checked))]
pub(super) async fn of_customer(
    State(context): Shared,
    Path(user_id): Path<i64>,
) -> Result<axum::Json<OneCustomer>, Problem> {
    let as_of = context.app.as_of();
    let found = features::find(&context, &[user_id], &[], as_of.0).await;
    let one = found.customers.into_iter().next().ok_or_else(Problem::internal)?;
    Ok(axum::Json(OneCustomer { features: one.into(), store: found.store, degraded: found.degraded, as_of }))
}

/// Features of several
///
/// The features of up to 100 customers and products in one call.
#[utoipa::path(get, path = "/features", tag = "features", operation_id = "get_features", params(Entities),
    responses((status = 200, description = "The features", body = Many), Checked))]
pub(super) async fn of_many(
    State(context): Shared,
    Parameters(Entities { user_id, product_id }): Parameters<Entities>,
) -> Result<axum::Json<Many>, Problem> {
    if user_id.len() + product_id.len() > MAX_ENTITIES {
        let detail = format!("user_id and product_id must name at most {MAX_ENTITIES} together");
        return Err(Problem::invalid_parameter("user_id", detail));
    }
    let as_of = context.app.as_of();
    let found = features::find(&context, &user_id, &product_id, as_of.0).await;
    let products = match found.products {
        Some(products) => products.into_iter().map(ProductFeatures::from).collect(),
        None => product_id.into_iter().map(ProductFeatures::unavailable).collect(),
    };
    Ok(axum::Json(Many {
        customers: found.customers.into_iter().map(CustomerFeatures::from).collect(),
        products,
        store: found.store,
        degraded: found.degraded,
        as_of,
    }))
}
