//! A small shop as plain rows, and as the batches that copies and streams bring.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use lakeward_change::{ChangeBatch, Column, ColumnType, Op, TableId, TableSchema};
use lakeward_features::{ShopBatches, ShopTable};

pub const DAY: i64 = 86_400_000_000;

#[derive(Debug, Clone, PartialEq)]
pub struct User {
    pub user_id: i64,
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    pub product_id: i64,
    pub name: Option<String>,
    pub category: Option<String>,
    pub cents: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    pub order_id: i64,
    pub user_id: i64,
    pub cents: i64,
    pub status: Option<String>,
    pub created_at: i64,
    pub cancelled_at: Option<i64>,
    pub returned_at: Option<i64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub order_item_id: i64,
    pub order_id: i64,
    pub product_id: i64,
    pub quantity: i32,
    pub cents: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub event_id: i64,
    pub event_time: i64,
    pub event_type: String,
    pub product_id: i64,
    pub user_id: i64,
}

#[derive(Debug, Clone, Default)]
pub struct Shop {
    pub users: Vec<User>,
    pub products: Vec<Product>,
    pub orders: Vec<Order>,
    pub items: Vec<Item>,
    pub events: Vec<Event>,
}

pub fn user(user_id: i64) -> User {
    User { user_id, name: Some(format!("user {user_id}")) }
}

pub fn product(product_id: i64, category: &str, cents: i64) -> Product {
    Product {
        product_id,
        name: Some(format!("product {product_id}")),
        category: Some(category.into()),
        cents,
    }
}

pub fn order(order_id: i64, user_id: i64, cents: i64, created_at: i64) -> Order {
    let status = Some("paid".into());
    Order { order_id, user_id, cents, status, created_at, cancelled_at: None, returned_at: None }
}

pub fn item(order_item_id: i64, order_id: i64, product_id: i64, quantity: i32, cents: i64) -> Item {
    Item { order_item_id, order_id, product_id, quantity, cents }
}

pub fn event(event_id: i64, event_time: i64, event_type: &str, user_id: i64, product_id: i64) -> Event {
    Event { event_id, event_time, event_type: event_type.into(), product_id, user_id }
}

impl Shop {
    pub fn batches(&self) -> ShopBatches {
        let one = |batch| vec![batch];
        ShopBatches {
            users: one(users(&self.users)),
            products: one(products(&self.products)),
            orders: one(orders(&self.orders)),
            order_items: one(items(&self.items)),
            events: one(events(&self.events)),
        }
    }
}

const MONEY: ColumnType = ColumnType::Numeric { precision: 12, scale: 2 };
const TIME: ColumnType = ColumnType::Timestamp { zoned: true };

/// Identifiers of users are int4 and quantities int4 here; all else is as the shop of the demo has it.
pub fn schema(table: ShopTable) -> Arc<TableSchema> {
    use ColumnType::{Int4, Int8, Text};
    let columns: &[(&str, ColumnType)] = match table {
        ShopTable::Users => &[("user_id", Int4), ("name", Text)],
        ShopTable::Products => &[("product_id", Int8), ("name", Text), ("category", Text), ("price", MONEY)],
        ShopTable::Orders => &[
            ("order_id", Int8),
            ("user_id", Int4),
            ("total_amount", MONEY),
            ("status", Text),
            ("created_at", TIME),
            ("cancelled_at", TIME),
            ("returned_at", TIME),
        ],
        ShopTable::OrderItems => &[
            ("order_item_id", Int8),
            ("order_id", Int8),
            ("product_id", Int8),
            ("quantity", Int4),
            ("price_per_unit", MONEY),
        ],
        ShopTable::Events => &[
            ("event_id", Int8),
            ("event_time", TIME),
            ("event_type", Text),
            ("product_id", Int8),
            ("user_id", Int4),
        ],
    };
    let columns = columns
        .iter()
        .map(|(name, column_type)| Column {
            name: (*name).into(),
            column_type: *column_type,
            source_type: format!("{column_type:?}"),
        })
        .collect();
    Arc::new(TableSchema {
        id: TableId::new("public", table.name()),
        columns,
        key: vec![0],
        origin: Default::default(),
    })
}

fn batch(table: ShopTable, columns: Vec<ArrayRef>) -> RecordBatch {
    RecordBatch::try_new(schema(table).arrow(), columns).unwrap()
}

fn int8(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<Int64Array>())
}

fn int4(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(values.map(|value| Some(value as i32)).collect::<Int32Array>())
}

fn money(cents: impl Iterator<Item = i64>) -> ArrayRef {
    let values = cents.map(|cents| Some(i128::from(cents))).collect::<Decimal128Array>();
    Arc::new(values.with_precision_and_scale(12, 2).unwrap())
}

fn text<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn time(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

pub fn users(rows: &[User]) -> RecordBatch {
    batch(
        ShopTable::Users,
        vec![int4(rows.iter().map(|row| row.user_id)), text(rows.iter().map(|row| row.name.as_deref()))],
    )
}

pub fn products(rows: &[Product]) -> RecordBatch {
    batch(
        ShopTable::Products,
        vec![
            int8(rows.iter().map(|row| row.product_id)),
            text(rows.iter().map(|row| row.name.as_deref())),
            text(rows.iter().map(|row| row.category.as_deref())),
            money(rows.iter().map(|row| row.cents)),
        ],
    )
}

pub fn orders(rows: &[Order]) -> RecordBatch {
    batch(
        ShopTable::Orders,
        vec![
            int8(rows.iter().map(|row| row.order_id)),
            int4(rows.iter().map(|row| row.user_id)),
            money(rows.iter().map(|row| row.cents)),
            text(rows.iter().map(|row| row.status.as_deref())),
            time(rows.iter().map(|row| Some(row.created_at))),
            time(rows.iter().map(|row| row.cancelled_at)),
            time(rows.iter().map(|row| row.returned_at)),
        ],
    )
}

pub fn items(rows: &[Item]) -> RecordBatch {
    batch(
        ShopTable::OrderItems,
        vec![
            int8(rows.iter().map(|row| row.order_item_id)),
            int8(rows.iter().map(|row| row.order_id)),
            int8(rows.iter().map(|row| row.product_id)),
            int4(rows.iter().map(|row| row.quantity.into())),
            money(rows.iter().map(|row| row.cents)),
        ],
    )
}

pub fn events(rows: &[Event]) -> RecordBatch {
    batch(
        ShopTable::Events,
        vec![
            int8(rows.iter().map(|row| row.event_id)),
            time(rows.iter().map(|row| Some(row.event_time))),
            text(rows.iter().map(|row| Some(row.event_type.as_str()))),
            int8(rows.iter().map(|row| row.product_id)),
            int4(rows.iter().map(|row| row.user_id)),
        ],
    )
}

/// One change: its operation, (commit, order), row image, old key and unsent columns.
pub struct Change {
    pub op: Op,
    pub at: (i64, i64),
    pub image: RecordBatch,
    pub old_key: Option<RecordBatch>,
    pub unsent: Vec<usize>,
}

impl Change {
    pub fn new(op: Op, at: (i64, i64), image: RecordBatch) -> Self {
        Self { op, at, image, old_key: None, unsent: Vec::new() }
    }
}

/// Changes of one table as the stream brings them; committed at their commit's number, in microseconds.
pub fn change_batch(table: ShopTable, epoch: i64, changes: &[Change]) -> ChangeBatch {
    let schema = schema(table);
    let images: Vec<_> = changes.iter().map(|change| change.image.clone()).collect();
    let values = arrow::compute::concat_batches(&schema.arrow(), &images).unwrap();
    let key = |image: &RecordBatch| image.project(&schema.key).unwrap();
    let old_keys = changes.iter().any(|change| change.old_key.is_some()).then(|| {
        let keys: Vec<_> =
            changes.iter().map(|change| key(change.old_key.as_ref().unwrap_or(&change.image))).collect();
        let keys = arrow::compute::concat_batches(&schema.key_arrow(), &keys).unwrap();
        let changed: Vec<_> = changes.iter().map(|change| change.old_key.is_some()).collect();
        StructArray::new(schema.key_arrow().fields().clone(), keys.columns().to_vec(), Some(changed.into()))
    });
    let unavailable = (0..schema.columns.len()).map(|column| {
        let mask: Vec<_> = changes.iter().map(|change| change.unsent.contains(&column)).collect();
        mask.contains(&true).then(|| BooleanArray::from(mask))
    });
    ChangeBatch {
        epoch,
        ops: changes.iter().map(|change| change.op).collect(),
        commits: changes.iter().map(|change| Some(change.at.0)).collect(),
        orders: changes.iter().map(|change| Some(change.at.1)).collect(),
        lsns: changes.iter().map(|change| Some(change.at.0)).collect(),
        xids: changes.iter().map(|_| Some(1)).collect(),
        committed_at: changes
            .iter()
            .map(|change| Some(change.at.0))
            .collect::<TimestampMicrosecondArray>()
            .with_timezone("UTC"),
        values,
        old_keys,
        unavailable: unavailable.collect(),
        table: schema,
    }
}
