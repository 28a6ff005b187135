//! Activity in Rust, in SQL and from the store are one.

use arrow::{
    array::AsArray,
    datatypes::{Float64Type, Int64Type, TimestampMicrosecondType},
};
use lakeward_features::{ACTIVITY_COLUMNS, Activity, MemoryStore, Money, OnlineStore, ShopTables};
use proptest::{prelude::*, test_runner::Config};

use crate::rows::{DAY, Shop, order, product, user};

proptest! {
    #![proptest_config(Config::with_cases(12))]

    #[test]
    fn rust_and_sql_agree(
        placed in prop::collection::vec((1_i64..5, 0..200 * DAY, 0_i64..100_000, prop::option::of(0..60 * DAY)), 0..60),
        // Some at the very same time, and on the edges of windows.
        regular in prop::collection::vec((1_i64..5, 0_i64..30), 0..30),
    ) {
        let mut orders = Vec::new();
        for (user_id, created_at, cents, cancelled_after) in placed {
            let mut one = order(orders.len() as i64, user_id, cents, created_at);
            one.cancelled_at = cancelled_after.map(|after| created_at + after);
            orders.push(one);
        }
        for (user_id, weeks) in regular {
            orders.push(order(orders.len() as i64, user_id, 100, weeks * 7 * DAY));
        }
        let shop = Shop { users: vec![user(1)], products: vec![product(1, "a", 1)], orders, ..Shop::default() };
        let moments = [98 * DAY, 150 * DAY, 203 * DAY];
        let batches = shop.batches();
        let tables = ShopTables::from_batches(&batches, 300 * DAY).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = runtime.block_on(tables.activity(&moments)).unwrap();
        let store = MemoryStore::from_batches(&batches).unwrap();

        let mut expected = Vec::new();
        for moment in moments {
            for user_id in 1..5 {
                let kept: Vec<_> = shop
                    .orders
                    .iter()
                    .filter(|order| order.user_id == user_id && order.cancelled_at.is_none_or(|at| at > moment))
                    .map(|order| (order.created_at, Money::from_cents(order.cents)))
                    .collect();
                let activity = Activity::of(&kept, moment);
                prop_assert_eq!(store.activity(user_id, moment), activity);
                expected.extend(activity.map(|activity| (moment, user_id, activity.to_array())));
            }
        }
        let moments = found.column_by_name("event_time").unwrap().as_primitive::<TimestampMicrosecondType>();
        let users = found.column_by_name("user_id").unwrap().as_primitive::<Int64Type>();
        let columns = ACTIVITY_COLUMNS.map(|name| found.column_by_name(name).unwrap().as_primitive::<Float64Type>());
        let found: Vec<_> = (0..found.num_rows())
            .map(|row| (moments.value(row), users.value(row), columns.map(|column| column.value(row))))
            .collect();
        prop_assert_eq!(found, expected);
    }
}
