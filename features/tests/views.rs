//! Each view on a shop small enough to check by hand.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch, StringArray},
    util::pretty::pretty_format_batches,
};
use insta::assert_snapshot;
use lakeward_features::{FeatureError, ShopBatches, ShopTable, ShopTables, View};

use crate::rows::{DAY, Shop, event, item, order, product, user};

/// Three customers as of day 100. Customer 1 buys every ten days, 2 bought once long ago, 3's only kept order is new,
/// since another was cancelled on day 97 and a third returned on day 99.
pub fn shop() -> Shop {
    let mut cancelled = order(30, 3, 9900, 95 * DAY);
    cancelled.cancelled_at = Some(97 * DAY);
    cancelled.status = Some("cancelled".into());
    let mut returned = order(31, 3, 5000, 96 * DAY);
    returned.returned_at = Some(99 * DAY);
    returned.status = Some("returned".into());
    Shop {
        users: vec![user(1), user(2), user(3), user(4)],
        products: vec![product(1, "bread", 250), product(2, "milk", 120), product(3, "milk", 999)],
        orders: vec![
            order(10, 1, 620, 70 * DAY),
            order(11, 1, 370, 80 * DAY),
            order(12, 1, 250, 90 * DAY),
            order(20, 2, 1998, 5 * DAY),
            cancelled,
            returned,
            order(32, 3, 120, 98 * DAY),
            order(33, 3, 240, 101 * DAY),
        ],
        items: vec![
            item(1, 10, 1, 2, 250),
            item(2, 10, 2, 1, 120),
            item(3, 11, 1, 1, 250),
            item(4, 11, 2, 1, 120),
            item(5, 12, 1, 1, 250),
            item(6, 20, 3, 2, 999),
            item(7, 30, 3, 10, 990),
            item(8, 31, 3, 5, 1000),
            // The same product twice in one order is one purchase.
            item(9, 32, 2, 1, 60),
            item(10, 32, 2, 1, 60),
            item(11, 33, 2, 2, 120),
        ],
        events: vec![
            event(1, 70 * DAY, "view", 1, 3),
            event(2, 100 * DAY, "view", 1, 3),
            event(3, 100 * DAY, "cart", 1, 3),
            event(4, 100 * DAY, "remove_from_cart", 1, 3),
            event(5, 100 * DAY + 1, "cart", 1, 3),
        ],
    }
}

fn table(batch: &RecordBatch) -> String {
    pretty_format_batches(std::slice::from_ref(batch)).unwrap().to_string()
}

async fn view(view: View, as_of: i64) -> String {
    let tables = ShopTables::from_batches(&shop().batches(), as_of).unwrap();
    table(&tables.view(view, as_of).await.unwrap())
}

#[tokio::test]
async fn user_rfm() {
    assert_snapshot!(view(View::UserRfm, 100 * DAY).await, @r"
        +---------+----------------------+----------------------+--------------+-----------+----------+---------------+-----------------+----------------+-----------------+
        | user_id | event_time           | last_order_at        | recency_days | frequency | monetary | recency_score | frequency_score | monetary_score | segment         |
        +---------+----------------------+----------------------+--------------+-----------+----------+---------------+-----------------+----------------+-----------------+
        | 1       | 1970-04-11T00:00:00Z | 1970-04-01T00:00:00Z | 10           | 3         | 12.4000  | 3             | 5               | 3              | loyal           |
        | 2       | 1970-04-11T00:00:00Z | 1970-01-06T00:00:00Z | 95           | 1         | 19.9800  | 1             | 2               | 5              | lost            |
        | 3       | 1970-04-11T00:00:00Z | 1970-04-09T00:00:00Z | 2            | 1         | 1.2000   | 5             | 2               | 1              | potential_loyal |
        +---------+----------------------+----------------------+--------------+-----------+----------+---------------+-----------------+----------------+-----------------+
    ");
}

#[tokio::test]
async fn user_rfm_before_the_cancellation_and_the_return() {
    assert_snapshot!(view(View::UserRfm, 96 * DAY).await, @r"
        +---------+----------------------+----------------------+--------------+-----------+----------+---------------+-----------------+----------------+-----------------+
        | user_id | event_time           | last_order_at        | recency_days | frequency | monetary | recency_score | frequency_score | monetary_score | segment         |
        +---------+----------------------+----------------------+--------------+-----------+----------+---------------+-----------------+----------------+-----------------+
        | 1       | 1970-04-07T00:00:00Z | 1970-04-01T00:00:00Z | 6            | 3         | 12.4000  | 3             | 5               | 1              | loyal           |
        | 2       | 1970-04-07T00:00:00Z | 1970-01-06T00:00:00Z | 91           | 1         | 19.9800  | 1             | 1               | 3              | lost            |
        | 3       | 1970-04-07T00:00:00Z | 1970-04-07T00:00:00Z | 0            | 2         | 149.0000 | 5             | 3               | 5              | potential_loyal |
        +---------+----------------------+----------------------+--------------+-----------+----------+---------------+-----------------+----------------+-----------------+
    ");
}

#[tokio::test]
async fn user_item_interactions() {
    assert_snapshot!(view(View::UserItemInteractions, 100 * DAY).await, @r"
        +---------+------------+----------------------+----------+-----------+---------+-------+-------+----------------------+----------------------+-------------------+
        | user_id | product_id | event_time           | quantity | purchases | spend   | views | carts | first_at             | last_at              | interaction_score |
        +---------+------------+----------------------+----------+-----------+---------+-------+-------+----------------------+----------------------+-------------------+
        | 1       | 1          | 1970-04-11T00:00:00Z | 4        | 3         | 10.0000 | 0     | 0     | 1970-03-12T00:00:00Z | 1970-04-01T00:00:00Z | 1.923662          |
        | 1       | 2          | 1970-04-11T00:00:00Z | 2        | 2         | 2.4000  | 0     | 0     | 1970-03-12T00:00:00Z | 1970-03-22T00:00:00Z | 1.129961          |
        | 1       | 3          | 1970-04-11T00:00:00Z | 0        | 0         | 0.0000  | 2     | 1     | 1970-03-12T00:00:00Z | 1970-04-11T00:00:00Z | 0.450000          |
        | 2       | 3          | 1970-04-11T00:00:00Z | 2        | 1         | 19.9800 | 0     | 0     | 1970-01-06T00:00:00Z | 1970-01-06T00:00:00Z | 0.111362          |
        | 3       | 2          | 1970-04-11T00:00:00Z | 2        | 1         | 1.2000  | 0     | 0     | 1970-04-09T00:00:00Z | 1970-04-09T00:00:00Z | 0.954842          |
        +---------+------------+----------------------+----------+-----------+---------+-------+-------+----------------------+----------------------+-------------------+
    ");
}

#[tokio::test]
async fn product_popularity() {
    assert_snapshot!(view(View::ProductPopularity, 100 * DAY).await, @r"
        +------------+----------------------+----------------+-----------+----------+---------+-----------+--------------+---------------+---------------+-------+----------------------+
        | product_id | event_time           | purchase_count | customers | quantity | revenue | avg_price | purchases_7d | purchases_30d | purchases_90d | trend | last_purchased_at    |
        +------------+----------------------+----------------+-----------+----------+---------+-----------+--------------+---------------+---------------+-------+----------------------+
        | 1          | 1970-04-11T00:00:00Z | 3              | 1         | 4        | 10.0000 | 2.5000    | 0            | 3             | 3             | 4.0   | 1970-04-01T00:00:00Z |
        | 2          | 1970-04-11T00:00:00Z | 3              | 2         | 4        | 3.6000  | 0.9000    | 1            | 3             | 3             | 4.0   | 1970-04-09T00:00:00Z |
        | 3          | 1970-04-11T00:00:00Z | 1              | 1         | 2        | 19.9800 | 9.9900    | 0            | 0             | 0             | 1.0   | 1970-01-06T00:00:00Z |
        +------------+----------------------+----------------+-----------+----------+---------+-----------+--------------+---------------+---------------+-------+----------------------+
    ");
}

#[tokio::test]
async fn user_activity() {
    assert_snapshot!(view(View::UserActivity, 100 * DAY).await, @r"
        +---------+----------------------+--------------+-------------+--------------+-----------+------------+------------+------------+------------+-------------+-----------+-----------+---------------+--------------+---------------+------------------+----------------+
        | user_id | event_time           | recency_days | tenure_days | orders_total | orders_7d | orders_14d | orders_30d | orders_60d | orders_90d | spend_total | spend_30d | spend_90d | gap_mean_days | gap_std_days | gap_last_days | recency_over_gap | distinct_weeks |
        +---------+----------------------+--------------+-------------+--------------+-----------+------------+------------+------------+------------+-------------+-----------+-----------+---------------+--------------+---------------+------------------+----------------+
        | 1       | 1970-04-11T00:00:00Z | 10.0         | 30.0        | 3.0          | 0.0       | 1.0        | 3.0        | 3.0        | 3.0        | 12.4        | 12.4      | 12.4      | 10.0          | 0.0          | 10.0          | 1.0              | 3.0            |
        | 2       | 1970-04-11T00:00:00Z | 95.0         | 95.0        | 1.0          | 0.0       | 0.0        | 0.0        | 0.0        | 0.0        | 19.98       | 0.0       | 0.0       | 95.0          | 0.0          | 95.0          | 1.0              | 1.0            |
        | 3       | 1970-04-11T00:00:00Z | 2.0          | 2.0         | 1.0          | 1.0       | 1.0        | 1.0        | 1.0        | 1.0        | 1.2         | 1.2       | 1.2       | 2.0           | 0.0          | 2.0           | 1.0              | 1.0            |
        +---------+----------------------+--------------+-------------+--------------+-----------+------------+------------+------------+------------+-------------+-----------+-----------+---------------+--------------+---------------+------------------+----------------+
    ");
}

#[tokio::test]
async fn churn_training() {
    let tables = ShopTables::from_batches(&shop().batches(), 100 * DAY).unwrap();
    let training = tables.churn_training(&[90 * DAY, 75 * DAY], 10).await.unwrap();
    let columns = ["user_id", "event_time", "recency_days", "orders_total", "label"];
    let columns: Vec<_> = columns.iter().map(|name| training.schema().index_of(name).unwrap()).collect();
    assert_snapshot!(table(&training.project(&columns).unwrap()), @r"
        +---------+----------------------+--------------+--------------+-------+
        | user_id | event_time           | recency_days | orders_total | label |
        +---------+----------------------+--------------+--------------+-------+
        | 1       | 1970-03-17T00:00:00Z | 5.0          | 1.0          | 0     |
        | 2       | 1970-03-17T00:00:00Z | 70.0         | 1.0          | 1     |
        | 1       | 1970-04-01T00:00:00Z | 0.0          | 3.0          | 1     |
        | 2       | 1970-04-01T00:00:00Z | 85.0         | 1.0          | 1     |
        +---------+----------------------+--------------+--------------+-------+
    ");
}

#[tokio::test]
async fn the_order_of_rows_changes_nothing() {
    let in_order = ShopTables::from_batches(&shop().batches(), 100 * DAY).unwrap();
    let mut reversed = shop();
    reversed.orders.reverse();
    reversed.items.reverse();
    reversed.events.reverse();
    let mut batches = reversed.batches();
    for table in [&mut batches.orders, &mut batches.order_items, &mut batches.events] {
        *table = (0..table[0].num_rows()).map(|row| table[0].slice(row, 1)).collect();
    }
    let reversed = ShopTables::from_batches(&batches, 100 * DAY).unwrap();
    for view in View::ALL {
        let rows = in_order.view(view, 100 * DAY).await.unwrap();
        assert_eq!(rows, reversed.view(view, 100 * DAY).await.unwrap(), "{view}");
    }
}

#[tokio::test]
async fn a_horizon_past_what_is_known_is_refused() {
    let tables = ShopTables::from_batches(&shop().batches(), 100 * DAY).unwrap();
    let refused = tables.churn_training(&[91 * DAY], 10).await;
    assert!(matches!(refused, Err(FeatureError::HorizonUnknown { horizon_days: 10 })), "{refused:?}");
}

#[tokio::test]
async fn interactions() {
    let tables = ShopTables::from_batches(&shop().batches(), 100 * DAY).unwrap();
    assert_snapshot!(table(&tables.interactions(100 * DAY).await.unwrap()), @r"
        +---------+---------+----------------------+--------+-----------+
        | user_id | item_id | timestamp            | weight | basket_id |
        +---------+---------+----------------------+--------+-----------+
        | 1       | 1       | 1970-03-12T00:00:00Z | 2.0    | 10        |
        | 1       | 2       | 1970-03-12T00:00:00Z | 1.0    | 10        |
        | 1       | 1       | 1970-03-22T00:00:00Z | 1.0    | 11        |
        | 1       | 2       | 1970-03-22T00:00:00Z | 1.0    | 11        |
        | 1       | 1       | 1970-04-01T00:00:00Z | 1.0    | 12        |
        | 2       | 3       | 1970-01-06T00:00:00Z | 2.0    | 20        |
        | 3       | 2       | 1970-04-09T00:00:00Z | 2.0    | 32        |
        +---------+---------+----------------------+--------+-----------+
    ");
}

#[tokio::test]
async fn a_shop_without_events_or_cancellation_times() {
    let mut batches = shop().batches();
    batches.events.clear();
    let orders = &batches.orders[0];
    let kept: Vec<_> = (0..orders.num_columns() - 2).collect();
    batches.orders = vec![orders.project(&kept).unwrap()];
    let tables = ShopTables::from_batches(&batches, 100 * DAY).unwrap();
    assert_snapshot!(tables.missing().join("\n"), @r"
        users has no column created_at: taken as unknown
        users has no column last_login: taken as unknown
        orders has no column cancelled_at: known from the status alone, since the newest known change
        orders has no column returned_at: known from the status alone, since the newest known change
        orders has no column paid_at: taken as unknown
        orders has no column shipped_at: taken as unknown
        orders has no column completed_at: taken as unknown
        there is no table events: taken as empty
    ");
    // That order 30 was cancelled is known from the status, and only from the time of reading on.
    let now = tables.interactions(100 * DAY).await.unwrap();
    assert_eq!(now.num_rows(), 7);
    let before = tables.interactions(100 * DAY - 1).await.unwrap();
    assert_eq!(before.num_rows(), 9);
    assert_eq!(tables.view(View::UserItemInteractions, 100 * DAY).await.unwrap().num_rows(), 4);
}

#[tokio::test]
async fn what_cannot_be_done_without_is_named() {
    let mut batches = shop().batches();
    batches.orders = vec![batches.orders[0].project(&[0, 1]).unwrap()];
    let message = ShopTables::from_batches(&batches, 0).err().unwrap().to_string();
    assert_eq!(message, "table orders has no column total_amount, created_at");

    batches = ShopBatches { users: batches.users, ..ShopBatches::default() };
    let missing = ShopTables::from_batches(&batches, 0).err().unwrap();
    assert!(
        matches!(&missing, FeatureError::MissingTables(tables) if *tables == ["products", "orders", "order_items"])
    );

    batches = shop().batches();
    let names: ArrayRef = Arc::new(StringArray::from(vec!["one"]));
    batches.users = vec![RecordBatch::try_from_iter([("user_id", names)]).unwrap()];
    let refused = ShopTables::from_batches(&batches, 0).err().unwrap();
    assert!(matches!(refused, FeatureError::ColumnType { table: ShopTable::Users, column: "user_id", .. }));
}
