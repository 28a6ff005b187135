//! What happens after a moment changes nothing that is computed for it.

use lakeward_features::{ShopTables, View};
use proptest::{prelude::*, test_runner::Config};

use crate::rows::{DAY, Shop, event, item, order};

const AS_OF: i64 = 100 * DAY;

proptest! {
    #![proptest_config(Config::with_cases(4))]

    #[test]
    fn the_future_is_not_seen(
        later in prop::collection::vec((1_i64..5, 1_i64..4, 1..40 * DAY, 1_i64..5000), 1..20),
        cancelled in prop::collection::vec((any::<prop::sample::Index>(), 1..40 * DAY, any::<bool>()), 0..5),
    ) {
        let known = crate::views::shop().at(AS_OF);
        let mut told = known.clone();
        for (index, (user_id, product_id, after, cents)) in later.into_iter().enumerate() {
            let id = 1000 + index as i64;
            told.orders.push(order(id, user_id, cents, AS_OF + after));
            told.items.push(item(id, id, product_id, 2, cents));
            told.events.push(event(id, AS_OF + after, "cart", user_id, product_id));
        }
        for (index, after, was_cancelled) in cancelled {
            let order = index.get(&known.orders).order_id;
            let order = told.orders.iter_mut().find(|other| other.order_id == order).unwrap();
            let time = if was_cancelled { &mut order.cancelled_at } else { &mut order.returned_at };
            *time = time.or(Some(AS_OF + after));
            order.status = Some(if was_cancelled { "cancelled" } else { "returned" }.into());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let then = ShopTables::from_batches(&known.batches(), AS_OF).unwrap();
            let now = ShopTables::from_batches(&told.batches(), AS_OF + 50 * DAY).unwrap();
            for view in View::ALL {
                assert_eq!(then.view(view, AS_OF).await.unwrap(), now.view(view, AS_OF).await.unwrap(), "{view}");
            }
            assert_eq!(then.interactions(AS_OF).await.unwrap(), now.interactions(AS_OF).await.unwrap());
        });
    }
}

impl Shop {
    /// The rows as they were at a moment.
    fn at(mut self, as_of: i64) -> Self {
        self.orders.retain(|order| order.created_at <= as_of);
        self.items.retain(|item| self.orders.iter().any(|order| order.order_id == item.order_id));
        self.events.retain(|event| event.event_time <= as_of);
        self
    }
}
