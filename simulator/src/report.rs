use std::time::Duration;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;

use crate::lifecycle::Status;

/// Called with (rows done, rows expected). The expectation may grow; at the end both are equal.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// Called for each change right after its COMMIT has returned.
pub type OnEvent<'a> = &'a (dyn Fn(&ShopEvent) + Send + Sync);

/// What a load brought in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    pub users: u64,
    pub products: u64,
    pub orders: u64,
    pub order_items: u64,
    pub events: u64,
    pub first_order: Option<DateTime<Utc>>,
    pub last_order: Option<DateTime<Utc>>,
    /// What had to be adjusted, one sentence each.
    pub notes: Vec<String>,
}

/// What a live shop did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RunReport {
    pub orders: u64,
    pub transactions: u64,
    #[serde(rename = "elapsed_seconds", serialize_with = "as_seconds")]
    pub elapsed: Duration,
    /// The longest time by which a commit was behind the schedule.
    #[serde(rename = "late_seconds", serialize_with = "as_seconds")]
    pub late: Duration,
}

fn as_seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// A committed change of the live shop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ShopEvent {
    Order {
        order_id: i64,
        user_id: i64,
        #[serde(serialize_with = "as_text")]
        total_amount: Decimal,
        items: u32,
        created_at: DateTime<Utc>,
    },
    Status {
        order_id: i64,
        status: Status,
        at: DateTime<Utc>,
    },
    Customer {
        user_id: i64,
        at: DateTime<Utc>,
    },
    AccountDeleted {
        user_id: i64,
        at: DateTime<Utc>,
    },
    Price {
        product_id: i64,
        #[serde(serialize_with = "as_text")]
        price: Decimal,
        at: DateTime<Utc>,
    },
    Browsed {
        user_id: i64,
        events: u32,
        at: DateTime<Utc>,
    },
}

impl std::fmt::Display for ShopEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let clock = |at: &DateTime<Utc>| at.format("%Y-%m-%d %H:%M:%S").to_string();
        match self {
            Self::Order { order_id, user_id, total_amount, items, created_at } => {
                let lines = if *items == 1 { "line" } else { "lines" };
                write!(
                    f,
                    "{} order {order_id}: customer {user_id}, {items} {lines}, {total_amount}",
                    clock(created_at)
                )
            }
            Self::Status { order_id, status, at } => write!(f, "{} order {order_id} {status}", clock(at)),
            Self::Customer { user_id, at } => write!(f, "{} customer {user_id} joined", clock(at)),
            Self::AccountDeleted { user_id, at } => {
                write!(f, "{} customer {user_id} closed the account", clock(at))
            }
            Self::Price { product_id, price, at } => {
                write!(f, "{} product {product_id} now costs {price}", clock(at))
            }
            Self::Browsed { user_id, events, at } => {
                write!(f, "{} customer {user_id} browsed ({events} events)", clock(at))
            }
        }
    }
}

/// Money in JSON is text: a JSON number is a float to most readers.
fn as_text<S: serde::Serializer>(money: &Decimal, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(money)
}
