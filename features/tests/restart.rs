//! The store and the views over a real lake: loaded at a watermark that lies far behind what has been captured since.

use std::{collections::BTreeMap, convert::Infallible};

use arrow::{array::RecordBatch, compute::concat_batches};
use lakeward_change::{ChangeBatch, Lsn, Op};
use lakeward_features::{
    MemoryStore, OnlineStore, ShopBatches, ShopNames, ShopTable, ShopTables, View, build,
};
use lakeward_lakehouse::{CapturedTable, Lake, SourceRef, Watermark};

use crate::{
    history::answers,
    rows::{self, Change, DAY, change_batch, item, order, product},
    views::shop,
};

const EPOCH: i64 = 3;
pub const SNAPSHOT: i64 = 1000;
pub const COMMITS: i64 = 40;

/// A lake with the small shop copied at [`SNAPSHOT`].
pub struct Captured {
    pub lake: Lake,
    tables: Vec<CapturedTable>,
    _folder: tempfile::TempDir,
}

fn base(table: ShopTable) -> Vec<RecordBatch> {
    let ShopBatches { users, products, orders, order_items, events } = shop().batches();
    match table {
        ShopTable::Users => users,
        ShopTable::Products => products,
        ShopTable::Orders => orders,
        ShopTable::OrderItems => order_items,
        ShopTable::Events => events,
    }
}

impl Captured {
    pub async fn copy() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open(folder.path().to_str().unwrap(), BTreeMap::new()).unwrap();
        let source = SourceRef { name: "shop".into(), system_id: "7".into() };
        let mut tables = Vec::new();
        for table in ShopTable::ALL {
            let mut captured = CapturedTable::open(&lake, &source, rows::schema(table)).await.unwrap();
            let copied = futures::stream::iter(base(table).into_iter().map(Ok::<_, Infallible>));
            captured.copy(EPOCH, Lsn(SNAPSHOT as u64), 0, copied, &|_| {}).await.unwrap();
            tables.push(captured);
        }
        Self { lake, tables, _folder: folder }
    }

    pub fn watermark(&self, lsn: i64) -> Watermark {
        Watermark {
            source: "shop".into(),
            system_id: "7".into(),
            timeline: 1,
            epoch: EPOCH,
            lsn: Lsn(lsn as u64),
            stream_time: Some(100 * DAY),
            written_at: 0,
            reason: "test".into(),
            tables: self.tables.iter().map(|table| (table.id().clone(), table.watermark_entry())).collect(),
            stopped: Vec::new(),
            offsets: BTreeMap::new(),
        }
    }

    pub async fn flush(&mut self, batches: &[ChangeBatch]) {
        for table in &mut self.tables {
            let own: Vec<_> = batches.iter().filter(|batch| batch.table.id == *table.id()).cloned().collect();
            if !own.is_empty() {
                table.flush(&own, true, 0).await.unwrap();
            }
        }
    }
}

/// The changes of one commit: an order with two items, and one of a cancellation, a deletion, a change of key whose long
/// text is not sent, a view, and an emptied table with new rows.
pub fn commit(number: i64) -> Vec<ChangeBatch> {
    let at = |order| (SNAPSHOT + number, order);
    let id = 100 + number;
    let placed = order(id, 1 + number % 4, 100 * number, 60 * DAY + number * DAY);
    let mut orders = vec![Change::new(Op::Insert, at(1), rows::orders(std::slice::from_ref(&placed)))];
    let mut items = vec![
        Change::new(Op::Insert, at(2), rows::items(&[item(2 * id, id, 1, 1, 250)])),
        Change::new(Op::Insert, at(3), rows::items(&[item(2 * id + 1, id, 2, 2, 120)])),
    ];
    let mut others = Vec::new();
    match number % 5 {
        0 => {
            let mut cancelled = placed;
            cancelled.cancelled_at = Some(95 * DAY);
            orders.push(Change::new(Op::Update, at(4), rows::orders(&[cancelled])));
        }
        1 => items.push(Change::new(Op::Delete, at(4), rows::items(&[item(2 * id, id, 1, 1, 250)]))),
        2 => {
            let version = |id| {
                let mut version = product(id, "", 100 * number);
                (version.name, version.category) = (None, None);
                rows::products(&[version])
            };
            // 3 becomes 300 and back.
            let (old, new) = if number % 2 == 0 { (3, 300) } else { (300, 3) };
            let mut renamed = Change::new(Op::Update, at(4), version(new));
            renamed.old_key = Some(version(old));
            renamed.unsent = vec![1, 2];
            others.push(change_batch(ShopTable::Products, EPOCH, &[renamed]));
        }
        3 => {
            let view = rows::event(100 + number, 99 * DAY, "view", 2, 1);
            let view = Change::new(Op::Insert, at(4), rows::events(&[view]));
            others.push(change_batch(ShopTable::Events, EPOCH, &[view]));
        }
        _ if number == 19 => {
            let users = [
                Change::new(Op::Truncate, at(4), rows::users(&[rows::user(0)])),
                Change::new(Op::Insert, at(5), rows::users(&[rows::user(1)])),
            ];
            others.push(change_batch(ShopTable::Users, EPOCH, &users));
        }
        _ => {}
    }
    others.push(change_batch(ShopTable::Orders, EPOCH, &orders));
    others.push(change_batch(ShopTable::OrderItems, EPOCH, &items));
    others
}

/// A store that was there from the copy on.
fn follower(commits: std::ops::RangeInclusive<i64>) -> MemoryStore {
    let store = MemoryStore::from_batches(&shop().batches()).unwrap();
    for number in commits {
        store.apply(&commit(number)).unwrap();
    }
    store
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_far_past_the_watermark() {
    let mut captured = Captured::copy().await;
    let first = captured.watermark(SNAPSHOT);
    for number in 1..=20 {
        captured.flush(&commit(number)).await;
    }
    let middle = captured.watermark(SNAPSHOT + 21);
    let rest: Vec<_> = (21..=30).flat_map(commit).collect();
    captured.flush(&rest).await;
    // Only the orders of the last commits are captured yet.
    let ahead: Vec<_> = (31..=COMMITS).flat_map(commit).collect();
    let orders: Vec<_> = ahead.iter().filter(|batch| batch.table.id.name == "orders").cloned().collect();
    captured.flush(&orders).await;

    let expected = follower(1..=30);
    expected.apply(&orders).unwrap();
    let whole = follower(1..=COMMITS);
    let names = ShopNames::default();
    for watermark in [first, middle] {
        let store = MemoryStore::load(&captured.lake, &watermark, &names).await.unwrap();
        assert_eq!(answers(&store), answers(&expected), "watermark {}", watermark.lsn);
        assert_eq!(store.follow(&captured.lake, &watermark, &watermark).await.unwrap(), 0);
        // The stream begins anew at the watermark.
        for number in (watermark.lsn.as_i64() - SNAPSHOT).max(1)..=COMMITS {
            store.apply(&commit(number)).unwrap();
        }
        assert_eq!(answers(&store), answers(&whole), "watermark {}", watermark.lsn);
        assert_eq!(store.status().watermark, Some(watermark.lsn));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_are_of_the_watermark_and_built_once_a_run() {
    let mut captured = Captured::copy().await;
    let watermark = captured.watermark(SNAPSHOT);
    captured.flush(&commit(1)).await;
    let names = ShopNames::default();

    let from_lake = ShopTables::open(&captured.lake, &watermark, &names).await.unwrap();
    let from_rows = ShopTables::from_batches(&shop().batches(), 100 * DAY).unwrap();
    for view in View::ALL {
        let as_of = 100 * DAY;
        assert_eq!(
            from_lake.view(view, as_of).await.unwrap(),
            from_rows.view(view, as_of).await.unwrap(),
            "{view}"
        );
    }

    for (as_of, runs) in [(100 * DAY, 1), (100 * DAY, 1), (101 * DAY, 2)] {
        let report = build(&captured.lake, &from_lake, as_of, 30, None, &|_| {}).await.unwrap();
        assert_eq!(report.views.len(), View::ALL.len());
        assert_eq!(report.missing.len(), 5);
        let rows: u64 = report.views.iter().map(|view| view.rows).sum();
        assert!(rows > 0);
        let stored = captured.lake.read("features/user_rfm", None).await.unwrap();
        let stored = captured.lake.session().read_table(stored).unwrap().collect().await.unwrap();
        let stored = concat_batches(&stored[0].schema(), &stored).unwrap();
        assert_eq!(stored.num_rows(), 3 * runs);
        assert!(stored.column_by_name("created_time").is_some_and(|column| column.null_count() == 0));
    }
}
