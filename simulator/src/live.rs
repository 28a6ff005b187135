//! Committing planned changes to a living shop, each a transaction, on an absolute schedule.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::future::{try_join, try_join_all};
use rust_decimal::Decimal;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::Error;
use crate::lifecycle::Status;
use crate::{OnEvent, RunReport, ShopEvent};

/// A product is delivered in such lots …
const DELIVERY: i32 = 500;
/// … when a sale leaves less than this: more than the orders that wait or commit at the same time can take.
const LOW_STOCK: i32 = 450;
/// Planned changes that may wait for one connection.
const QUEUE: usize = 8;
const ATTEMPTS: u32 = 5;

pub(crate) struct Line {
    pub(crate) order_item_id: i64,
    pub(crate) product_id: i64,
    pub(crate) quantity: i32,
    pub(crate) cents: i64,
    pub(crate) units: Option<i64>,
    /// What the sale changes in stock: pieces delivered on its occasion minus pieces sold.
    pub(crate) stock_change: i32,
}

/// Pieces of each product, as planned. Deliveries are part of the plan and stock only ever changes by sums, so that
/// it does not depend on which of two orders commits first.
pub(crate) struct Stock(pub(crate) HashMap<i64, i32>);

impl Stock {
    /// Sells so many pieces, and returns the change in stock.
    pub(crate) fn sell(&mut self, product_id: i64, quantity: i32) -> i32 {
        let stock = self.0.entry(product_id).or_default();
        let left = *stock - quantity;
        let lots = if left < LOW_STOCK { (LOW_STOCK - left + DELIVERY - 1) / DELIVERY } else { 0 };
        let change = lots * DELIVERY - quantity;
        *stock += change;
        change
    }
}

pub(crate) struct VisitRow {
    pub(crate) event_id: Uuid,
    pub(crate) time: i64,
    pub(crate) kind: &'static str,
    pub(crate) product_id: i64,
    pub(crate) category_id: i64,
    pub(crate) category_code: String,
    pub(crate) brand: Option<String>,
    pub(crate) cents: i64,
}

/// What one transaction does; times are microseconds UTC.
pub(crate) enum Change {
    Order { order_id: i64, user_id: i64, lines: Vec<Line> },
    Status { order_id: i64, user_id: i64, status: Status },
    Customer { user_id: i64, name: String, email: String, address: String },
    CloseAccount { user_id: i64 },
    Price { product_id: i64, cents: i64 },
    Visit { user_id: i64, session: Uuid, rows: Vec<VisitRow> },
}

impl Change {
    /// Changes of one customer go through one connection, so that they keep their order.
    fn owner(&self) -> i64 {
        match self {
            Self::Order { user_id, .. }
            | Self::Status { user_id, .. }
            | Self::Customer { user_id, .. }
            | Self::CloseAccount { user_id }
            | Self::Visit { user_id, .. } => *user_id,
            Self::Price { product_id, .. } => *product_id,
        }
    }
}

pub(crate) struct Planned {
    /// The shop's own time.
    pub(crate) at: i64,
    /// When it is due, from the start.
    pub(crate) due: Duration,
    pub(crate) change: Change,
}

#[derive(Default)]
struct Tally {
    orders: AtomicU64,
    transactions: AtomicU64,
    late_micros: AtomicI64,
}

/// Commits what `plan` gives, in its order for each customer, on `connections` connections, until `plan` ends or
/// `cancel` is called; what was begun by then is finished. A commit never comes before it is due.
pub(crate) async fn drive(
    url: &str,
    connections: usize,
    mut plan: impl AsyncFnMut() -> Result<Option<Planned>, Error>,
    on_event: OnEvent<'_>,
    cancel: &CancellationToken,
) -> Result<RunReport, Error> {
    let mut writers = Vec::new();
    for _ in 0..connections {
        writers.push(Writer::connect(url).await?);
    }
    let start = Instant::now();
    let tally = Tally::default();
    let (senders, workers): (Vec<_>, Vec<_>) = writers
        .into_iter()
        .map(|writer| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            (sender, Box::pin(work(writer, receiver, start, &tally, on_event)))
        })
        .unzip();
    let planner = async move {
        while let Some(planned) = plan().await? {
            let wait = async {
                tokio::time::sleep_until(start + planned.due).await;
                let worker = planned.change.owner().rem_euclid(senders.len() as i64) as usize;
                senders[worker].send(planned).await
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                // A closed queue: its worker failed and has the error.
                sent = wait => if sent.is_err() { break },
            }
        }
        Ok(())
    };
    Box::pin(try_join(planner, try_join_all(workers))).await?;
    Ok(RunReport {
        orders: tally.orders.into_inner(),
        transactions: tally.transactions.into_inner(),
        elapsed: start.elapsed(),
        late: Duration::from_micros(tally.late_micros.into_inner().unsigned_abs()),
    })
}

async fn work(
    mut writer: Writer,
    mut receiver: mpsc::Receiver<Planned>,
    start: Instant,
    tally: &Tally,
    on_event: OnEvent<'_>,
) -> Result<(), Error> {
    while let Some(planned) = receiver.recv().await {
        let event = writer.commit(&planned).await?;
        let late = start.elapsed().saturating_sub(planned.due);
        tally.late_micros.fetch_max(late.as_micros() as i64, Ordering::Relaxed);
        if let Some(event) = event {
            tally.transactions.fetch_add(1, Ordering::Relaxed);
            tally.orders.fetch_add(u64::from(matches!(event, ShopEvent::Order { .. })), Ordering::Relaxed);
            on_event(&event);
        }
    }
    Ok(())
}

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

struct Writer {
    client: Client,
    order: Statement,
    items: Statement,
    lock_products: Statement,
    sell: Statement,
    restock: Statement,
    login: Statement,
    advance: Vec<(Status, Statement)>,
    visit: Statement,
}

impl Writer {
    async fn connect(url: &str) -> Result<Self, Error> {
        let client = lakeward_postgres::connect(url).await.map_err(Error::Connect)?;
        let prepare = async |sql: &str| {
            client.prepare(sql).await.map_err(Error::postgres("prepare the shop's statements"))
        };
        let order = prepare(
            "insert into orders (order_id, user_id, total_amount, status, created_at) values ($1, $2, $3, 'placed', $4)",
        )
        .await?;
        let items = prepare(
            "insert into order_items (order_item_id, order_id, product_id, quantity, price_per_unit, units) \
             select item, $1, product, quantity, price, units \
             from unnest($2::bigint[], $3::bigint[], $4::integer[], $5::numeric[], $6::bigint[]) \
             as line (item, product, quantity, price, units)",
        )
        .await?;
        // Rows are locked in the order of their key before they change, so that two orders cannot wait for each other.
        let lock_products =
            prepare("select from products where product_id = any($1) order by product_id for no key update")
                .await?;
        let sell = prepare(
            "update products set stock = greatest(stock + line.change, 0), updated_at = greatest(updated_at, $3) \
             from (select product, sum(change)::integer as change \
                   from unnest($1::bigint[], $2::integer[]) as line (product, change) group by product) as line \
             where product_id = line.product",
        )
        .await?;
        // Only if the order became cancelled or returned just now.
        let restock = prepare(
            "update products set stock = stock + line.quantity, updated_at = greatest(updated_at, $2) \
             from (select product_id, sum(quantity)::integer as quantity from order_items \
                   join orders using (order_id) \
                   where order_id = $1 and (cancelled_at = $2 or returned_at = $2) group by product_id) as line \
             where products.product_id = line.product_id",
        )
        .await?;
        let mut advance = Vec::new();
        for (status, column, before) in [
            (Status::Paid, "paid_at", "'placed'"),
            (Status::Shipped, "shipped_at", "'paid'"),
            (Status::Completed, "completed_at", "'shipped'"),
            (Status::Cancelled, "cancelled_at", "'placed', 'paid'"),
            (Status::Returned, "returned_at", "'completed'"),
        ] {
            let sql = format!(
                "update orders set status = '{status}', {column} = $2 where order_id = $1 and status in ({before})"
            );
            advance.push((status, prepare(&sql).await?));
        }
        let login =
            prepare("update users set last_login = greatest(last_login, $2) where user_id = $1").await?;
        let visit = prepare(
            "insert into events (event_id, event_time, event_type, product_id, category_id, category_code, brand, \
             price, user_id, user_session) \
             select id, at, kind, product, category, code, brand, price, $9, $10 \
             from unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], \
             $8::numeric[]) as event (id, at, kind, product, category, code, brand, price)",
        )
        .await?;
        Ok(Self { order, items, lock_products, sell, restock, login, advance, visit, client })
    }

    /// Commits one change; conflicts with other sessions are tried again.
    async fn commit(&mut self, planned: &Planned) -> Result<Option<ShopEvent>, Error> {
        let mut attempt = 1;
        loop {
            match Box::pin(self.apply(planned)).await {
                Ok(event) => return Ok(event),
                Err(Error::Postgres { source, .. })
                    if attempt < ATTEMPTS
                        && source.code().is_some_and(|code| code.code().starts_with("40")) =>
                {
                    attempt += 1;
                    self.client.batch_execute("rollback").await.map_err(Error::postgres("roll back"))?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn apply(&self, planned: &Planned) -> Result<Option<ShopEvent>, Error> {
        let at = time(planned.at);
        match &planned.change {
            Change::Order { order_id, user_id, lines } => {
                self.place(*order_id, *user_id, lines, at).await.map(Some)
            }
            Change::Status { order_id, status, .. } => self.advance(*order_id, *status, at).await,
            Change::Customer { user_id, name, email, address } => {
                let sql = "insert into users (user_id, name, email, address, created_at, last_login) \
                           values ($1, $2, $3, $4, $5, $5)";
                self.client
                    .execute(sql, &[user_id, name, email, address, &at])
                    .await
                    .map_err(Error::postgres("add a customer"))?;
                Ok(Some(ShopEvent::Customer { user_id: *user_id, at }))
            }
            Change::CloseAccount { user_id } => self.erase(*user_id, at).await,
            Change::Price { product_id, cents } => {
                let price = Decimal::new(*cents, 2);
                let sql = "update products set price = $2, updated_at = greatest(updated_at, $3) where product_id = $1";
                let changed = self
                    .client
                    .execute(sql, &[product_id, &price, &at])
                    .await
                    .map_err(Error::postgres("change a price"))?;
                Ok((changed > 0).then_some(ShopEvent::Price { product_id: *product_id, price, at }))
            }
            Change::Visit { user_id, session, rows } => {
                self.browse(*user_id, *session, rows, at).await.map(Some)
            }
        }
    }

    /// All statements are sent at once, in order: one round trip a transaction. If one fails, those after it do too,
    /// and the COMMIT rolls back. Returns the number of rows that each one changed.
    async fn transaction(
        &self,
        statements: &[(&Statement, Parameters<'_>)],
    ) -> Result<Vec<u64>, tokio_postgres::Error> {
        let all =
            statements.iter().map(|(statement, parameters)| self.client.execute(*statement, parameters));
        let (begin, commit) = (self.client.batch_execute("begin"), self.client.batch_execute("commit"));
        futures::try_join!(begin, try_join_all(all), commit).map(|(_, changed, _)| changed)
    }

    async fn place(
        &self,
        order_id: i64,
        user_id: i64,
        lines: &[Line],
        at: DateTime<Utc>,
    ) -> Result<ShopEvent, Error> {
        let items: Vec<i64> = lines.iter().map(|line| line.order_item_id).collect();
        let products: Vec<i64> = lines.iter().map(|line| line.product_id).collect();
        let quantities: Vec<i32> = lines.iter().map(|line| line.quantity).collect();
        let changes: Vec<i32> = lines.iter().map(|line| line.stock_change).collect();
        let prices: Vec<Decimal> = lines.iter().map(|line| Decimal::new(line.cents, 2)).collect();
        let units: Vec<Option<i64>> = lines.iter().map(|line| line.units).collect();
        let total = Decimal::new(lines.iter().map(|line| i64::from(line.quantity) * line.cents).sum(), 2);
        self.transaction(&[
            (&self.order, &[&order_id, &user_id, &total, &at]),
            (&self.items, &[&order_id, &items, &products, &quantities, &prices, &units]),
            (&self.lock_products, &[&products]),
            (&self.sell, &[&products, &changes, &at]),
            (&self.login, &[&user_id, &at]),
        ])
        .await
        .map_err(Error::postgres("place an order"))?;
        Ok(ShopEvent::Order {
            order_id,
            user_id,
            total_amount: total,
            items: lines.len() as u32,
            created_at: at,
        })
    }

    /// `None`: the order is gone, or has that status already.
    async fn advance(
        &self,
        order_id: i64,
        status: Status,
        at: DateTime<Utc>,
    ) -> Result<Option<ShopEvent>, Error> {
        let Some((_, advance)) = self.advance.iter().find(|(to, _)| *to == status) else { return Ok(None) };
        let parameters: Parameters<'_> = &[&order_id, &at];
        let statements = [(advance, parameters), (&self.restock, parameters)];
        let restocks = matches!(status, Status::Cancelled | Status::Returned);
        let changed = self
            .transaction(&statements[..if restocks { 2 } else { 1 }])
            .await
            .map_err(Error::postgres("change an order's status"))?[0];
        Ok((changed > 0).then_some(ShopEvent::Status { order_id, status, at }))
    }

    /// Deletes the customer with all that refers to them, from the leaves up.
    async fn erase(&self, user_id: i64, at: DateTime<Utc>) -> Result<Option<ShopEvent>, Error> {
        let failed = || Error::postgres("close an account");
        self.client.batch_execute("begin").await.map_err(failed())?;
        let mut deleted = 0;
        for sql in [
            "delete from events where user_id = $1",
            "delete from order_items using orders where order_items.order_id = orders.order_id and orders.user_id = $1",
            "delete from orders where user_id = $1",
            "delete from users where user_id = $1",
        ] {
            deleted = self.client.execute(sql, &[&user_id]).await.map_err(failed())?;
        }
        self.client.batch_execute("commit").await.map_err(failed())?;
        Ok((deleted > 0).then_some(ShopEvent::AccountDeleted { user_id, at }))
    }

    async fn browse(
        &self,
        user_id: i64,
        session: Uuid,
        rows: &[VisitRow],
        at: DateTime<Utc>,
    ) -> Result<ShopEvent, Error> {
        let ids: Vec<Uuid> = rows.iter().map(|row| row.event_id).collect();
        let times: Vec<DateTime<Utc>> = rows.iter().map(|row| time(row.time)).collect();
        let kinds: Vec<&str> = rows.iter().map(|row| row.kind).collect();
        let products: Vec<i64> = rows.iter().map(|row| row.product_id).collect();
        let categories: Vec<i64> = rows.iter().map(|row| row.category_id).collect();
        let codes: Vec<&str> = rows.iter().map(|row| row.category_code.as_str()).collect();
        let brands: Vec<Option<&str>> = rows.iter().map(|row| row.brand.as_deref()).collect();
        let prices: Vec<Decimal> = rows.iter().map(|row| Decimal::new(row.cents, 2)).collect();
        let visit: Parameters<'_> =
            &[&ids, &times, &kinds, &products, &categories, &codes, &brands, &prices, &user_id, &session];
        self.transaction(&[(&self.visit, visit), (&self.login, &[&user_id, &at])])
            .await
            .map_err(Error::postgres("record a visit"))?;
        Ok(ShopEvent::Browsed { user_id, events: rows.len() as u32, at })
    }
}

/// Times of a plan lie near the shop's own, so they are always in range.
pub(crate) fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
