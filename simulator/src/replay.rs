//! Held-back real baskets placed as live orders.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::import::{Basket, Journey};
use crate::lifecycle::Status;
use crate::live::{Change, Line, Planned, Stock, drive};
use crate::{OnEvent, RunReport};

#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// Baskets from here on are placed; [`crate::import_complete_journey`] loaded those before.
    pub from: DateTime<Utc>,
    /// How much faster than life; `f64::INFINITY`: as fast as it goes.
    pub speed: f64,
    /// Stop after so many orders.
    pub orders: Option<u64>,
}

/// Places the wheel's baskets from `from` on, in order of time, each a transaction with the basket's own times, and
/// their status changes (also those of orders that were open at `from`) when they are due on the accelerated clock.
///
/// Ends when all is placed, or `cancel` is called. Called again, it goes on: what is there already is skipped.
///
/// # Errors
/// [`Error::Input`] for a file that is not the wheel, [`Error::Unprepared`] for a shop without its households, and
/// what the database says.
pub async fn replay(
    url: &str,
    wheel: &Path,
    options: &ReplayOptions,
    on_event: OnEvent<'_>,
    cancel: &CancellationToken,
) -> Result<RunReport, Error> {
    if options.speed.is_nan() || options.speed <= 0.0 {
        return Err(Error::Option { name: "speed", reason: "must be above 0".to_owned() });
    }
    let path = wheel.to_owned();
    let journey = tokio::task::spawn_blocking(move || Journey::read(&path))
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let from = options.from.timestamp_micros();
    let mut shop = State::read(url, from).await?;
    let steps = steps(&journey, &shop, from, options.orders);
    let mut steps = steps.into_iter();
    // Where the shop already stands further on, the clock begins there: a replay that goes on does not wait.
    let origin = steps.as_slice().first().map_or(from, |step| step.0);
    let origin = if shop.placed.is_empty() { from } else { origin };
    let plan = async || {
        Ok(steps.next().map(|(at, basket, status)| {
            let basket = &journey.baskets[basket];
            let due = Duration::from_micros(((at - origin) as f64 / options.speed) as u64);
            Planned { at, due, change: change(&journey, basket, status, &mut shop.stock) }
        }))
    };
    drive(url, 1, plan, on_event, cancel).await
}

/// What of the replay the shop holds.
struct State {
    placed: HashSet<i64>,
    open: HashSet<i64>,
    stock: Stock,
}

impl State {
    async fn read(url: &str, from: i64) -> Result<Self, Error> {
        let client = lakeward_postgres::connect(url).await.map_err(Error::Connect)?;
        let from = crate::live::time(from);
        let rows = client
            .query("select order_id, status, created_at >= $1 from orders where created_at >= $1 or status = any($2)", &[
                &from,
                &["placed", "paid", "shipped"].as_slice(),
            ])
            .await
            .map_err(Error::postgres("read the shop's orders"))?;
        let stock: HashMap<i64, i32> = client
            .query("select product_id, stock from products", &[])
            .await
            .map_err(Error::postgres("read the shop's products"))?
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        if stock.is_empty() {
            return Err(Error::Unprepared { what: "products" });
        }
        let (mut placed, mut open) = (HashSet::new(), HashSet::new());
        for row in rows {
            let order_id: i64 = row.get(0);
            if row.get::<_, bool>(2) {
                placed.insert(order_id);
            }
            if matches!(Status::parse(row.get(1)), Some(Status::Placed | Status::Paid | Status::Shipped)) {
                open.insert(order_id);
            }
        }
        Ok(Self { placed, open, stock: Stock(stock) })
    }
}

/// (time, basket, new status) in order of time; `None` places the order.
fn steps(
    journey: &Journey,
    shop: &State,
    from: i64,
    limit: Option<u64>,
) -> Vec<(i64, usize, Option<Status>)> {
    let mut left = limit.unwrap_or(u64::MAX);
    let mut last = i64::MAX;
    let mut steps = Vec::new();
    for (index, basket) in journey.baskets.iter().enumerate() {
        let is_new = basket.created_at >= from && !shop.placed.contains(&basket.basket_id);
        if is_new {
            if left == 0 {
                break;
            }
            left -= 1;
            last = if left == 0 { basket.created_at } else { i64::MAX };
            steps.push((basket.created_at, index, None));
        }
        if is_new || shop.open.contains(&basket.basket_id) {
            steps.extend(basket.life_cycle().changes().map(|(time, status)| (time, index, Some(status))));
        }
    }
    // A limited replay ends with its last order.
    steps.retain(|(time, ..)| *time <= last);
    steps.sort_by_key(|(time, index, status)| (*time, *index, *status));
    steps
}

fn change(journey: &Journey, basket: &Basket, status: Option<Status>, stock: &mut Stock) -> Change {
    let (order_id, user_id) = (basket.basket_id, basket.household_id);
    if let Some(status) = status {
        return Change::Status { order_id, user_id, status };
    }
    let lines = journey
        .lines(basket)
        .iter()
        .map(|line| Line {
            order_item_id: line.order_item_id,
            product_id: line.product_id,
            quantity: line.quantity,
            cents: line.cents,
            units: line.units,
            stock_change: stock.sell(line.product_id, line.quantity),
        })
        .collect();
    Change::Order { order_id, user_id, lines }
}
