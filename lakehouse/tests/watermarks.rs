//! Watermarks, and bronze beyond them.

use std::{collections::BTreeMap, sync::Arc};

use lakeward_change::{ChangeBatch, Position, TableId};
use lakeward_lakehouse::{Lake, LakeError};
use object_store::ObjectStore;
use url::Url;

use crate::{
    faults::{Fault, FaultyStore},
    source::{SNAPSHOT, Source, copied, copy, flush, row, watermark},
};

fn lake(store: &Arc<FaultyStore>) -> Lake {
    let store = Arc::clone(store) as Arc<dyn ObjectStore>;
    Lake::with_store(Url::parse("memory:///lake/").unwrap(), store, BTreeMap::new()).unwrap()
}

#[tokio::test]
async fn the_newest_of_each_source_is_found() {
    let store = FaultyStore::new();
    let lake = lake(&store);
    assert_eq!(lake.latest_watermark(None).await.unwrap(), None);
    let source = Source::with_rows([(1, row("one", 1))]);
    let table = copied(&lake, &source).await;
    for lsn in [1500, 1600, 1700] {
        for name in ["shop", "other shop/é"] {
            let newest = watermark(name, lsn + name.len() as u64, Some(&table));
            lake.append_watermark(&newest).await.unwrap();
            assert_eq!(lake.latest_watermark(Some(name)).await.unwrap().as_ref(), Some(&newest));
            assert_eq!(lake.latest_watermark(None).await.unwrap().as_ref(), Some(&newest));
        }
    }
    assert_eq!(lake.latest_watermark(Some("nobody")).await.unwrap(), None);
    // A cut may stand where the last one stood; the later row counts.
    let mut again = watermark("shop", 1704, None);
    again.reason = "asked for".to_owned();
    lake.append_watermark(&again).await.unwrap();
    assert_eq!(lake.latest_watermark(Some("shop")).await.unwrap(), Some(again));
}

#[tokio::test]
async fn each_is_appended_once_on_a_store_that_fails() {
    for fault in Fault::ALL {
        let store = FaultyStore::new();
        let lake = lake(&store);
        lake.append_watermark(&watermark("shop", 1, None)).await.unwrap();
        store.fail(fault, "watermarks/_delta_log", 2);
        lake.append_watermark(&watermark("shop", 2, None)).await.unwrap();
        lake.append_watermark(&watermark("shop", 3, None)).await.unwrap();
        assert!(store.struck());
        let rows =
            crate::source::query(&lake, "ops/watermarks", None, "SELECT lsn, sequence FROM t ORDER BY lsn")
                .await;
        let rows = arrow::compute::concat_batches(&rows[0].schema(), &rows).unwrap();
        assert_eq!(format!("{:?}", rows.column(0)), format!("{:?}", rows.column(1)));
        assert_eq!(rows.num_rows(), 3, "{fault:?}");
    }
}

#[tokio::test]
async fn writers_of_two_sources_do_not_stop_each_other() {
    let store = FaultyStore::new();
    let lake = lake(&store);
    lake.append_watermark(&watermark("a", 1, None)).await.unwrap();
    let appends = (0..4).map(|i| {
        let (lake, mark) = (lake.clone(), watermark(&format!("source-{i}"), 5, None));
        async move { lake.append_watermark(&mark).await }
    });
    futures::future::try_join_all(appends).await.unwrap();
    for i in 0..4 {
        assert!(lake.latest_watermark(Some(&format!("source-{i}"))).await.unwrap().is_some());
    }
}

fn positions(batches: &[ChangeBatch]) -> Vec<Position> {
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|row| batch.position(row))).collect()
}

#[tokio::test]
async fn bronze_beyond_a_watermark_comes_back_as_it_went_in() {
    let store = FaultyStore::new();
    let lake = lake(&store);
    let mut source = Source::with_rows((1..=5).map(|id| (id, row("notes", 1))));
    let mut table = copied(&lake, &source).await;
    let id = table.id().clone();
    let at_copy = watermark("shop", SNAPSHOT as u64, Some(&table));
    assert!(
        lake.bronze_after(&at_copy, &id, None).await.unwrap().is_empty(),
        "the copy itself is in its watermark"
    );

    source.update(1, Some(10), None, 2);
    source.delete(2);
    source.commit();
    flush(&mut table, &source).await.unwrap();
    let first = source.changes();
    let cut = watermark("shop", SNAPSHOT as u64 + 5, Some(&table));
    source.insert(20, row("twenty", 3));
    source.update(20, None, Some("more"), 4);
    source.truncate();
    flush(&mut table, &source).await.unwrap();

    let all = lake.bronze_after(&at_copy, &id, None).await.unwrap();
    assert_eq!(positions(&all), positions(&source.all()));
    let up_to_the_cut = lake.bronze_after(&at_copy, &id, Some(cut.lsn)).await.unwrap();
    assert_eq!(positions(&up_to_the_cut), positions(&source.batches(0..first, usize::MAX)));
    let beyond = lake.bronze_after(&cut, &id, None).await.unwrap();
    let expected = source.batches(first..source.changes(), usize::MAX);
    assert_eq!(positions(&beyond), positions(&expected));
    for (got, sent) in [(&all[0], &source.all()[0]), (&beyond[0], &expected[0])] {
        assert_eq!((&got.ops, &got.values, &got.old_keys), (&sent.ops, &sent.values, &sent.old_keys));
        assert_eq!((&got.xids, &got.committed_at, &got.lsns), (&sent.xids, &sent.committed_at, &sent.lsns));
        assert_eq!(got.unavailable, sent.unavailable);
    }
    // A copy under a new epoch lies beyond it, too.
    source.start_epoch(2);
    copy(&mut table, &source).await.unwrap();
    assert_eq!(
        lake.bronze_after(&cut, &id, None).await.unwrap().iter().map(ChangeBatch::num_rows).sum::<usize>(),
        expected[0].num_rows() + source.rows.len()
    );

    let unknown = lake.bronze_after(&cut, &TableId::new("public", "unknown"), None).await;
    assert!(matches!(unknown, Err(LakeError::NoTable { .. })));
}
