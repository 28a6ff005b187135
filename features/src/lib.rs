//! Features of a shop's customers and products: SQL views over the lake as of a watermark, and a live online store.
//!
//! Two ways to one truth. [`ShopTables`] runs the views of `views/` on silver as of a watermark and a moment, and
//! [`build()`] writes them to Delta. [`MemoryStore`] mirrors the shop's rows in memory and follows the change stream, so
//! that a committed order shows at once. Where both compute the same thing, tests hold them equal.
//!
//! Time is always an argument, in microseconds UTC. An order is **kept** at a moment if it was placed by then and was
//! neither cancelled nor returned by then.

mod activity;
mod build;
mod churn;
mod columns;
mod error;
mod interaction;
mod money;
mod orders_file;
mod revenue;
mod rfm;
mod shop;
mod store;
mod views;

pub use activity::{ACTIVITY_COLUMNS, Activity};
pub use build::{BuildReport, ViewReport, build};
pub use churn::write_churn;
pub use error::{FeatureError, Result};
pub use interaction::Interaction;
pub use money::Money;
pub use orders_file::orders_only;
pub use revenue::RevenueTable;
pub use rfm::{Rfm, Segment};
pub use shop::{ShopBatches, ShopNames, ShopTable, ShopTables};
pub use store::{
    Applied, CartEvent, Customer, ItemHistory, MemoryStore, OnlineStore, OrderItem, OrderSummary, Product,
    RevenueMinute, SESSION_GAP, SESSION_SPAN, Session, StoreEvent, StoreStatus,
};
pub use views::View;

// In microseconds.
pub(crate) const MINUTE: i64 = 60_000_000;
pub(crate) const DAY: i64 = 86_400_000_000;
