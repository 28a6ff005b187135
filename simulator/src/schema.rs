//! The shop's tables.

use tokio_postgres::Client;

use crate::error::Error;

/// A table as COPY fills it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [&'static str],
    /// The key that the database draws from a sequence where the writer gives none.
    sequence_column: Option<&'static str>,
}

pub(crate) const USERS: Table = Table {
    name: "users",
    columns: &["user_id", "name", "email", "address", "created_at", "last_login", "external_id"],
    sequence_column: Some("user_id"),
};
pub(crate) const PRODUCTS: Table = Table {
    name: "products",
    columns: &[
        "product_id",
        "name",
        "price",
        "category",
        "department",
        "brand",
        "stock",
        "created_at",
        "updated_at",
        "external_id",
    ],
    sequence_column: Some("product_id"),
};
pub(crate) const ORDERS: Table = Table {
    name: "orders",
    columns: &[
        "order_id",
        "user_id",
        "total_amount",
        "status",
        "created_at",
        "paid_at",
        "shipped_at",
        "completed_at",
        "cancelled_at",
        "returned_at",
        "external_id",
    ],
    sequence_column: Some("order_id"),
};
pub(crate) const ORDER_ITEMS: Table = Table {
    name: "order_items",
    columns: &["order_item_id", "order_id", "product_id", "quantity", "price_per_unit", "units"],
    sequence_column: Some("order_item_id"),
};
pub(crate) const EVENTS: Table = Table {
    name: "events",
    columns: &[
        "event_id",
        "event_time",
        "event_type",
        "product_id",
        "category_id",
        "category_code",
        "brand",
        "price",
        "user_id",
        "user_session",
    ],
    sequence_column: None,
};
pub(crate) const TABLES: [Table; 5] = [USERS, PRODUCTS, ORDERS, ORDER_ITEMS, EVENTS];

/// Makes an empty shop with all its constraints; leaves one that is there as it is.
///
/// # Errors
/// [`Error::Connect`], and [`Error::Postgres`] if the role may not create tables in schema `public`.
pub async fn create_schema(url: &str) -> Result<(), Error> {
    let mut client = lakeward_postgres::connect(url).await.map_err(Error::Connect)?;
    let transaction = client.transaction().await.map_err(Error::postgres("begin"))?;
    create_tables(transaction.client()).await?;
    let constrained: bool = transaction
        .query_one("select exists (select from pg_constraint where conname = 'events_user_id_fkey')", &[])
        .await
        .map_err(Error::postgres("look for the shop's constraints"))?
        .get(0);
    if !constrained {
        add_constraints(transaction.client()).await?;
    }
    transaction.commit().await.map_err(Error::postgres("commit the shop's schema"))
}

pub(crate) async fn create_tables(client: &Client) -> Result<(), Error> {
    // Two creators at once would collide in the catalogue: the second waits for the first.
    client
        .batch_execute("select pg_advisory_xact_lock(hashtext('lakeward shop schema'))")
        .await
        .map_err(Error::postgres("lock the shop's schema"))?;
    client
        .batch_execute(include_str!("../sql/tables.sql"))
        .await
        .map_err(Error::postgres("create the shop's tables"))
}

pub(crate) async fn add_constraints(client: &Client) -> Result<(), Error> {
    client
        .batch_execute(include_str!("../sql/constraints.sql"))
        .await
        .map_err(Error::postgres("add the shop's constraints"))
}

pub(crate) async fn drop_constraints(client: &Client) -> Result<(), Error> {
    client
        .batch_execute(include_str!("../sql/drop_constraints.sql"))
        .await
        .map_err(Error::postgres("drop the empty shop's constraints"))
}

/// Sets each key's sequence behind the greatest key, so that new rows don't collide with loaded ones.
pub(crate) async fn advance_sequences(client: &Client) -> Result<(), Error> {
    for table in TABLES {
        let Some(column) = table.sequence_column else { continue };
        let name = table.name;
        client
            .batch_execute(&format!(
                "select setval(pg_get_serial_sequence('{name}', '{column}'), \
                 (select coalesce(max({column}), 0) + 1 from {name}), false)"
            ))
            .await
            .map_err(Error::postgres(format!("advance the sequence of {name}")))?;
    }
    Ok(())
}
