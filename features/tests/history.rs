//! A store that followed any history of changes equals one built from the rows that remain.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use lakeward_change::{ChangeBatch, Op};
use lakeward_features::{Customer, MemoryStore, OnlineStore, ShopTable};
use proptest::{prelude::*, test_runner::Config};

use crate::rows::{self, Change, DAY, Item, Order, Product, Shop, User};

const EPOCH: i64 = 1;
const KEYS: i64 = 6;

/// One statement of the shop; keys are drawn from few, so that statements meet.
#[derive(Debug, Clone)]
enum Statement {
    User(i64, Action),
    Product(i64, u8, Action),
    Order { key: i64, user_id: i64, cents: i64, day: i64, closed: Option<(bool, i64)>, action: Action },
    Item { key: i64, order_id: i64, product_id: i64, quantity: i32, action: Action },
    Truncate(ShopTable),
}

#[derive(Debug, Clone, Copy)]
enum Action {
    /// Insert, or update if the row is there; true: long text is not sent.
    Put(bool),
    /// Update with another key.
    Rename(i64, bool),
    Delete,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => any::<bool>().prop_map(Action::Put),
        1 => (0..KEYS, any::<bool>()).prop_map(|(key, unsent)| Action::Rename(key, unsent)),
        2 => Just(Action::Delete),
    ]
}

fn statement() -> impl Strategy<Value = Statement> {
    let closed = prop::option::of((any::<bool>(), 0_i64..120));
    prop_oneof![
        2 => (0..KEYS, action()).prop_map(|(key, action)| Statement::User(key, action)),
        2 => (0..KEYS, any::<u8>(), action()).prop_map(|(key, version, action)| Statement::Product(key, version, action)),
        6 => (0..KEYS, 0..KEYS, 0_i64..9999, 0_i64..100, closed, action()).prop_map(
            |(key, user_id, cents, day, closed, action)| Statement::Order { key, user_id, cents, day, closed, action }
        ),
        8 => (0..2 * KEYS, 0..KEYS, 0..KEYS, 1..4, action()).prop_map(
            |(key, order_id, product_id, quantity, action)| Statement::Item { key, order_id, product_id, quantity, action }
        ),
        1 => prop::sample::select(ShopTable::ALL.to_vec()).prop_map(Statement::Truncate),
    ]
}

/// A row that statements act on.
trait Row: Clone {
    /// Columns of long text, which an update may leave out.
    const TEXT: &'static [usize];
    fn set_key(&mut self, key: i64);
    /// Takes the long text of the stored row, or none.
    fn take_text(&mut self, stored: Option<&Self>);
    fn image(rows: &[Self]) -> RecordBatch;
}

impl Row for User {
    const TEXT: &'static [usize] = &[1];

    fn set_key(&mut self, key: i64) {
        self.user_id = key;
    }

    fn take_text(&mut self, stored: Option<&Self>) {
        self.name = stored.and_then(|stored| stored.name.clone());
    }

    fn image(rows: &[Self]) -> RecordBatch {
        rows::users(rows)
    }
}

impl Row for Product {
    const TEXT: &'static [usize] = &[1, 2];

    fn set_key(&mut self, key: i64) {
        self.product_id = key;
    }

    fn take_text(&mut self, stored: Option<&Self>) {
        self.name = stored.and_then(|stored| stored.name.clone());
        self.category = stored.and_then(|stored| stored.category.clone());
    }

    fn image(rows: &[Self]) -> RecordBatch {
        rows::products(rows)
    }
}

impl Row for Order {
    const TEXT: &'static [usize] = &[3];

    fn set_key(&mut self, key: i64) {
        self.order_id = key;
    }

    fn take_text(&mut self, stored: Option<&Self>) {
        self.status = stored.and_then(|stored| stored.status.clone());
    }

    fn image(rows: &[Self]) -> RecordBatch {
        rows::orders(rows)
    }
}

impl Row for Item {
    const TEXT: &'static [usize] = &[];

    fn set_key(&mut self, key: i64) {
        self.order_item_id = key;
    }

    fn take_text(&mut self, _: Option<&Self>) {}

    fn image(rows: &[Self]) -> RecordBatch {
        rows::items(rows)
    }
}

/// The rows of a table and the changes that led to them.
struct Table<R> {
    rows: BTreeMap<i64, R>,
    changes: Vec<Change>,
}

impl<R: Row> Table<R> {
    fn new() -> Self {
        Self { rows: BTreeMap::new(), changes: Vec::new() }
    }

    fn run(&mut self, at: (i64, i64), key: i64, mut row: R, action: Action) {
        row.set_key(key);
        let Some(stored) = self.rows.remove(&key) else {
            if !matches!(action, Action::Delete) {
                self.changes.push(Change::new(Op::Insert, at, R::image(std::slice::from_ref(&row))));
                self.rows.insert(key, row);
            }
            return;
        };
        let (new_key, unsent) = match action {
            Action::Delete => {
                row.take_text(None);
                self.changes.push(Change::new(Op::Delete, at, R::image(&[row])));
                return;
            }
            Action::Put(unsent) => (key, unsent),
            Action::Rename(other, unsent) if !self.rows.contains_key(&other) => (other, unsent),
            Action::Rename(_, unsent) => (key, unsent),
        };
        let old_key = (new_key != key).then(|| R::image(std::slice::from_ref(&row)));
        row.set_key(new_key);
        let mut sent = row.clone();
        if unsent {
            row.take_text(Some(&stored));
            sent.take_text(None);
        }
        let unsent = if unsent { R::TEXT.to_vec() } else { Vec::new() };
        self.changes.push(Change { old_key, unsent, ..Change::new(Op::Update, at, R::image(&[sent])) });
        self.rows.insert(new_key, row);
    }

    fn truncate(&mut self, at: (i64, i64), row: R) {
        self.rows.clear();
        self.changes.push(Change::new(Op::Truncate, at, R::image(&[row])));
    }

    fn take(&mut self, table: ShopTable) -> Option<ChangeBatch> {
        let changes = std::mem::take(&mut self.changes);
        (!changes.is_empty()).then(|| rows::change_batch(table, EPOCH, &changes))
    }
}

/// The shop's tables while statements run.
struct Tables {
    users: Table<User>,
    products: Table<Product>,
    orders: Table<Order>,
    items: Table<Item>,
}

impl Tables {
    fn new() -> Self {
        Self { users: Table::new(), products: Table::new(), orders: Table::new(), items: Table::new() }
    }

    fn run(&mut self, at: (i64, i64), statement: Statement) {
        match statement {
            Statement::User(key, action) => self.users.run(at, key, rows::user(key * 100 + at.1), action),
            Statement::Product(key, version, action) => {
                let category = ["even", "odd"][usize::from(version % 2)];
                self.products.run(at, key, rows::product(version.into(), category, version.into()), action);
            }
            Statement::Order { key, user_id, cents, day, closed, action } => {
                let mut row = rows::order(key, user_id, cents, day * DAY);
                row.status = Some(format!("status {}", cents % 3));
                if let Some((cancelled, day)) = closed {
                    let time = if cancelled { &mut row.cancelled_at } else { &mut row.returned_at };
                    *time = Some(day * DAY);
                }
                self.orders.run(at, key, row, action);
            }
            Statement::Item { key, order_id, product_id, quantity, action } => {
                self.items.run(at, key, rows::item(key, order_id, product_id, quantity, 100 + key), action);
            }
            Statement::Truncate(ShopTable::Users) => self.users.truncate(at, rows::user(0)),
            Statement::Truncate(ShopTable::Products) => self.products.truncate(at, rows::product(0, "", 0)),
            Statement::Truncate(ShopTable::Orders) => self.orders.truncate(at, rows::order(0, 0, 0, 0)),
            Statement::Truncate(ShopTable::OrderItems) => self.items.truncate(at, rows::item(0, 0, 0, 0, 0)),
            Statement::Truncate(ShopTable::Events) => {}
        }
    }

    /// The changes since the last call. Items come before their orders, which a store must bear.
    fn take(&mut self) -> Vec<ChangeBatch> {
        let batches = [
            self.items.take(ShopTable::OrderItems),
            self.orders.take(ShopTable::Orders),
            self.products.take(ShopTable::Products),
            self.users.take(ShopTable::Users),
        ];
        batches.into_iter().flatten().collect()
    }

    fn shop(&self) -> Shop {
        Shop {
            users: self.users.rows.values().cloned().collect(),
            products: self.products.rows.values().cloned().collect(),
            orders: self.orders.rows.values().cloned().collect(),
            items: self.items.rows.values().cloned().collect(),
            events: Vec::new(),
        }
    }
}

/// What all reads of a store answer.
pub fn answers(store: &MemoryStore) -> impl PartialEq + std::fmt::Debug + use<> {
    let as_ofs = [30 * DAY, 80 * DAY, 200 * DAY];
    let ids: Vec<i64> = (0..2 * KEYS).collect();
    let customers: Vec<_> = as_ofs
        .iter()
        .flat_map(|as_of| {
            ids.iter().map(|id| {
                (store.customer(*id, *as_of), store.activity(*id, *as_of), store.history(*id, *as_of))
            })
        })
        .map(|(customer, activity, history)| {
            // Fifths are taken at load, on purpose.
            (customer.map(|customer| Customer { rfm: None, ..customer }), activity, history)
        })
        .collect();
    let orders: Vec<_> = ids.iter().map(|id| (store.orders(*id, 3), store.product(*id))).collect();
    let lists = (store.products(), store.revenue_minutes(0, 1000 * DAY), store.newest_orders(4));
    let status = store.status();
    let counts = [status.users, status.products, status.orders, status.order_items];
    (customers, orders, lists, counts)
}

proptest! {
    #![proptest_config(Config::with_cases(200))]

    #[test]
    fn following_changes_equals_loading_what_remains(
        base in prop::collection::vec(statement(), 0..30),
        chunks in prop::collection::vec(prop::collection::vec(statement(), 1..12), 0..8),
    ) {
        let mut tables = Tables::new();
        for (order, statement) in base.into_iter().enumerate() {
            tables.run((0, 1 + order as i64), statement);
        }
        tables.take();
        let store = MemoryStore::from_batches(&tables.shop().batches()).unwrap();
        for (commit, statements) in chunks.into_iter().enumerate() {
            for (order, statement) in statements.into_iter().enumerate() {
                tables.run((1 + commit as i64, 1 + order as i64), statement);
            }
            let chunk = tables.take();
            let sent: usize = chunk.iter().map(ChangeBatch::num_rows).sum();
            prop_assert_eq!(store.apply(&chunk).unwrap(), sent as u64);
            // Once more: counted once.
            prop_assert_eq!(store.apply(&chunk).unwrap(), 0);
            let rebuilt = MemoryStore::from_batches(&tables.shop().batches()).unwrap();
            prop_assert_eq!(answers(&store), answers(&rebuilt));
        }
    }
}
