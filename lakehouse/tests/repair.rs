//! Rows of silver that somebody damaged are put right, and only those.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch},
    datatypes::Int64Type,
};
use deltalake::{
    DeltaTable,
    datafusion::{common::ScalarValue, prelude::*},
    logstore::{StorageConfig, logstore_with},
};
use futures::TryStreamExt;
use lakeward_change::Lsn;
use lakeward_lakehouse::{CapturedTable, Lake, LakeError, Repaired};
use object_store::{ObjectStore, memory::InMemory};
use url::Url;

use crate::{
    faults::{Fault, FaultyStore},
    source::{EPOCH, Source, assert_bronze, copied, copy, flush, open, query, row, silver, table},
};

/// Between the first and the second transaction after the copy.
const SNAPSHOT: Lsn = Lsn(1015);

fn lake(store: &Arc<dyn ObjectStore>) -> Lake {
    Lake::with_store(Url::parse("memory:///lake").unwrap(), Arc::clone(store), BTreeMap::new()).unwrap()
}

async fn delta(store: &Arc<dyn ObjectStore>, lake: &Lake, path: &str) -> DeltaTable {
    let url = lake.table_url(path).unwrap();
    let log = logstore_with(Arc::clone(store), &url, StorageConfig::default()).unwrap();
    let mut table = DeltaTable::new(log);
    table.load().await.unwrap();
    table
}

/// Behind the writer's back: a changed cell in 1, a null in 2, 3 gone, 4 doubled, 50 that no source ever had.
async fn damage(store: &Arc<dyn ObjectStore>, lake: &Lake, path: &str) {
    let table = delta(store, lake, path).await;
    let price = lit(ScalarValue::Decimal128(Some(99_999), 12, 2));
    let (table, _) =
        table.update().with_predicate(col("id").eq(lit(1))).with_update("price", price).await.unwrap();
    let null = lit(ScalarValue::TimestampMicrosecond(None, Some("UTC".into())));
    let (table, _) =
        table.update().with_predicate(col("id").eq(lit(2))).with_update("at", null).await.unwrap();
    let (table, _) = table.delete().with_predicate(col("id").eq(lit(3))).await.unwrap();
    let four = query(lake, path, None, "SELECT * FROM t WHERE id = 4").await.remove(0);
    let mut columns = four.columns().to_vec();
    columns[0] = Arc::new(Int64Array::from(vec![50])) as ArrayRef;
    let fifty = RecordBatch::try_new(four.schema(), columns).unwrap();
    table.write([four, fifty]).await.unwrap();
}

fn keys(ids: &[i64]) -> Vec<String> {
    ids.iter().map(|id| format!("{}:{id}", id.to_string().len())).collect()
}

/// The source's rows of some keys, as the source is now.
async fn rows(source: &Source, ids: &[i64]) -> RecordBatch {
    let mut source = source.clone();
    source.rows.retain(|id, _| ids.contains(id));
    let batches: Vec<_> = source.copy(usize::MAX).try_collect().await.unwrap();
    batches.into_iter().next().unwrap_or_else(|| RecordBatch::new_empty(table().arrow()))
}

fn twelve_rows() -> Source {
    Source::with_rows((1..=12).map(|id| (id, row("notes", i128::from(id)))))
}

async fn duplicates(lake: &Lake, table: &CapturedTable) -> i64 {
    let sql = "SELECT count(*) - count(DISTINCT id) FROM t";
    query(lake, table.silver_path(), None, sql).await[0].column(0).as_primitive::<Int64Type>().value(0)
}

#[tokio::test]
async fn damaged_rows_become_the_sources_and_later_changes_stay() {
    let store = Arc::new(InMemory::new()) as Arc<dyn ObjectStore>;
    let lake = lake(&store);
    let mut source = twelve_rows();
    let mut captured = copied(&lake, &source).await;
    source.commit();
    source.update(2, None, Some("before the snapshot"), 7);
    let at_snapshot = source.clone();
    source.commit();
    source.update(1, None, Some("after it"), 8);
    source.delete(5);
    source.update(6, Some(60), None, 9);
    flush(&mut captured, &source).await.unwrap();
    damage(&store, &lake, captured.silver_path()).await;
    assert_eq!(duplicates(&lake, &captured).await, 1);
    // A change after the damage: the row is the stream's again.
    let changes = source.changes();
    source.commit();
    source.update(1, None, Some("again"), 10);

    let mut captured = open(&lake).await;
    captured.flush(&source.batches(changes..changes + 1, 1), true, 0).await.unwrap();
    let durable = captured.durable();
    let ids = [1, 2, 3, 4, 5, 6, 50];
    let found = rows(&at_snapshot, &ids).await;
    let repaired = captured.repair(EPOCH, SNAPSHOT, &keys(&ids), &found).await.unwrap();
    assert_eq!(repaired, Repaired { keys: 4, passed_over: 3 }, "1, 5 and 6 were touched since");
    assert_eq!(silver(&lake, &captured, None).await, source.rows);
    assert_bronze(&lake, &captured, 12 + source.changes()).await;
    assert_eq!((open(&lake).await.durable(), captured.durable()), (durable, durable));
    let positions = "SELECT min(_commit), max(_commit), max(_order) FROM t WHERE id IN (2, 3, 4)";
    let positions = query(&lake, captured.silver_path(), None, positions).await.remove(0);
    let positions = positions.columns().iter().map(|c| c.as_primitive::<Int64Type>().value(0));
    assert_eq!(positions.collect::<Vec<_>>(), [1015, 1015, 0]);

    // The stream goes on where it was, with what the repair put there.
    let changes = source.changes();
    source.commit();
    source.update(3, None, None, 11);
    source.update(4, Some(40), None, 12);
    source.delete(2);
    captured.flush(&source.batches(changes..changes + 3, 3), true, 0).await.unwrap();
    assert_eq!(silver(&lake, &captured, None).await, source.rows);
}

#[tokio::test]
async fn a_repair_lands_once_whatever_happens_to_its_commit() {
    for place in ["silver/shop/public/products/_delta_log/", "silver/shop/public/products/part-"] {
        for fault in Fault::ALL {
            let faulty = FaultyStore::new();
            let store = Arc::clone(&faulty) as Arc<dyn ObjectStore>;
            let lake = lake(&store);
            let source = twelve_rows();
            let captured = copied(&lake, &source).await;
            damage(&store, &lake, captured.silver_path()).await;
            let mut captured = open(&lake).await;
            let ids = [1, 2, 3, 4, 50];
            let found = rows(&source, &ids).await;
            faulty.fail(fault, place, 2);
            // A file that is refused is an error; what the table holds decides about the next.
            for _ in 0..2 {
                if let Ok(repaired) = captured.repair(EPOCH, SNAPSHOT, &keys(&ids), &found).await {
                    assert_eq!(repaired, Repaired { keys: 5, passed_over: 0 });
                }
            }
            assert!(faulty.struck());
            assert_eq!(silver(&lake, &captured, None).await, source.rows, "{fault:?} at {place}");
            assert_eq!(open(&lake).await.durable(), captured.durable());
        }
    }
}

#[tokio::test]
async fn nothing_is_repaired_where_the_snapshot_no_longer_tells_what_is_right() {
    let store = Arc::new(InMemory::new()) as Arc<dyn ObjectStore>;
    let lake = lake(&store);
    let mut source = twelve_rows();
    let mut captured = copied(&lake, &source).await;
    let at_snapshot = rows(&source, &[1, 3]).await;
    source.commit();
    source.commit();
    source.truncate();
    source.insert(3, row("new", 1));
    flush(&mut captured, &source).await.unwrap();
    let repaired = captured.repair(EPOCH, SNAPSHOT, &keys(&[1, 3]), &at_snapshot).await.unwrap();
    assert_eq!(repaired, Repaired { keys: 0, passed_over: 2 });
    assert_eq!(silver(&lake, &captured, None).await, source.rows);

    let versions = captured.versions();
    let damaged = captured.repair(EPOCH, Lsn(2000), &["5:1".to_owned()], &at_snapshot).await;
    assert!(matches!(damaged, Err(LakeError::Arrow { .. })), "{damaged:?}");
    source.start_epoch(2);
    copy(&mut captured, &source).await.unwrap();
    let old = captured.repair(EPOCH, SNAPSHOT, &keys(&[1]), &at_snapshot).await;
    assert!(matches!(old, Err(LakeError::Epoch { epoch: 2, found: 1, .. })), "{old:?}");
    assert_eq!(captured.versions().silver, versions.silver + 1);
    assert_eq!(silver(&lake, &captured, None).await, source.rows);
}
