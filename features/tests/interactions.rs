//! Interaction scores of the store and in SQL are one, to the last decimal.

use arrow::{
    array::AsArray,
    datatypes::{Decimal128Type, Int64Type},
};
use lakeward_change::Op;
use lakeward_features::{MemoryStore, OnlineStore, ShopTable, ShopTables, View};
use proptest::{prelude::*, test_runner::Config};

use crate::rows::{self, Change, DAY, Shop, change_batch, event, item, order, product, user};

proptest! {
    #![proptest_config(Config::with_cases(12))]

    #[test]
    fn store_and_sql_agree(
        bought in prop::collection::vec((1_i64..5, 0..200 * DAY, 1_i64..6, 1_i64..6, prop::option::of(0..60 * DAY)), 0..40),
        seen in prop::collection::vec((1_i64..5, 0..210 * DAY, prop::sample::select(vec!["view", "cart", "remove_from_cart"]), 1_i64..6), 0..60),
    ) {
        let mut shop = Shop { users: vec![user(1)], products: vec![product(1, "a", 1)], ..Shop::default() };
        for (user_id, created_at, first, second, cancelled_after) in bought {
            let order_id = shop.orders.len() as i64;
            let mut one = order(order_id, user_id, 100, created_at);
            one.cancelled_at = cancelled_after.map(|after| created_at + after);
            shop.orders.push(one);
            shop.items.push(item(2 * order_id, order_id, first, 1, 100));
            shop.items.push(item(2 * order_id + 1, order_id, second, 2, 100));
        }
        for (user_id, at, kind, product_id) in seen {
            shop.events.push(event(shop.events.len() as i64, at, kind, user_id, product_id));
        }
        let batches = shop.batches();
        let tables = ShopTables::from_batches(&batches, 300 * DAY).unwrap();
        let store = MemoryStore::from_batches(&batches).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for as_of in [98 * DAY, 203 * DAY] {
            let view = runtime.block_on(tables.view(View::UserItemInteractions, as_of)).unwrap();
            let number = |name| view.column_by_name(name).unwrap().as_primitive::<Int64Type>();
            let scores = view.column_by_name("interaction_score").unwrap().as_primitive::<Decimal128Type>();
            let found: Vec<_> = (0..view.num_rows())
                .map(|row| (number("user_id").value(row), number("product_id").value(row), scores.value(row)))
                .collect();
            let expected: Vec<_> = (1..5)
                .flat_map(|user_id| store.interactions(user_id, as_of).into_iter().map(move |one| (user_id, one)))
                .map(|(user_id, one)| (user_id, one.product_id, i128::from(one.millionths)))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}

#[test]
fn a_chunk_tells_whose_features_it_changed() {
    let store = MemoryStore::from_batches(&crate::views::shop().batches()).unwrap();
    let put = |table, op, at, image| change_batch(table, 1, &[Change::new(op, at, image)]);
    let chunk = [
        put(ShopTable::Orders, Op::Insert, (5, 1), rows::orders(&[order(40, 2, 100, 102 * DAY)])),
        put(ShopTable::Events, Op::Insert, (5, 2), rows::events(&[event(9, 102 * DAY, "view", 4, 1)])),
    ];
    let applied = store.follow_chunk(&chunk).unwrap();
    // Of customer 1 nothing is left that a session could have.
    assert_eq!((applied.changes, Vec::from_iter(applied.customers)), (2, vec![1, 2, 4]));
    // What counted before does not count again.
    let again = store.follow_chunk(&chunk).unwrap();
    assert_eq!((again.changes, again.customers.len()), (0, 0));
    // An order that goes to another customer changes both; a product nobody's.
    let moved = put(ShopTable::Orders, Op::Update, (6, 1), rows::orders(&[order(40, 3, 100, 102 * DAY)]));
    let price = put(ShopTable::Products, Op::Update, (6, 2), rows::products(&[product(1, "bread", 1)]));
    let applied = store.follow_chunk(&[moved, price]).unwrap();
    assert_eq!(Vec::from_iter(applied.customers), [2, 3]);
    let at = store.status().position();
    assert_eq!((at.epoch, at.commit, at.order), (1, 6, 2));
    let gone = put(ShopTable::Events, Op::Truncate, (7, 1), rows::events(&[event(9, 0, "view", 4, 1)]));
    assert_eq!(Vec::from_iter(store.follow_chunk(&[gone]).unwrap().customers), [1, 4]);
    let mut ids = store.customer_ids();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3]);
}
