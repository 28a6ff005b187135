//! A shop that goes on living.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::lifecycle::Status;
use crate::live::drive;
use crate::plan::{Keys, Plan, Product, Shop};
use crate::{OnEvent, RunReport};

/// Above this rate one connection may not keep up: a commit waits for the disk.
const RATE_OF_ONE_CONNECTION: f64 = 20.0;
const CONNECTIONS: usize = 12;
/// Customers without an order for so long before the shop's last one are taken for gone.
const GONE_DAYS: i32 = 60;
/// Keys fetched at a time.
const BLOCK: i64 = 1000;

#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Orders a second.
    pub rate: f64,
    /// The first order's time; order k has the time `start + k / rate`.
    pub start: DateTime<Utc>,
    /// The seed with which the shop was seeded: its customers keep their tastes.
    pub seed: u64,
    /// Stop after so many orders.
    pub orders: Option<u64>,
}

impl RunOptions {
    /// An order every three seconds, without end.
    pub fn new(start: DateTime<Utc>) -> Self {
        Self { rate: 1.0 / 3.0, start, seed: 42, orders: None }
    }
}

/// Lets the shop live: orders at a steady rate, and what goes with them, until `cancel` is called or `orders` are placed.
///
/// The same shop, start and seed give the same rows, if nobody else writes.
///
/// # Errors
/// [`Error::Unprepared`] for a shop without customers or products, [`Error::Option`], and what the database says.
pub async fn run(
    url: &str,
    options: &RunOptions,
    on_event: OnEvent<'_>,
    cancel: &CancellationToken,
) -> Result<RunReport, Error> {
    if !(options.rate > 0.0 && options.rate <= 10_000.0) {
        return Err(Error::Option {
            name: "rate",
            reason: "must be above 0 and at most 10,000 orders/s".to_owned(),
        });
    }
    let client = lakeward_postgres::connect(url).await.map_err(Error::Connect)?;
    let shop = read_shop(&client).await?;
    let start = options.start.timestamp_micros();
    let mut plan = Plan::new(shop, options.seed, start, options.rate, options.orders);
    let mut keys = Keys::default();
    let connections = if options.rate > RATE_OF_ONE_CONNECTION { CONNECTIONS } else { 1 };
    let next = async || {
        if keys.lowest() < Keys::RESERVE {
            refill(&client, &mut keys).await?;
        }
        Ok(plan.next(&mut keys))
    };
    drive(url, connections, next, on_event, cancel).await
}

async fn read_shop(client: &Client) -> Result<Shop, Error> {
    let failed = |table: &str| Error::postgres(format!("read table {table}"));
    let products = client
        .query(
            "select product_id, category, department, brand, price, stock from products order by product_id",
            &[],
        )
        .await
        .map_err(failed("products"))?
        .into_iter()
        .map(|row| Product {
            product_id: row.get(0),
            category: row.get(1),
            department: row.get(2),
            brand: row.get(3),
            cents: (row.get::<_, Decimal>(4) * Decimal::ONE_HUNDRED).to_i64().unwrap_or(0),
            stock: row.get(5),
        })
        .collect::<Vec<_>>();
    let customers: Vec<i64> = client
        .query(
            "with latest as (select user_id, max(created_at) as at from orders group by user_id) \
             select user_id from users left join latest using (user_id) \
             where greatest(latest.at, users.created_at) \
                 >= (select max(created_at) from orders) - make_interval(days => $1) \
                or not exists (select from orders) \
             order by user_id",
            &[&GONE_DAYS],
        )
        .await
        .map_err(failed("users"))?
        .into_iter()
        .map(|row| row.get(0))
        .collect();
    let open = client
        .query(
            "select order_id, user_id, status from orders where status in ('placed', 'paid', 'shipped') order by order_id",
            &[],
        )
        .await
        .map_err(failed("orders"))?
        .into_iter()
        .filter_map(|row| Some((row.get(0), row.get(1), Status::parse(row.get(2))?)))
        .collect();
    if products.is_empty() {
        return Err(Error::Unprepared { what: "products" });
    }
    if customers.is_empty() {
        return Err(Error::Unprepared { what: "customers" });
    }
    Ok(Shop { products, customers, open })
}

async fn refill(client: &Client, keys: &mut Keys) -> Result<(), Error> {
    let fill = async |keys: &mut VecDeque<i64>, table: &str, column: &str| {
        if keys.len() < Keys::RESERVE {
            let sql = format!(
                "select nextval(pg_get_serial_sequence('{table}', '{column}')) from generate_series(1, $1::bigint)"
            );
            let rows = client
                .query(&sql, &[&BLOCK])
                .await
                .map_err(Error::postgres(format!("reserve keys of table {table}")))?;
            keys.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
        }
        Ok::<(), Error>(())
    };
    fill(&mut keys.users, "users", "user_id").await?;
    fill(&mut keys.orders, "orders", "order_id").await?;
    fill(&mut keys.order_items, "order_items", "order_item_id").await
}
