//! The store's answers, one case at a time.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use lakeward_change::Op;
use lakeward_features::{
    FeatureError, MemoryStore, Money, OnlineStore, RevenueMinute, Segment, ShopBatches, ShopTable,
    ShopTables, StoreEvent, View,
};

use crate::{
    rows::{self, Change, DAY, change_batch, event, events, item, items, order, orders, product, products},
    views::shop,
};

const MINUTE: i64 = 60_000_000;

fn store() -> MemoryStore {
    MemoryStore::from_batches(&shop().batches()).unwrap()
}

fn put(table: ShopTable, op: Op, at: (i64, i64), image: RecordBatch) -> lakeward_change::ChangeBatch {
    change_batch(table, 1, &[Change::new(op, at, image)])
}

#[test]
fn a_customer_and_what_they_bought() {
    let store = store();
    assert_eq!(store.status().as_of, Some(101 * DAY));
    let customer = store.customer(3, 100 * DAY).unwrap();
    assert_eq!((customer.orders, customer.kept_orders, customer.monetary), (3, 1, Money::from_cents(120)));
    assert_eq!((customer.recency_days, customer.last_order_at), (Some(2), Some(98 * DAY)));
    // On day 96, neither the cancellation nor the return was known.
    assert_eq!(store.customer(3, 96 * DAY).unwrap().monetary.to_string(), "149.00");
    assert_eq!(store.customer(4, 100 * DAY).unwrap().kept_orders, 0);
    assert_eq!(store.customer(5, 100 * DAY), None);

    let history = store.history(1, 100 * DAY);
    let bought: Vec<_> =
        history.iter().map(|item| (item.product_id, item.purchases, item.quantity, item.carts)).collect();
    assert_eq!(bought, [(1, 3, 4, 0), (2, 2, 2, 0), (3, 0, 0, 2)]);
    assert_eq!(history[0].spend.to_string(), "10.00");
    let twice = store.history(3, 100 * DAY);
    assert_eq!((twice[0].purchases, twice[0].quantity), (1, 2));
    assert_eq!((store.product(1).unwrap().purchases, store.product(2).unwrap().purchases), (3, 4));
}

/// Scores and segments of the store are those of the SQL view, while the fifths are fresh.
#[tokio::test]
async fn rfm_is_that_of_the_view() {
    use arrow::{array::AsArray, datatypes::Int64Type};

    let as_of = 100 * DAY;
    let store = store();
    store.refresh_scores(as_of);
    let tables = ShopTables::from_batches(&shop().batches(), as_of).unwrap();
    let view = tables.view(View::UserRfm, as_of).await.unwrap();
    let column = |name| view.column_by_name(name).unwrap().as_primitive::<Int64Type>();
    assert_eq!(view.num_rows(), 3);
    for row in 0..view.num_rows() {
        let rfm = store.customer(column("user_id").value(row), as_of).unwrap().rfm.unwrap();
        let scores =
            ["recency_score", "frequency_score", "monetary_score"].map(|name| column(name).value(row));
        assert_eq!([rfm.recency_score, rfm.frequency_score, rfm.monetary_score].map(i64::from), scores);
        assert_eq!(view.column_by_name("segment").unwrap().as_string::<i32>().value(row), rfm.segment.name());
    }
    assert_eq!(store.customer(2, as_of).unwrap().rfm.unwrap().segment, Segment::Lost);
}

#[test]
fn a_cancellation_is_subtracted_from_the_orders_own_minute() {
    let store = store();
    let minute =
        |revenue, orders| RevenueMinute { minute: 98 * DAY, revenue: Money::from_cents(revenue), orders };
    let of_day = || store.revenue_minutes(98 * DAY, 99 * DAY);
    assert_eq!(of_day(), [minute(120, 1)]);
    let mut events = store.subscribe();

    let placed = order(40, 2, 880, 98 * DAY + MINUTE - 1);
    let chunk = [
        put(ShopTable::OrderItems, Op::Insert, (5, 2), items(&[item(50, 40, 1, 2, 440)])),
        put(ShopTable::Orders, Op::Insert, (5, 1), orders(std::slice::from_ref(&placed))),
    ];
    assert_eq!(store.apply(&chunk).unwrap(), 2);
    assert_eq!(of_day(), [minute(1000, 2)]);
    let Ok(StoreEvent::Order(told)) = events.try_recv() else { panic!("no order told") };
    assert_eq!((told.order_id, told.items.len(), told.kept), (40, 1, true));
    assert_eq!(events.try_recv(), Ok(StoreEvent::Revenue(minute(1000, 2))));

    let mut cancelled = placed;
    cancelled.cancelled_at = Some(99 * DAY);
    cancelled.status = Some("cancelled".into());
    store.apply(&[put(ShopTable::Orders, Op::Update, (6, 1), orders(&[cancelled]))]).unwrap();
    assert_eq!(of_day(), [minute(120, 1)]);
    assert!(
        matches!(events.try_recv(), Ok(StoreEvent::Order(told)) if !told.kept && told.status == "cancelled")
    );
    assert_eq!(events.try_recv(), Ok(StoreEvent::Revenue(minute(120, 1))));

    // A price or status change that leaves revenue as it is tells of no minute; a deletion does.
    let mut shipped = order(32, 3, 120, 98 * DAY);
    shipped.status = Some("shipped".into());
    store.apply(&[put(ShopTable::Orders, Op::Update, (7, 1), orders(&[shipped.clone()]))]).unwrap();
    assert!(matches!(events.try_recv(), Ok(StoreEvent::Order(told)) if told.status == "shipped"));
    store.apply(&[put(ShopTable::Orders, Op::Delete, (8, 1), orders(&[shipped]))]).unwrap();
    assert_eq!(events.try_recv(), Ok(StoreEvent::Revenue(minute(0, 0))));
    assert!(events.try_recv().is_err());
    assert!(of_day().is_empty());
    assert_eq!(store.status().committed_at, Some(8));
}

#[test]
fn readers_see_a_chunk_whole_or_not_at_all() {
    const LAST: i64 = 600;
    let store = MemoryStore::from_batches(&ShopBatches::default()).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for id in 1..=LAST {
                let lines = [item(2 * id, id, 1, 1, 100), item(2 * id + 1, id, 2, 1, 100)];
                let chunk = [
                    put(ShopTable::Orders, Op::Insert, (id, 1), orders(&[order(id, 1, 200, id)])),
                    change_batch(
                        ShopTable::OrderItems,
                        1,
                        &lines.map(|line| Change::new(Op::Insert, (id, line.order_item_id), items(&[line]))),
                    ),
                ];
                store.apply(&chunk).unwrap();
            }
        });
        let mut newest = 0;
        while !writer.is_finished() {
            for order in store.newest_orders(1) {
                assert_eq!(order.items.len(), 2);
                assert!(order.order_id >= newest);
                newest = order.order_id;
            }
        }
    });
    let sums = RevenueMinute { minute: 0, revenue: Money::from_cents(200 * LAST), orders: LAST as u64 };
    assert_eq!(store.revenue_minutes(0, MINUTE), [sums]);
}

#[test]
fn a_status_alone_cancels() {
    let store = store();
    let mut cancelled = order(32, 3, 120, 98 * DAY);
    cancelled.status = Some("cancelled".into());
    store.apply(&[put(ShopTable::Orders, Op::Update, (5, 1), orders(&[cancelled]))]).unwrap();
    assert!(store.revenue_minutes(98 * DAY, 99 * DAY).is_empty());
    assert_eq!(store.customer(3, 100 * DAY).unwrap().kept_orders, 0);
}

#[test]
fn each_change_counts_once_and_in_order() {
    let store = store();
    let price = |at, cents| put(ShopTable::Products, Op::Update, at, products(&[product(1, "bread", cents)]));
    assert_eq!(store.apply(&[price((7, 2), 300)]).unwrap(), 1);
    assert_eq!(store.apply(&[price((7, 2), 300), price((7, 1), 100), price((6, 9), 200)]).unwrap(), 0);
    assert_eq!(store.product(1).unwrap().price, Some(Money::from_cents(300)));
    let view = put(ShopTable::Events, Op::Insert, (8, 1), events(&[event(9, 101 * DAY, "view", 4, 1)]));
    assert_eq!(store.apply(&[view.clone(), view]).unwrap(), 1);
    assert_eq!(store.product(1).unwrap().views, 1);
    assert_eq!(store.history(4, 100 * DAY)[0].views, 1);
}

#[test]
fn events_that_change_or_go_are_not_counted_any_more() {
    let store = store();
    let change = |op, at, id, kind, user_id| {
        put(ShopTable::Events, op, (at, 1), events(&[event(id, 101 * DAY, kind, user_id, 1)]))
    };
    let counts = || {
        let history = store.history(4, 100 * DAY);
        history.iter().map(|item| (item.product_id, item.views, item.carts)).collect::<Vec<_>>()
    };
    let before = (store.status().events, store.product(1));
    store.apply(&[change(Op::Insert, 5, 9, "view", 4), change(Op::Insert, 6, 10, "view", 4)]).unwrap();
    assert_eq!(counts(), [(1, 2, 0)]);
    store.apply(&[change(Op::Update, 7, 9, "cart", 4)]).unwrap();
    assert_eq!(counts(), [(1, 1, 1)]);
    // Of a deleted row only the key is sent.
    let key_alone = |id| {
        let mut gone = change(Op::Delete, 8, id, "", 0);
        let null = |column: &ArrayRef| new_null_array(column.data_type(), 1);
        let columns = gone.values.columns().iter().enumerate();
        let columns =
            columns.map(|(index, column)| if index == 0 { Arc::clone(column) } else { null(column) });
        gone.values = RecordBatch::try_new(gone.values.schema(), columns.collect()).unwrap();
        gone
    };
    let [first, mut second] = [9, 10].map(key_alone);
    second.orders = [2].into_iter().map(Some).collect();
    store.apply(&[first, second]).unwrap();
    assert!(counts().is_empty());
    assert_eq!((store.status().events, store.product(1)), before);
    // One that was there at the start.
    store.apply(&[change(Op::Delete, 9, 1, "", 0)]).unwrap();
    assert_eq!(store.status().events, before.0 - 1);
}

#[test]
fn a_table_copied_anew_asks_for_a_new_store() {
    let store = store();
    let image = || products(&[product(1, "bread", 1)]);
    store.apply(&[put(ShopTable::Products, Op::Update, (7, 2), image())]).unwrap();
    let anew = change_batch(ShopTable::Products, 2, &[Change::new(Op::Read, (1, 0), image())]);
    let before = store.customer(4, 0);
    let user = put(ShopTable::Users, Op::Delete, (8, 1), rows::users(&[rows::user(4)]));
    let refused = store.apply(&[user, anew]);
    assert!(matches!(refused, Err(FeatureError::NewEpoch { table: ShopTable::Products, held: 1, found: 2 })));
    assert_eq!(store.customer(4, 0), before);
}

#[test]
fn nothing_of_a_chunk_is_applied_if_a_part_cannot_be() {
    let store = MemoryStore::from_batches(&ShopBatches::default()).unwrap();
    let good = put(ShopTable::Products, Op::Insert, (1, 1), products(&[product(1, "bread", 1)]));
    let mut bad = put(ShopTable::Users, Op::Insert, (1, 2), rows::users(&[rows::user(1)]));
    bad.values = bad.values.project(&[1]).unwrap();
    assert!(matches!(store.apply(&[good.clone(), bad]), Err(FeatureError::MissingColumns { .. })));
    assert_eq!(store.status().changes, 0);
    assert_eq!(store.product(1), None);
    assert_eq!(store.apply(&[good]).unwrap(), 1);
}
