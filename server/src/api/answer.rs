//! Parts of answers that several routes share.

use std::collections::BTreeMap;

use lakeward_features::{OnlineStore, OrderSummary};
use serde::Serialize;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder, ResponsesBuilder},
};

use crate::{
    problem,
    value::{Money, Timestamp},
};

/// An order as it stands now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Order {
    pub order_id: i64,
    pub user_id: Option<i64>,
    /// Name of who bought, where the shop has one.
    pub customer_name: Option<String>,
    #[schema(example = "paid")]
    pub status: String,
    pub total_amount: Money,
    pub created_at: Timestamp,
    /// Whether it counts: neither cancelled nor returned.
    pub kept: bool,
    pub items: Vec<OrderLine>,
}

#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct OrderLine {
    pub product_id: i64,
    pub name: Option<String>,
    pub quantity: i64,
    pub price_per_unit: Money,
}

impl Order {
    pub fn of(order: OrderSummary, customer_name: Option<String>, store: &dyn OnlineStore) -> Self {
        Self {
            order_id: order.order_id,
            user_id: order.user_id,
            customer_name,
            status: order.status,
            total_amount: Money(order.total_amount),
            created_at: Timestamp(order.created_at),
            kept: order.kept,
            items: order
                .items
                .into_iter()
                .map(|item| OrderLine {
                    product_id: item.product_id,
                    name: store.product(item.product_id).and_then(|product| product.name),
                    quantity: item.quantity,
                    price_per_unit: Money(item.price_per_unit),
                })
                .collect(),
        }
    }
}

/// Revenue of the orders placed in one minute; those cancelled or returned do not count.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Minute {
    /// The minute's start.
    pub minute: Timestamp,
    pub revenue: Money,
    pub orders: u64,
}

impl From<lakeward_features::RevenueMinute> for Minute {
    fn from(of: lakeward_features::RevenueMinute) -> Self {
        Self { minute: Timestamp(of.minute), revenue: Money(of.revenue), orders: of.orders }
    }
}

fn problem_response(description: &str) -> Response {
    ResponseBuilder::new()
        .description(description)
        .content(
            problem::CONTENT_TYPE,
            ContentBuilder::new().schema(Some(Ref::from_schema_name(problem::Problem::name()))).build(),
        )
        .build()
}

/// The problems that any route may answer with.
pub(crate) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        ResponsesBuilder::new()
            .response("503", problem_response("No answer in time: the server is busy"))
            .response("500", problem_response("The server failed"))
            .build()
            .into()
    }
}

/// A body that cannot be taken: not JSON, too large, or not what it should be.
pub(super) struct Unfit;

impl IntoResponses for Unfit {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        ResponsesBuilder::new()
            .response("413", problem_response("The body is too large"))
            .response("415", problem_response("The body is not said to be JSON"))
            .response("422", problem_response("The body is not what it should be; `errors` says where"))
            .build()
            .into()
    }
}

/// [`Problems`], and parameters that are out of range or cannot be read.
pub(super) struct Checked;

impl IntoResponses for Checked {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut responses = Problems::responses();
        responses
            .insert("400".to_owned(), problem_response("A parameter is wrong; `errors` says which").into());
        responses
    }
}
