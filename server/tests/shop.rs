//! A made-up shop: its rows, its live store, models trained on it, and new orders as the change stream brings them.
//! Every number follows from the seed.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{
        ArrayRef, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray,
        TimestampMicrosecondArray,
    },
    datatypes::{DataType, Field, Schema},
};
use lakeward_change::{ChangeBatch, Column, ColumnType, Op, TableId, TableSchema};
use lakeward_features::{ACTIVITY_COLUMNS, Activity, MemoryStore, Money, ShopBatches};
use lakeward_recommender::{Interactions, TrainOptions};

pub const MINUTE: i64 = 60_000_000;
pub const DAY: i64 = 1_440 * MINUTE;
/// 2026-03-01T12:00:00Z, when the shop's history ends.
pub const END: i64 = 1_772_366_400_000_000;
pub const CATEGORIES: [&str; 4] = ["bakery", "dairy", "drinks", "fruit"];

const FIRST: [&str; 8] = ["Ada", "Björn", "Chiara", "Dinh", "Ewa", "Farid", "Grace", "Hugo"];
const LAST: [&str; 6] = ["Okafor", "Lindqvist", "Moretti", "Tanaka", "O'Neill", "<b>Bold & Sons</b>"];
const GOODS: [[&str; 6]; 4] = [
    ["Rye bread", "Baguette", "Croissant", "Oat cookies", "Sourdough", "Poppy roll"],
    ["Whole milk", "Butter", "Greek yoghurt", "Cheddar", "Cream", "Kefir"],
    ["Orange juice", "Green tea", "Ground coffee", "Sparkling water", "Cocoa", "Cider"],
    ["Bananas", "Apples", "Strawberries", "Lemons", "Grapes", "Pears"],
];

/// How large a shop to make up.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub customers: i64,
    pub products: i64,
    pub days: i64,
}

pub const SMALL: Size = Size { customers: 60, products: 48, days: 150 };

#[derive(Debug, Clone)]
pub struct Order {
    pub order_id: i64,
    pub user_id: i64,
    pub status: &'static str,
    pub created_at: i64,
    pub cancelled_at: Option<i64>,
    /// Product, quantity, cents a unit.
    pub lines: Vec<(i64, i32, i64)>,
}

impl Order {
    pub fn cents(&self) -> i64 {
        self.lines.iter().map(|(_, quantity, cents)| i64::from(*quantity) * cents).sum()
    }
}

pub struct Shop {
    pub size: Size,
    pub orders: Vec<Order>,
    random: Random,
}

/// SplitMix64.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as i64
    }
}

pub fn category(product_id: i64) -> usize {
    (product_id % 4) as usize
}

pub fn price(product_id: i64) -> i64 {
    99 + product_id * 37 % 1_200
}

pub fn product_name(product_id: i64) -> String {
    let goods = GOODS[category(product_id)];
    let at = (product_id / 4) as usize;
    let name = goods[at % goods.len()];
    if at < goods.len() { name.to_owned() } else { format!("{name} no. {}", at / goods.len() + 1) }
}

pub fn customer_name(user_id: i64) -> String {
    format!("{} {}", FIRST[(user_id % 8) as usize], LAST[(user_id / 8 % 6) as usize])
}

impl Shop {
    /// Customers buy again and again what they like, mostly in one category; every fourth stops some time before the
    /// end; every fifteenth order is cancelled.
    pub fn new(size: Size, seed: u64) -> Self {
        let mut shop = Self { size, orders: Vec::new(), random: Random(seed) };
        let mut made = Vec::new();
        for user_id in 1..=size.customers {
            let cycle = 4 + shop.random.below(12);
            let until = if user_id % 4 == 0 { END - (20 + shop.random.below(60)) * DAY } else { END };
            let mut at = END - size.days * DAY + shop.random.below(cycle * DAY);
            while at < until {
                made.push(shop.basket(user_id, at));
                at += cycle * DAY / 2 + shop.random.below(cycle * DAY);
            }
        }
        made.sort_by_key(|order| (order.created_at, order.user_id));
        for (at, order) in made.iter_mut().enumerate() {
            order.order_id = at as i64 + 1;
            if order.order_id % 15 == 0 {
                order.status = "cancelled";
                order.cancelled_at = Some(order.created_at + MINUTE);
            }
        }
        shop.orders = made;
        shop
    }

    fn basket(&mut self, user_id: i64, at: i64) -> Order {
        let mut products = BTreeMap::new();
        for _ in 0..1 + self.random.below(5) {
            // Low numbers are more popular; three of four purchases fall into the customer's own category.
            let rank = self.random.below(self.size.products).min(self.random.below(self.size.products));
            let product_id = if self.random.below(4) > 0 { rank / 4 * 4 + user_id % 4 } else { rank };
            let product_id = product_id.min(self.size.products - 1) + 1;
            products.insert(product_id, 1 + self.random.below(3) as i32);
        }
        Order {
            order_id: 0,
            user_id,
            status: "completed",
            created_at: at,
            cancelled_at: None,
            lines: products.into_iter().map(|(id, quantity)| (id, quantity, price(id))).collect(),
        }
    }

    /// A new order that is not in the store yet.
    pub fn next_order(&mut self, user_id: i64, created_at: i64) -> Order {
        let order_id = self.orders.len() as i64 + 1;
        let order = Order { order_id, status: "paid", ..self.basket(user_id, created_at) };
        self.orders.push(order.clone());
        order
    }

    pub fn batches(&self) -> ShopBatches {
        let users: Vec<i64> = (1..=self.size.customers).collect();
        let joined = END - (self.size.days + 10) * DAY;
        let products: Vec<i64> = (1..=self.size.products).collect();
        ShopBatches {
            users: vec![batch(vec![
                ("user_id", integers(users.iter().copied())),
                ("name", texts(users.iter().map(|&id| customer_name(id)))),
                ("email", texts(users.iter().map(|id| format!("{id}@example.com")))),
                ("created_at", times(users.iter().map(|id| Some(joined + id * MINUTE)))),
                ("last_login", times(users.iter().map(|_| None))),
            ])],
            products: vec![batch(vec![
                ("product_id", integers(products.iter().copied())),
                ("name", texts(products.iter().map(|&id| product_name(id)))),
                ("price", amounts(products.iter().map(|&id| price(id)))),
                ("category", texts(products.iter().map(|&id| CATEGORIES[category(id)].to_owned()))),
            ])],
            orders: vec![orders_batch(&self.orders)],
            order_items: vec![items_batch(&self.orders)],
            events: Vec::new(),
        }
    }

    pub fn store(&self) -> MemoryStore {
        MemoryStore::from_batches(&self.batches()).expect("the made-up shop has all columns")
    }

    /// A recommender trained on the kept orders.
    pub fn recommender(&self, seed: u64) -> lakeward_recommender::Model {
        let lines: Vec<_> = self
            .orders
            .iter()
            .filter(|order| order.cancelled_at.is_none())
            .flat_map(|order| order.lines.iter().map(move |line| (order, line)))
            .collect();
        let interactions = batch(vec![
            ("user_id", integers(lines.iter().map(|(order, _)| order.user_id))),
            ("item_id", integers(lines.iter().map(|(_, line)| line.0))),
            ("timestamp", times(lines.iter().map(|(order, _)| Some(order.created_at)))),
            ("weight", integers(lines.iter().map(|(_, line)| i64::from(line.1)))),
            ("basket_id", integers(lines.iter().map(|(order, _)| order.order_id))),
        ]);
        let data = Interactions::from_batches("interactions", &[interactions]).expect("well-formed");
        let options = TrainOptions { factors: 8, iterations: 4, seed, ..TrainOptions::default() };
        lakeward_recommender::train(&data, &options, "test", &|_, _| {}).expect("trains")
    }

    /// A churn model trained on two windows of 30 days.
    pub fn churn(&self) -> lakeward_propensity::Model {
        use lakeward_propensity::{Params, Table, Window, train};
        let horizon = 30 * DAY;
        let windows: Vec<Window> = [END - 2 * horizon, END - horizon]
            .into_iter()
            .map(|t0| {
                let (mut values, mut churned) = (Vec::new(), Vec::new());
                for user_id in 1..=self.size.customers {
                    let (before, after): (Vec<_>, Vec<_>) = self
                        .orders
                        .iter()
                        .filter(|order| order.user_id == user_id && order.cancelled_at.is_none())
                        .map(|order| (order.created_at, Money::from_cents(order.cents())))
                        .partition(|(at, _)| *at < t0);
                    if let Some(activity) = Activity::of(&before, t0) {
                        values.extend(activity.to_array());
                        churned.push(!after.iter().any(|(at, _)| *at < t0 + horizon));
                    }
                }
                let names = ACTIVITY_COLUMNS.iter().map(|name| (*name).to_owned()).collect();
                let table = Table::new(names, values, churned.len()).expect("finite");
                Window::new(t0, &table, &churned).expect("one label a row")
            })
            .collect();
        train(&windows, END, &Params::default(), serde_json::json!({"lsn": "0/1"})).expect("trains")
    }
}

/// What the stream brings when an order is placed (or, with [`Op::Update`], changes) in a transaction.
pub fn changes(order: &Order, op: Op, commit: i64) -> Vec<ChangeBatch> {
    let orders = change("orders", orders_batch(std::slice::from_ref(order)), op, commit, 1);
    let lines = change("order_items", items_batch(std::slice::from_ref(order)), op, commit, 2);
    vec![orders, lines]
}

fn change(table: &str, values: RecordBatch, op: Op, commit: i64, first: i64) -> ChangeBatch {
    let columns: Vec<Column> = values
        .schema()
        .fields()
        .iter()
        .map(|field| Column {
            name: field.name().clone(),
            column_type: match field.data_type() {
                DataType::Int64 => ColumnType::Int8,
                DataType::Int32 => ColumnType::Int4,
                DataType::Decimal128(..) => ColumnType::Numeric { precision: 12, scale: 2 },
                DataType::Timestamp(..) => ColumnType::Timestamp { zoned: true },
                _ => ColumnType::Text,
            },
            source_type: String::new(),
        })
        .collect();
    let rows = values.num_rows();
    let unavailable = vec![None; columns.len()];
    ChangeBatch {
        table: Arc::new(TableSchema {
            id: TableId::new("public", table),
            columns,
            key: vec![0],
            origin: Default::default(),
        }),
        epoch: 1,
        ops: vec![op; rows],
        commits: Int64Array::from(vec![commit; rows]),
        orders: (first..).take(rows).collect::<Vec<_>>().into(),
        lsns: Int64Array::from(vec![commit; rows]),
        xids: Int64Array::from(vec![commit; rows]),
        committed_at: TimestampMicrosecondArray::from(vec![END + commit; rows]).with_timezone("UTC"),
        values,
        old_keys: None,
        unavailable,
    }
}

fn orders_batch(orders: &[Order]) -> RecordBatch {
    batch(vec![
        ("order_id", integers(orders.iter().map(|order| order.order_id))),
        ("user_id", integers(orders.iter().map(|order| order.user_id))),
        ("total_amount", amounts(orders.iter().map(Order::cents))),
        ("status", texts(orders.iter().map(|order| order.status.to_owned()))),
        ("created_at", times(orders.iter().map(|order| Some(order.created_at)))),
        ("cancelled_at", times(orders.iter().map(|order| order.cancelled_at))),
    ])
}

fn items_batch(orders: &[Order]) -> RecordBatch {
    let lines: Vec<_> = orders
        .iter()
        .flat_map(|order| {
            order.lines.iter().enumerate().map(move |(at, line)| (order.order_id, at as i64, line))
        })
        .collect();
    batch(vec![
        ("order_item_id", integers(lines.iter().map(|(order_id, at, _)| order_id * 10 + at))),
        ("order_id", integers(lines.iter().map(|(order_id, _, _)| *order_id))),
        ("product_id", integers(lines.iter().map(|(_, _, line)| line.0))),
        ("quantity", Arc::new(lines.iter().map(|(_, _, line)| line.1).collect::<Int32Array>()) as ArrayRef),
        ("price_per_unit", amounts(lines.iter().map(|(_, _, line)| line.2))),
    ])
}

fn integers(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(values.collect::<Vec<_>>().into_iter().collect::<Int64Array>())
}

fn texts(values: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn times(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn amounts(cents: impl Iterator<Item = i64>) -> ArrayRef {
    let values = cents.map(i128::from).collect::<Vec<_>>();
    Arc::new(Decimal128Array::from(values).with_precision_and_scale(12, 2).expect("12 digits are enough"))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> =
        columns.iter().map(|(name, values)| Field::new(*name, values.data_type().clone(), true)).collect();
    let values = columns.into_iter().map(|(_, values)| values).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), values).expect("columns of one length")
}
