//! The online store: what serving reads, live.

mod contribution;
mod load;
mod memory;
mod mirror;
mod read;
pub(crate) mod rows;
mod session;

use std::collections::BTreeMap;

use lakeward_change::{Lsn, Position};
use serde::Serialize;
use tokio::sync::broadcast;

use crate::{Activity, Interaction, Money, Rfm, ShopTable};

pub use memory::{Applied, MemoryStore};
pub use session::{CartEvent, SESSION_GAP, SESSION_SPAN, Session};

/// Reads of the newest state of the shop. All times are microseconds UTC.
///
/// An `as_of` sees orders placed by then that were neither cancelled nor returned by then, as the SQL views do.
pub trait OnlineStore: Send + Sync {
    fn status(&self) -> StoreStatus;

    /// `None` if there is neither a row of this customer nor an order.
    fn customer(&self, user_id: i64, as_of: i64) -> Option<Customer>;

    /// What a customer bought in kept orders, looked at or put in a cart: newest purchase first, then by product.
    fn history(&self, user_id: i64, as_of: i64) -> Vec<ItemHistory>;

    /// How much a customer has to do with each product, by product; the view `user_item_interactions` computes the same.
    fn interactions(&self, user_id: i64, as_of: i64) -> Vec<Interaction>;

    /// A customer's newest orders of any status, newest first.
    fn orders(&self, user_id: i64, limit: usize) -> Vec<OrderSummary>;

    /// `None` if the customer has no kept order.
    fn activity(&self, user_id: i64, as_of: i64) -> Option<Activity>;

    /// What a customer is doing now: at a moment, or when the newest event happened if that is later. `None` if nothing.
    fn session(&self, user_id: i64, as_of: i64) -> Option<Session>;

    fn product(&self, product_id: i64) -> Option<Product>;

    /// The whole catalogue, by id.
    fn products(&self) -> Vec<Product>;

    /// Minutes that have orders, `from <= minute < to`, in order of time. Orders cancelled or returned since do not count.
    fn revenue_minutes(&self, from: i64, to: i64) -> Vec<RevenueMinute>;

    /// The newest orders of any status, newest first.
    fn newest_orders(&self, n: usize) -> Vec<OrderSummary>;

    /// Takes the fifths of recency, frequency and monetary value anew from all customers as of a moment. Between two
    /// calls, customers are scored against the fifths of the first.
    fn refresh_scores(&self, as_of: i64);

    /// Orders and revenue minutes as they change. A receiver that falls behind is told so and should read anew.
    fn subscribe(&self) -> broadcast::Receiver<StoreEvent>;
}

/// How far a store is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoreStatus {
    /// Stream time: the greatest time seen in the shop's own rows (orders placed, paid, …, events). Under replay this
    /// is the time to answer for.
    pub as_of: Option<i64>,
    /// The newest commit time seen since the store was loaded: the freshness of what is shown.
    pub committed_at: Option<i64>,
    /// The watermark that the store was loaded from.
    pub watermark: Option<Lsn>,
    /// The newest position of each table.
    pub positions: BTreeMap<&'static str, Position>,
    pub users: usize,
    pub products: usize,
    pub orders: usize,
    pub order_items: usize,
    /// Views and carts counted.
    pub events: u64,
    /// Changes that counted since the store was loaded.
    pub changes: u64,
}

impl StoreStatus {
    /// Where the store stands as a whole: the newest commit of any table, in the epoch of `orders`, which every new
    /// source raises. It compares with [`ShopTables::position`](crate::ShopTables::position).
    pub fn position(&self) -> Position {
        let epoch = self.positions.get(ShopTable::Orders.name()).map_or(0, |orders| orders.epoch);
        let newest = self.positions.values().map(|at| (at.commit, at.order)).max().unwrap_or_default();
        Position { epoch, commit: newest.0, order: newest.1 }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Customer {
    pub user_id: i64,
    pub name: Option<String>,
    pub created_at: Option<i64>,
    pub last_login: Option<i64>,
    /// Orders of any status.
    pub orders: u64,
    /// Kept orders: RFM's frequency.
    pub kept_orders: u64,
    /// The kept orders' amounts.
    pub monetary: Money,
    /// Whole days since the newest kept order.
    pub recency_days: Option<i64>,
    /// Of the kept orders.
    pub first_order_at: Option<i64>,
    pub last_order_at: Option<i64>,
    /// Scores of the live values, against fifths taken when the store was loaded or last refreshed.
    pub rfm: Option<Rfm>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ItemHistory {
    pub product_id: i64,
    /// Kept orders that hold the product.
    pub purchases: u64,
    pub quantity: i64,
    pub spend: Money,
    pub first_at: Option<i64>,
    pub last_at: Option<i64>,
    pub views: u64,
    pub carts: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OrderSummary {
    pub order_id: i64,
    pub user_id: Option<i64>,
    pub status: String,
    pub total_amount: Money,
    pub created_at: i64,
    /// Neither cancelled nor returned.
    pub kept: bool,
    /// By id.
    pub items: Vec<OrderItem>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OrderItem {
    pub order_item_id: i64,
    pub product_id: i64,
    pub quantity: i64,
    pub price_per_unit: Money,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Product {
    pub product_id: i64,
    pub name: Option<String>,
    pub category: Option<String>,
    pub price: Option<Money>,
    /// Kept orders that hold the product.
    pub purchases: u64,
    pub views: u64,
    pub carts: u64,
}

/// The kept orders placed in one minute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RevenueMinute {
    /// The minute's start.
    pub minute: i64,
    pub revenue: Money,
    pub orders: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StoreEvent {
    /// An order was placed or changed.
    Order(OrderSummary),
    /// A minute's revenue changed.
    Revenue(RevenueMinute),
}
