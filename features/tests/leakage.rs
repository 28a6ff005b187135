//! What happens after a moment changes nothing that is computed for it.

use arrow::array::RecordBatch;
use lakeward_features::{ShopNames, ShopTables, View};
use proptest::{prelude::*, test_runner::Config};

use crate::{
    restart::{COMMITS, Captured, SNAPSHOT, commit},
    rows::{DAY, Shop, event, item, order, product, user},
};

const AS_OF: i64 = 100 * DAY;

/// What may happen after the moment.
#[derive(Debug, Clone)]
enum Later {
    Order {
        user_id: i64,
        product_id: i64,
        after: i64,
        cents: i64,
    },
    /// Or, if not cancelled, returned; of an order that was known or not.
    Closed {
        order: prop::sample::Index,
        after: i64,
        cancelled: bool,
    },
    /// Name, category and price.
    Product {
        product: prop::sample::Index,
        cents: i64,
    },
    NewProduct,
    User {
        user: prop::sample::Index,
    },
    NewUser,
    Event {
        user_id: i64,
        product_id: i64,
        after: i64,
        cart: bool,
    },
}

fn later() -> impl Strategy<Value = Later> {
    let (users, products, after) = (1_i64..7, 1_i64..6, 1..60 * DAY);
    prop_oneof![
        5 => (users.clone(), products.clone(), after.clone(), 1_i64..5000).prop_map(
            |(user_id, product_id, after, cents)| Later::Order { user_id, product_id, after, cents }
        ),
        3 => (any::<prop::sample::Index>(), after.clone(), any::<bool>()).prop_map(
            |(order, after, cancelled)| Later::Closed { order, after, cancelled }
        ),
        2 => (any::<prop::sample::Index>(), 1_i64..5000).prop_map(
            |(product, cents)| Later::Product { product, cents }
        ),
        1 => Just(Later::NewProduct),
        1 => any::<prop::sample::Index>().prop_map(|user| Later::User { user }),
        1 => Just(Later::NewUser),
        3 => (users, products, after, any::<bool>()).prop_map(
            |(user_id, product_id, after, cart)| Later::Event { user_id, product_id, after, cart }
        ),
    ]
}

impl Later {
    fn happen(self, number: i64, shop: &mut Shop) {
        // Keys that were free: late rows need not have high ones.
        let id = 1000 - 7 * number;
        match self {
            Self::Order { user_id, product_id, after, cents } => {
                shop.orders.push(order(id, user_id, cents, AS_OF + after));
                shop.items.push(item(id, id, product_id, 2, cents));
            }
            Self::Closed { order, after, cancelled } => {
                let order = order.index(shop.orders.len());
                let order = &mut shop.orders[order];
                let after = order.created_at.max(AS_OF) + after;
                let time = if cancelled { &mut order.cancelled_at } else { &mut order.returned_at };
                *time = time.or(Some(after));
                order.status = Some(if cancelled { "cancelled" } else { "returned" }.into());
            }
            Self::Product { product, cents } => {
                let product = product.index(shop.products.len());
                let product = &mut shop.products[product];
                (product.name, product.category) = (Some(format!("name {number}")), None);
                product.cents = cents;
            }
            Self::NewProduct => shop.products.push(product(id, "new", 1)),
            Self::User { user } => {
                let user = user.index(shop.users.len());
                shop.users[user].name = None;
            }
            Self::NewUser => shop.users.push(user(id)),
            Self::Event { user_id, product_id, after, cart } => {
                let kind = if cart { "cart" } else { "view" };
                shop.events.push(event(id, AS_OF + after, kind, user_id, product_id));
            }
        }
    }
}

/// Everything that is computed for a moment: every view, what a recommender reads, and labelled moments before it.
async fn computed(tables: &ShopTables) -> Vec<(String, RecordBatch)> {
    let mut all = Vec::new();
    for view in View::ALL {
        all.push((view.to_string(), tables.view(view, AS_OF).await.unwrap()));
    }
    all.push(("interactions".into(), tables.interactions(AS_OF).await.unwrap()));
    let moments = [AS_OF - 7 * DAY, AS_OF - 40 * DAY];
    all.push(("activity".into(), tables.activity(&moments).await.unwrap()));
    all.push(("labels".into(), tables.churn_training(&moments, 7).await.unwrap()));
    all
}

proptest! {
    #![proptest_config(Config::with_cases(6))]

    #[test]
    fn the_future_is_not_seen(
        later in prop::collection::vec(later(), 1..40),
        turned in any::<prop::sample::Index>(),
    ) {
        let known = crate::views::shop().at(AS_OF);
        let mut told = known.clone();
        for (number, later) in later.into_iter().enumerate() {
            later.happen(number as i64, &mut told);
        }
        // A changed row is stored elsewhere: no order of rows may matter.
        let by = turned.index(told.orders.len());
        told.orders.rotate_left(by);
        told.items.reverse();
        told.events.reverse();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let then = ShopTables::from_batches(&known.batches(), AS_OF).unwrap();
            let now = ShopTables::from_batches(&told.batches(), AS_OF + 100 * DAY).unwrap();
            assert_eq!(computed(&then).await, computed(&now).await);
        });
    }
}

/// Rows that come late and are dated back, lines added to old orders, deleted and emptied tables: their own times do not
/// tell that they were unknown. The watermark of the moment does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_late_and_is_dated_back_is_not_seen_at_the_watermark_of_the_moment() {
    let mut captured = Captured::copy().await;
    let then = captured.watermark(SNAPSHOT);
    let changes: Vec<_> = (1..=COMMITS).flat_map(commit).collect();
    captured.flush(&changes).await;
    let now = captured.watermark(SNAPSHOT + COMMITS + 1);

    let known = ShopTables::from_batches(&crate::views::shop().batches(), AS_OF).unwrap();
    let names = ShopNames::default();
    let then = ShopTables::open(&captured.lake, &then, &names).await.unwrap();
    let now = ShopTables::open(&captured.lake, &now, &names).await.unwrap();
    let known = computed(&known).await;
    assert_eq!(computed(&then).await, known);
    for ((view, known), (_, now)) in known.iter().zip(computed(&now).await) {
        assert_ne!(*known, now, "{view}: the later changes can be seen");
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
