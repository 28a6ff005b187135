//! Feature tables into Redis: only what changed, never over what is newer, and all of it again at any time.

use std::collections::BTreeMap;

use lakeward_change::Position;
use lakeward_features::{MemoryStore, OnlineStore, ShopTables, View};
use lakeward_lakehouse::Lake;
use lakeward_online::{
    MaterializeOptions, Online, OnlineError, Row, Sent, Status, VIEWS, ViewReport, customer_values,
};
use serde_json::Value;

use crate::{
    rows::{Shop, event, item, order, product, user},
    server::{DAY, Server, at, row},
};

pub const CUSTOMERS: i64 = 40;

/// Customers with some orders each, of a few products, and some views and carts.
pub fn shop() -> Shop {
    let mut shop =
        Shop { products: (1..=9).map(|id| product(id, "food", 100 * id)).collect(), ..Shop::default() };
    for user_id in 1..=CUSTOMERS {
        shop.users.push(user(user_id));
        for number in 0..user_id % 5 {
            let order_id = 100 * user_id + number;
            shop.orders.push(order(
                order_id,
                user_id,
                100 * (number + user_id),
                (90 - 7 * number - user_id) * DAY,
            ));
            shop.items.push(item(2 * order_id, order_id, 1 + user_id % 9, 1, 100 * (number + user_id)));
            shop.items.push(item(2 * order_id + 1, order_id, 1 + number, 2, 1));
        }
        if user_id % 3 == 0 {
            let kind = if user_id % 2 == 0 { "view" } else { "cart" };
            shop.events.push(event(user_id, (80 + user_id % 9) * DAY, kind, user_id, 1 + user_id % 9));
        }
    }
    shop
}

pub struct Tables {
    pub lake: Lake,
    _folder: tempfile::TempDir,
}

impl Tables {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open(folder.path().to_str().unwrap(), BTreeMap::new()).unwrap();
        Self { lake, _folder: folder }
    }

    /// A run of the views on the shop's rows, as of a moment, as from a watermark at `commit`.
    pub async fn build(&self, shop: &Shop, as_of: i64, commit: i64) {
        let tables = ShopTables::from_batches(&shop.batches(), 200 * DAY).unwrap();
        for view in VIEWS {
            let rows = tables.view(view, as_of).await.unwrap();
            let frame = self.lake.session().read_batch(rows).unwrap();
            let position = Position { epoch: 1, commit, order: 0 };
            self.lake.write_features(view.name(), frame, as_of, Some(position)).await.unwrap();
        }
    }
}

async fn materialize(online: &Online, tables: &Tables, options: MaterializeOptions) -> Vec<ViewReport> {
    online.materialize(&tables.lake, &options, &|_| {}).await.unwrap()
}

fn full() -> MaterializeOptions {
    MaterializeOptions { full: true, ..Default::default() }
}

fn counts(reports: &[ViewReport], of: impl Fn(&ViewReport) -> u64) -> Vec<u64> {
    reports.iter().map(of).collect()
}

/// What Redis holds of all customers is what the store in memory computes.
pub async fn assert_equal(online: &Online, store: &MemoryStore, as_of: i64) {
    let ids: Vec<_> = (1..=CUSTOMERS).collect();
    let found = online.customers(&ids, as_of).await.unwrap();
    for (features, user_id) in found.iter().zip(ids) {
        for (held, (view, texts)) in features.views.iter().zip(customer_values(store, user_id, as_of)) {
            let expected: Option<Value> = match view {
                View::UserItemInteractions if texts.is_empty() => None,
                View::UserItemInteractions => {
                    let scored = texts.iter().skip(1).step_by(2);
                    Some(scored.map(|text| serde_json::from_str::<Value>(text).unwrap()).collect())
                }
                _ => texts.first().map(|text| serde_json::from_str(text).unwrap()),
            };
            assert_eq!(held.values, expected, "{view} of {user_id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_gives_what_the_store_in_memory_computes() {
    let Some(server) = Server::start().await else { return };
    let (online, tables, shop) = (server.online(), Tables::new(), shop());
    tables.build(&shop, 90 * DAY, 1000).await;
    let reports = materialize(&online, &tables, MaterializeOptions::default()).await;
    assert!(reports.iter().all(|report| report.sent == Sent::All && report.written == report.entities));
    assert_eq!(counts(&reports, |report| report.entities), [32, 32, 34, 9]);
    let store = MemoryStore::from_batches(&shop.batches()).unwrap();
    store.refresh_scores(90 * DAY);
    assert_equal(&online, &store, 90 * DAY).await;
    let popular = &online.products(&[1], 90 * DAY).await.unwrap()[0].views[0];
    assert_eq!(popular.position, Some(Position { epoch: 1, commit: 1000, order: 0 }));
    let purchases = popular.values.as_ref().unwrap()["purchase_count"].as_u64();
    assert_eq!(purchases, Some(store.product(1).unwrap().purchases));

    // Lost, and built again.
    let _: () = server.ask("FLUSHALL", &[]).await;
    assert_eq!(online.customers(&[9], 90 * DAY).await.unwrap()[0].views[0].status, Status::NotFound);
    materialize(&online, &tables, MaterializeOptions::default()).await;
    assert_equal(&online, &store, 90 * DAY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changed_is_sent() {
    let Some(server) = Server::start().await else { return };
    let (online, tables, mut shop) = (server.online(), Tables::new(), shop());
    tables.build(&shop, 90 * DAY, 1000).await;
    materialize(&online, &tables, MaterializeOptions::default()).await;
    let again = materialize(&online, &tables, MaterializeOptions::default()).await;
    assert!(again.iter().all(|report| report.sent == Sent::Nothing && report.entities == 0));

    // The same moment anew: an order that came late, and one customer's only order gone.
    shop.orders.push(order(9_999, 2, 7, 89 * DAY));
    shop.items.push(item(19_999, 9_999, 8, 1, 7));
    shop.orders.retain(|order| order.user_id != 1);
    tables.build(&shop, 90 * DAY, 1001).await;
    let changed = materialize(&online, &tables, MaterializeOptions::default()).await;
    assert!(changed.iter().all(|report| report.sent == Sent::Changed));
    // Activity and interactions of the two; fifths may move for others.
    assert_eq!(counts(&changed, |report| report.entities)[1..3], [2, 2]);
    let store = MemoryStore::from_batches(&shop.batches()).unwrap();
    store.refresh_scores(90 * DAY);
    assert_equal(&online, &store, 90 * DAY).await;

    // Another moment: everybody.
    tables.build(&shop, 91 * DAY, 1002).await;
    let all = materialize(&online, &tables, MaterializeOptions::default()).await;
    assert!(all.iter().all(|report| report.sent == Sent::All));
    store.refresh_scores(91 * DAY);
    assert_equal(&online, &store, 91 * DAY).await;
    // The earlier run stays out: it was built from an earlier watermark.
    let views = Some(vec![View::UserActivity]);
    let earlier = MaterializeOptions { views, as_of: Some(90 * DAY), full: false };
    let earlier = materialize(&online, &tables, earlier).await;
    assert_eq!((earlier.len(), earlier[0].written), (1, 0));
    assert_equal(&online, &store, 91 * DAY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_takes_over_what_it_covers_and_leaves_what_is_newer() {
    let Some(server) = Server::start().await else { return };
    let (online, tables, shop) = (server.online(), Tables::new(), shop());
    let view = View::UserActivity;
    let put = async |entity, commit, text: &str| {
        online.put(view, at(1, commit, 1, 89 * DAY), &[row(entity, &[text])]).await.unwrap();
    };
    // Before the watermark, in the transaction at it, after it; and of somebody whom no run has.
    put(9, 999, "{\"live\":9}").await;
    put(13, 1000, "{\"live\":13}").await;
    put(14, 2000, "{\"live\":14}").await;
    put(5_000, 999, "{\"live\":5000}").await;
    put(6_000, 1001, "{\"live\":6000}").await;
    tables.build(&shop, 90 * DAY, 1000).await;
    let views = Some(vec![view]);
    let report =
        &materialize(&online, &tables, MaterializeOptions { views: views.clone(), ..full() }).await[0];
    assert_eq!((report.entities, report.written, report.removed), (32, 30, 1));
    let held = async |ids: &[i64]| {
        let found = online.customers(ids, 90 * DAY).await.unwrap();
        let live = |view: &Option<Value>| view.as_ref().map(|value| value.get("live").is_some());
        found.iter().map(|features| live(&features.views[1].values)).collect::<Vec<_>>()
    };
    assert_eq!(
        held(&[9, 13, 14, 5_000, 6_000]).await,
        [Some(false), Some(true), Some(true), None, Some(true)]
    );
    // What was taken away does not come back.
    put(5_000, 998, "{\"live\":5000}").await;
    assert_eq!(held(&[5_000]).await, [None]);
    put(5_000, 1001, "{\"live\":5000}").await;
    assert_eq!(held(&[5_000]).await, [Some(true)]);
    let report = &materialize(&online, &tables, MaterializeOptions { views, ..full() }).await[0];
    assert_eq!((report.entities, report.written, report.removed), (32, 30, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_brought_is_said() {
    let Some(server) = Server::start().await else { return };
    let (online, tables) = (server.online(), Tables::new());
    let asked = async |options: MaterializeOptions| {
        online.materialize(&tables.lake, &options, &|_| {}).await.map(drop).unwrap_err()
    };
    let none = asked(MaterializeOptions::default()).await;
    assert!(
        matches!(none, OnlineError::NotBuilt { .. }) && none.to_string().contains("features build"),
        "{none}"
    );
    let views = Some(vec![View::ChurnTraining]);
    let not_online = asked(MaterializeOptions { views, ..Default::default() }).await;
    assert!(matches!(not_online, OnlineError::NotOnline { .. }));
    let frame = tables.lake.session().sql("SELECT 1 AS user_id").await.unwrap();
    tables.lake.write_features("user_rfm", frame, 90 * DAY, None).await.unwrap();
    assert!(matches!(asked(MaterializeOptions::default()).await, OnlineError::NoPosition { .. }));
    let as_of = Some(91 * DAY);
    let no_run = asked(MaterializeOptions { as_of, ..Default::default() }).await;
    assert!(no_run.to_string().contains("1970-04-02T00:00:00"), "{no_run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_middle_of_a_load_gets_all_in_the_end() {
    let Some(mut server) = Server::start().await else { return };
    let (online, tables, shop) = (server.online(), Tables::new(), shop());
    tables.build(&shop, 90 * DAY, 1000).await;
    let store = MemoryStore::from_batches(&shop.batches()).unwrap();
    store.refresh_scores(90 * DAY);
    // Many small loads in a row, so that one is under way.
    let loading = tokio::spawn({
        let online = online.clone();
        async move {
            let rows: Vec<_> = (0..20_000)
                .map(|entity| Row { entity: entity + 1_000_000, texts: vec!["{\"a\":1}".to_owned()] })
                .collect();
            for commit in 0.. {
                if online.put(View::UserRfm, at(1, commit, 0, 0), &rows).await.is_err() {
                    return commit;
                }
            }
            0
        }
    });
    crate::server::until("rows come in", async || server.ask::<i64>("DBSIZE", &[]).await > 1_000).await;
    server.redis.kill().await.unwrap();
    loading.await.unwrap();
    let error = online.materialize(&tables.lake, &MaterializeOptions::default(), &|_| {}).await;
    assert!(error.unwrap_err().is_retryable());
    server.redis.launch().await.unwrap();
    crate::server::until("it is loaded", async || {
        online.materialize(&tables.lake, &full(), &|_| {}).await.is_ok()
    })
    .await;
    assert_equal(&online, &store, 90 * DAY).await;
}
