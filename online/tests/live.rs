//! What the change stream changes is in Redis, once, and again after Redis has lost it.

use std::sync::Arc;

use lakeward_change::{ChangeBatch, Op, Position};
use lakeward_features::{MemoryStore, OnlineStore, ShopTable};
use lakeward_online::{MaterializeOptions, Online, Publisher, Status};

use crate::{
    lake::{CUSTOMERS, Tables, assert_equal, shop},
    rows::{self, Change, change_batch, event, item, order},
    server::{DAY, Server, until},
};

/// Values are for this moment throughout, so that they can be compared.
const NOW: i64 = 95 * DAY;

fn put(table: ShopTable, op: Op, at: (i64, i64), image: arrow::array::RecordBatch) -> ChangeBatch {
    change_batch(table, 1, &[Change::new(op, at, image)])
}

/// An order with one line in one transaction.
fn placed(commit: i64, user_id: i64) -> Vec<ChangeBatch> {
    let order_id = 50_000 + commit;
    vec![
        put(
            ShopTable::Orders,
            Op::Insert,
            (commit, 1),
            rows::orders(&[order(order_id, user_id, 300, 94 * DAY)]),
        ),
        put(
            ShopTable::OrderItems,
            Op::Insert,
            (commit, 2),
            rows::items(&[item(order_id, order_id, 3, 1, 300)]),
        ),
    ]
}

struct Live {
    store: Arc<MemoryStore>,
    publisher: Arc<Publisher>,
    running: tokio::task::JoinHandle<std::convert::Infallible>,
}

impl Live {
    fn start(online: Online) -> Self {
        let store = Arc::new(MemoryStore::from_batches(&shop().batches()).unwrap());
        store.refresh_scores(NOW);
        let publisher = Arc::new(Publisher::new(online, Arc::clone(&store)));
        let run = Arc::clone(&publisher);
        let running = tokio::spawn(async move { run.run(|_| NOW).await });
        Self { store, publisher, running }
    }

    fn apply(&self, chunk: &[ChangeBatch]) {
        self.publisher.changed(self.store.follow_chunk(chunk).unwrap().customers);
    }
}

/// Of the view that is written last.
async fn position(online: &Online, user_id: i64) -> Option<Position> {
    online.customers(&[user_id], NOW).await.ok()?[0].views[2].position
}

/// Redis has what follows from all changes up to a commit of this customer's.
async fn has(online: &Online, user_id: i64, commit: i64) {
    until("the change is in Redis", async || {
        position(online, user_id).await.is_some_and(|at| at.commit >= commit)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_order_is_in_redis_and_counts_once() {
    let Some(server) = Server::start().await else { return };
    let online = server.online();
    let live = Live::start(online.clone());
    live.apply(&placed(2000, 5));
    has(&online, 5, 2000).await;
    assert_equal(&online, &live.store, NOW).await;
    let orders = async || {
        let found = online.customers(&[5], NOW).await.unwrap();
        found[0].views[1].values.as_ref().unwrap()["orders_total"].as_f64().unwrap()
    };
    // Customer 5 had none before.
    assert_eq!(orders().await, 1.0);
    // A replay counts nothing; what stands earlier stays out.
    live.apply(&placed(2000, 5));
    live.apply(&placed(1999, 5));
    live.apply(&[put(
        ShopTable::Events,
        Op::Insert,
        (2001, 1),
        rows::events(&[event(900, 94 * DAY, "cart", 5, 2)]),
    )]);
    has(&online, 5, 2001).await;
    assert_eq!(orders().await, 1.0);
    // The order goes: so do the features that only it gave.
    let gone = rows::orders(&[order(52_000, 5, 300, 94 * DAY)]);
    live.apply(&[put(ShopTable::Orders, Op::Delete, (2002, 1), gone)]);
    has(&online, 5, 2002).await;
    let found = online.customers(&[5], NOW).await.unwrap();
    let statuses: Vec<_> = found[0].views.iter().map(|view| view.status).collect();
    // Their visit of that day is over.
    assert_eq!(statuses, [Status::NotFound, Status::NotFound, Status::Present, Status::NotFound]);
    assert_equal(&online, &live.store, NOW).await;
    // A batch as of an earlier watermark leaves them.
    let tables = Tables::new();
    tables.build(&shop(), NOW, 1500).await;
    online.materialize(&tables.lake, &MaterializeOptions::default(), &|_| {}).await.unwrap();
    assert_equal(&online, &live.store, NOW).await;
    live.running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_loses_comes_again() {
    let Some(mut server) = Server::start().await else { return };
    let online = server.online();
    let live = Live::start(online.clone());
    for round in 0..4 {
        let began = 3000 + round * 100;
        for commit in began..began + 20 {
            live.apply(&placed(commit, 1 + commit % CUSTOMERS));
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            if commit == began + 10 {
                match round {
                    // In the middle of writes, and back on what it had saved, which is nothing or little.
                    0 | 1 => server.redis.kill().await.unwrap(),
                    // Back at once, before anybody notices.
                    2 => {
                        server.redis.kill().await.unwrap();
                        server.redis.launch().await.unwrap();
                    }
                    // Without a connection that breaks.
                    _ => server.ask("FLUSHALL", &[]).await,
                }
            }
        }
        if round < 2 {
            server.redis.launch().await.unwrap();
        }
        let at = live.store.status().position().commit;
        // Everybody's, also those whom no change has touched since.
        for user_id in 1..=CUSTOMERS {
            if live.store.activity(user_id, NOW).is_some() {
                until("it is in Redis again", async || position(&online, user_id).await.is_some()).await;
            }
        }
        has(&online, 1 + (began + 19) % CUSTOMERS, at).await;
        assert_equal(&online, &live.store, NOW).await;
    }
    live.running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_stands_still_holds_nobody_up() {
    let Some(mut server) = Server::start().await else { return };
    let online = server.online();
    let live = Live::start(online.clone());
    live.apply(&placed(2000, 5));
    has(&online, 5, 2000).await;
    server.redis.pause().unwrap();
    live.apply(&placed(2001, 6));
    assert!(online.customers(&[5], NOW).await.unwrap_err().is_retryable());
    assert!(online.is_away());
    server.redis.resume().unwrap();
    has(&online, 6, 2001).await;
    assert_equal(&online, &live.store, NOW).await;
    live.running.abort();
}
