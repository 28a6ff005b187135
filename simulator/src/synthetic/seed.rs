//! A whole synthetic shop, generated and loaded.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use rand::RngExt;
use tokio_util::sync::CancellationToken;

use super::browse::{Visit, category_code, category_id};
use super::catalogue::{self, Product};
use super::customer::Identity;
use super::history::{self, Customer, Order, Shop};
use super::taste::Tastes;
use super::{DAY, Draw, HOUR, stream, truth};
use crate::error::Error;
use crate::load::{Output, load};
use crate::schema::{EVENTS, ORDER_ITEMS, ORDERS, PRODUCTS, USERS};
use crate::{LoadReport, Progress};

/// Behaviour events are kept for so long before the end of history.
const EVENT_DAYS: i64 = 30;
const MAX_USERS: u32 = 100_000_000;

/// The size of a synthetic shop. The same options give the same rows, byte for byte, on any number of threads.
#[derive(Debug, Clone)]
pub struct SeedOptions {
    pub users: u32,
    pub products: u32,
    pub categories: u32,
    /// Length of history.
    pub days: u32,
    /// The end of history: nothing after it has happened yet.
    pub as_of: DateTime<Utc>,
    pub seed: u64,
    /// 0: as many as there are cores.
    pub threads: usize,
    /// Where to write the ground truth (Parquet).
    pub truth: Option<PathBuf>,
}

impl SeedOptions {
    /// A mid-sized shop with a year of history: about 600,000 order lines.
    pub fn standard(as_of: DateTime<Utc>) -> Self {
        Self {
            users: 10_000,
            products: 2_000,
            categories: 20,
            days: 365,
            as_of,
            seed: 42,
            threads: 0,
            truth: None,
        }
    }

    /// 100 users, 50 products, 4 categories.
    pub fn small(as_of: DateTime<Utc>) -> Self {
        Self { users: 100, products: 50, categories: 4, days: 180, ..Self::standard(as_of) }
    }

    fn check(&self) -> Result<(), Error> {
        let wrong = |name, reason: &str| Err(Error::Option { name, reason: reason.to_owned() });
        if self.users == 0 || self.users > MAX_USERS {
            return wrong("users", "must be from 1 to 100,000,000");
        }
        if self.categories == 0 || self.categories > self.products {
            return wrong("categories", "must be at least 1 and at most the number of products");
        }
        if self.days < 30 || self.days > 36_500 {
            return wrong("days", "must be from 30 to 36,500");
        }
        Ok(())
    }
}

/// Generates a shop's history and loads it into an empty shop (which it makes if need be), in one transaction.
///
/// # Errors
/// [`Error::NotEmpty`], [`Error::Option`], [`Error::Cancelled`], and what the database says; nothing is loaded then.
pub async fn seed(
    url: &str,
    options: &SeedOptions,
    progress: Progress<'_>,
    cancel: &CancellationToken,
) -> Result<LoadReport, Error> {
    options.check()?;
    let options = options.clone();
    load(url, move |output| generate(&options, output), progress, cancel).await
}

fn generate(options: &SeedOptions, output: &mut Output) -> Result<LoadReport, Error> {
    let end = options.as_of.timestamp_micros();
    let start = end - i64::from(options.days) * DAY;
    let seed = options.seed;
    let products = catalogue::products(seed, options.products, options.categories, start, end);
    let categories: Vec<u32> = products.iter().map(|product| product.category).collect();
    let names: Vec<(String, &str)> = (0..options.categories).map(catalogue::category).collect();
    let consumable: Vec<bool> =
        categories.iter().map(|category| catalogue::is_consumable(&names[*category as usize].0)).collect();
    let tastes = Tastes::new(seed, &categories);
    let shop = Shop { seed, products: &products, consumable: &consumable, tastes: &tastes, start, end };
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    };
    let (customers, orders) =
        history::history(&shop, options.users as usize, threads, |_| !output.is_cancelled())
            .ok_or(Error::Cancelled)?;

    let lines: u64 = orders.iter().map(|order| order.lines.len() as u64).sum();
    output.expect_rows(customers.len() as u64 + products.len() as u64 + orders.len() as u64 + lines);
    write_users(output, seed, &customers, start)?;
    write_products(output, &products, &names)?;
    write_orders(output, &orders, end)?;
    let events = write_events(output, &shop, &names, &customers, &orders)?;
    if let Some(file) = &options.truth {
        let product_ids: Vec<i64> = products.iter().map(|product| product.product_id).collect();
        truth::write(file, &customers, &product_ids)?;
    }
    let time = |order: &Order| DateTime::from_timestamp_micros(order.created_at);
    Ok(LoadReport {
        users: customers.len() as u64,
        products: products.len() as u64,
        orders: orders.len() as u64,
        order_items: lines,
        events,
        first_order: orders.first().and_then(time),
        last_order: orders.last().and_then(time),
        notes: Vec::new(),
    })
}

fn write_users(output: &mut Output, seed: u64, customers: &[Customer], start: i64) -> Result<(), Error> {
    output.table(USERS)?;
    for customer in customers {
        let identity = Identity::new(seed, customer.user_id);
        output.row(|row| {
            row.int8(customer.user_id)
                .text(&identity.name)
                .text(&identity.email)
                .text(&identity.address)
                .time(customer.membership.signed_up)
                .time(customer.last_order.unwrap_or(customer.membership.signed_up.max(start)))
                .null();
        })?;
    }
    Ok(())
}

fn write_products(output: &mut Output, products: &[Product], names: &[(String, &str)]) -> Result<(), Error> {
    output.table(PRODUCTS)?;
    for product in products {
        let (category, department) = &names[product.category as usize];
        let (changed, cents) = product.last_price();
        output.row(|row| {
            row.int8(product.product_id)
                .text(&product.name)
                .money(cents)
                .text(category)
                .text(department)
                .text(&product.brand)
                .int4(product.stock)
                .time(product.created_at)
                .time(changed.max(product.created_at))
                .null();
        })?;
    }
    Ok(())
}

/// Orders and lines are numbered in order of time.
fn write_orders(output: &mut Output, orders: &[Order], end: i64) -> Result<(), Error> {
    output.table(ORDERS)?;
    for (order, order_id) in orders.iter().zip(1..) {
        let (life, status) = order.life.before(end);
        output.row(|row| {
            row.int8(order_id)
                .int8(order.user_id)
                .money(order.total())
                .text(status.as_str())
                .time(order.created_at);
            for time in [life.paid, life.shipped, life.completed, life.cancelled, life.returned] {
                row.option(time, |row, time| row.time(time));
            }
            row.null();
        })?;
    }
    output.table(ORDER_ITEMS)?;
    let mut order_item_id = 0;
    for (order, order_id) in orders.iter().zip(1..) {
        for line in &order.lines {
            order_item_id += 1;
            output.row(|row| {
                row.int8(order_item_id)
                    .int8(order_id)
                    .int8(i64::from(line.product) + 1)
                    .int4(line.quantity)
                    .money(line.cents)
                    .null();
            })?;
        }
    }
    Ok(())
}

fn write_events(
    output: &mut Output,
    shop: &Shop<'_>,
    names: &[(String, &str)],
    customers: &[Customer],
    orders: &[Order],
) -> Result<u64, Error> {
    let codes: Vec<String> =
        names.iter().map(|(category, department)| category_code(Some(department), category)).collect();
    let ids: Vec<i64> = codes.iter().map(|code| category_id(code)).collect();
    let since = shop.end - EVENT_DAYS * DAY;
    let mut count = 0;
    let mut write = |output: &mut Output, user_id: i64, visit: &Visit| {
        for event in &visit.events {
            let product = &shop.products[event.product];
            let category = product.category as usize;
            count += 1;
            output.row(|row| {
                row.uuid(event.event_id)
                    .time(event.time)
                    .text(event.kind)
                    .int8(product.product_id)
                    .int8(ids[category])
                    .text(&codes[category])
                    .text(&product.brand)
                    .money(product.price_at(event.time))
                    .int8(user_id)
                    .uuid(visit.session);
            })?;
        }
        Ok::<(), Error>(())
    };
    output.table(EVENTS)?;
    let first = orders.partition_point(|order| order.created_at < since);
    for (order, order_id) in orders[first..].iter().zip(first as u64 + 1..) {
        let mut rng = stream(shop.seed, Draw::Browsing, order_id << 1);
        let bought: Vec<usize> = order.lines.iter().map(|line| line.product as usize).collect();
        let customer = &customers[order.user_id as usize - 1];
        let shares = customer.taste.cumulative_shares();
        write(
            output,
            order.user_id,
            &Visit::of_order(&mut rng, &bought, shop.tastes, &shares, order.created_at),
        )?;
    }
    for customer in customers.iter().filter(|customer| customer.membership.dropped_out > since) {
        let mut rng = stream(shop.seed, Draw::Browsing, (customer.user_id as u64) << 1 | 1);
        let shares = customer.taste.cumulative_shares();
        let from = since.max(customer.membership.signed_up);
        let until = shop.end.min(customer.membership.dropped_out);
        for _ in 0..rng.random_range(0..3) {
            if until - from > HOUR {
                let end = rng.random_range(from + HOUR..=until);
                write(output, customer.user_id, &Visit::without_order(&mut rng, shop.tastes, &shares, end))?;
            }
        }
    }
    Ok(count)
}
