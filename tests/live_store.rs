//! The live store does not drift: through a crash with transactions sent again, a rebuild in the middle of traffic and a
//! restart, it equals what the SQL views compute from the tables of the watermark at the same position.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType},
};
use lakeward_cdc::{Boundary, PostgresOptions};
use lakeward_change::{ChangeBatch, Lsn};
use lakeward_features::{
    ACTIVITY_COLUMNS, Customer, ItemHistory, MemoryStore, Money, OnlineStore, ShopNames, ShopTables, View,
};
use lakeward_lakehouse::{Lake, Watermark};
use lakeward_pipeline::{Handle, Maintenance, Options, Pipeline, PipelineError};
use lakeward_postgres::Control;
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::stand::{Background, Stand, succeed, until};

const CUSTOMERS: &str = "10000";
const RATE: &str = "200";
const TRAFFIC: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_customers_are_the_same_live_and_in_a_batch() {
    let stand = Stand::new().await;
    let mut seed = stand.lakeward(&["simulate", "seed", "--postgres-url", &stand.url]);
    seed.args(["--customers", CUSTOMERS, "--products", "300", "--days", "60"]);
    succeed(seed);
    stand.ingest_until_idle();
    let lake = Arc::new(stand.open_lake());
    let names = ShopNames::default();

    let first = Running::start(&stand, &lake).await;
    let (steady, following) = first.store(&lake, &names).await;
    let traffic =
        Background::start(stand.lakeward(&["simulate", "run", "--rate", RATE, "--postgres-url", &stand.url]));
    sleep(TRAFFIC).await;
    // Built from the tables while orders keep coming.
    let (rebuilt, following_too) = first.store(&lake, &names).await;
    sleep(TRAFFIC).await;
    // What has been read and is in no watermark is sent again.
    first.crash().await;
    let told = [following.await, following_too.await].map(|told| told.expect("it follows"));
    assert!(told.iter().all(|told| told.repeated == 0 && told.counted > 0), "{told:?}");

    let second = Running::start(&stand, &lake).await;
    let following = [&steady, &rebuilt].map(|store| {
        let (handle, store) = (second.handle.clone(), Arc::clone(store));
        tokio::spawn(async move { follow(&store, handle.subscribe().await.expect("a stream")).await })
    });
    // A server that starts again: from a watermark, with what bronze has beyond it.
    let (restarted, following_too) = second.store(&lake, &names).await;
    sleep(TRAFFIC).await;
    traffic.interrupt();
    let row = stand.client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.expect("it runs");
    let written: Lsn = row.get::<_, String>(0).parse().expect("an LSN");
    let mut watermark = second.handle.cut().await.expect("a cut");
    until("all of it is in a watermark", async || {
        watermark = second.handle.cut().await.expect("a cut");
        watermark.lsn >= written
    })
    .await;
    second.stop().await;
    let mut repeated = 0;
    for following in following {
        repeated += following.await.expect("it follows").repeated;
    }
    assert!(repeated > 0, "nothing was sent again");
    following_too.await.expect("it follows");

    let tables = ShopTables::open(&lake, &watermark, &names).await.expect("the tables open");
    // A live store remembers the time of rows that are gone.
    let as_of = steady.status().as_of.max(tables.known_at()).expect("a time");
    let batch = Batch::compute(&tables, as_of).await;
    assert!(batch.customers.len() > 5000, "{} customers have bought", batch.customers.len());
    for (name, store) in [("steady", steady), ("rebuilt", rebuilt), ("restarted", restarted)] {
        store.refresh_scores(as_of);
        batch.compare(name, &store, as_of);
    }
}

/// A pipeline within the test.
struct Running {
    handle: Handle,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), PipelineError>>,
}

impl Running {
    async fn start(stand: &Stand, lake: &Arc<Lake>) -> Self {
        let control = Control::open(&stand.server.url("control")).await.expect("the control database opens");
        let options = Options {
            postgres: PostgresOptions::new(&stand.url),
            flush_rows: 100_000,
            flush_bytes: 32 << 20,
            flush_age: Duration::from_secs(1),
            memory_bytes: 128 << 20,
            copy_parallel: 2,
            stopped_grace: Duration::from_secs(600),
            maintenance: Maintenance::default(),
            until_idle: false,
        };
        let pipeline = Pipeline::new(Arc::clone(lake), Arc::new(control), options, Arc::new(|_| {}));
        let (handle, shutdown) = (pipeline.handle(), CancellationToken::new());
        Self { handle, task: tokio::spawn(pipeline.run(shutdown.clone())), shutdown }
    }

    /// A store as a server makes it: the stream first, then a watermark beyond its start.
    async fn store(&self, lake: &Lake, names: &ShopNames) -> (Arc<MemoryStore>, JoinHandle<Told>) {
        let stream = self.handle.subscribe().await.expect("a stream");
        let watermark: Arc<Watermark> = self.handle.cut().await.expect("a cut");
        let store = Arc::new(MemoryStore::load(lake, &watermark, names).await.expect("the store loads"));
        let following = tokio::spawn({
            let store = Arc::clone(&store);
            async move {
                // What lies between the stream's start and the watermark is in the store already.
                Told { repeated: 0, ..follow(&store, stream).await }
            }
        });
        (store, following)
    }

    async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|error| error.is_cancelled()), "it had ended by itself");
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("no panic").expect("it ends well");
    }
}

/// How many changes of a stream counted, and how many the store had already.
#[derive(Debug)]
struct Told {
    counted: u64,
    repeated: u64,
}

async fn follow(store: &MemoryStore, mut chunks: lakeward_pipeline::Subscription) -> Told {
    let mut told = Told { counted: 0, repeated: 0 };
    let mut batches: Vec<ChangeBatch> = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        batches.extend_from_slice(&chunk.batches);
        if matches!(chunk.boundary, Boundary::Closed { .. }) {
            let names = ShopNames::default();
            let shop = batches.iter().filter(|batch| names.table(&batch.table.id).is_some());
            let sent: usize = shop.map(ChangeBatch::num_rows).sum();
            let counted = store.apply(&batches).expect("the store takes them");
            told.counted += counted;
            told.repeated += sent as u64 - counted;
            batches.clear();
        }
    }
    told
}

/// What the SQL views say, in the words of the store.
struct Batch {
    /// Of customers with a kept order.
    customers: BTreeMap<i64, String>,
    histories: BTreeMap<i64, Vec<ItemHistory>>,
    activities: BTreeMap<i64, [f64; 16]>,
}

impl Batch {
    async fn compute(tables: &ShopTables, as_of: i64) -> Self {
        let rfm = tables.view(View::UserRfm, as_of).await.expect("the view");
        let touched = tables.view(View::UserItemInteractions, as_of).await.expect("the view");
        let active = tables.view(View::UserActivity, as_of).await.expect("the view");
        let column = |name: &str| rfm.column_by_name(name).expect(name);
        let customers = (0..rfm.num_rows()).map(|row| {
            let [frequency, recency, r, f, m] =
                ["frequency", "recency_days", "recency_score", "frequency_score", "monetary_score"]
                    .map(|name| integers(&rfm, name)[row]);
            let segment = column("segment").as_string::<i32>().value(row);
            let profile = profile(frequency, recency, money(&rfm, "monetary", row), [r, f, m], segment);
            (integers(&rfm, "user_id")[row], profile)
        });
        let customers = customers.collect();
        let mut histories: BTreeMap<i64, Vec<ItemHistory>> = BTreeMap::new();
        for row in 0..touched.num_rows() {
            let [user_id, product_id, purchases, quantity, views, carts] =
                ["user_id", "product_id", "purchases", "quantity", "views", "carts"]
                    .map(|name| integers(&touched, name)[row]);
            let [purchases, views, carts] = [purchases, views, carts].map(|count| count as u64);
            let bought = purchases > 0;
            histories.entry(user_id).or_default().push(ItemHistory {
                product_id,
                purchases,
                quantity,
                spend: money(&touched, "spend", row),
                first_at: bought.then(|| time(&touched, "first_at", row)),
                last_at: bought.then(|| time(&touched, "last_at", row)),
                views,
                carts,
            });
        }
        let values = ACTIVITY_COLUMNS
            .map(|name| active.column_by_name(name).expect(name).as_primitive::<Float64Type>());
        let activities = (0..active.num_rows())
            .map(|row| (integers(&active, "user_id")[row], values.map(|values| values.value(row))));
        Self { customers, histories, activities: activities.collect() }
    }

    fn compare(&self, name: &str, store: &MemoryStore, as_of: i64) {
        let newest = self.customers.keys().chain(self.histories.keys()).max().expect("customers");
        for user_id in 0..=newest + 100 {
            let customer = store.customer(user_id, as_of).filter(|customer| customer.kept_orders > 0);
            assert_eq!(
                customer.map(live_profile).as_ref(),
                self.customers.get(&user_id),
                "{name}: {user_id}"
            );
            let activity = store.activity(user_id, as_of).map(|activity| activity.to_array());
            assert_eq!(activity.as_ref(), self.activities.get(&user_id), "{name}: {user_id}");
            let mut history = store.history(user_id, as_of);
            history.sort_by_key(|item| item.product_id);
            let expected = self.histories.get(&user_id).map(Vec::as_slice).unwrap_or_default();
            assert_eq!(history.len(), expected.len(), "{name}: {user_id}");
            for (live, batch) in history.iter().zip(expected) {
                // With views among them, the view's times are of whatever touched the product.
                let timeless =
                    |item: &ItemHistory| ItemHistory { first_at: None, last_at: None, ..item.clone() };
                assert_eq!(timeless(live), timeless(batch), "{name}: {user_id}");
                if batch.views + batch.carts == 0 {
                    assert_eq!(live, batch, "{name}: {user_id}");
                }
            }
        }
    }
}

fn live_profile(customer: Customer) -> String {
    let rfm = customer.rfm.expect("scores");
    let scores = [rfm.recency_score, rfm.frequency_score, rfm.monetary_score].map(i64::from);
    profile(
        customer.kept_orders as i64,
        customer.recency_days.expect("a recency"),
        customer.monetary,
        scores,
        rfm.segment.name(),
    )
}

fn profile(frequency: i64, recency_days: i64, monetary: Money, scores: [i64; 3], segment: &str) -> String {
    format!("{frequency} orders of {monetary}, {recency_days} days ago: {scores:?}, {segment}")
}

fn integers<'a>(rows: &'a RecordBatch, name: &str) -> &'a [i64] {
    rows.column_by_name(name).expect(name).as_primitive::<Int64Type>().values()
}

fn time(rows: &RecordBatch, name: &str, row: usize) -> i64 {
    rows.column_by_name(name).expect(name).as_primitive::<TimestampMicrosecondType>().value(row)
}

/// Of any scale up to that of [`Money`].
fn money(rows: &RecordBatch, name: &str, row: usize) -> Money {
    let amounts = rows.column_by_name(name).expect(name).as_primitive::<Decimal128Type>();
    let amount = if amounts.is_null(row) { 0 } else { amounts.value(row) };
    let units = amount * 10_i128.pow(4 - amounts.scale() as u32);
    Money::from_units(i64::try_from(units).expect("an amount"))
}
