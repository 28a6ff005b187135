//! Every kind of commit on a store that fails: right afterwards, each change once.

use std::{collections::BTreeMap, sync::Arc};

use lakeward_lakehouse::{Lake, LakeError};
use object_store::ObjectStore;
use url::Url;

use crate::{
    faults::{Fault, FaultyStore},
    source::{Source, assert_bronze, copied, copy, flush, open, row, silver},
};

fn lake(store: &Arc<FaultyStore>) -> Lake {
    let store = Arc::clone(store) as Arc<dyn ObjectStore>;
    Lake::with_store(Url::parse("memory:///lake").unwrap(), store, BTreeMap::new()).unwrap()
}

fn some_rows() -> Source {
    Source::with_rows((1..=5).map(|id| (id, row("notes", i128::from(id)))))
}

/// A log entry of either half, or a data file.
const PLACES: [&str; 4] = [
    "bronze/shop/public/products/_delta_log/",
    "silver/shop/public/products/_delta_log/",
    "bronze/shop/public/products/_ingest_date",
    "silver/shop/public/products/part-",
];

/// Drops a call where the store hangs.
async fn crash<T: std::fmt::Debug>(store: &FaultyStore, call: impl Future<Output = T>) {
    tokio::select! {
        done = call => panic!("it ended with {done:?}"),
        () = store.hung() => {}
    }
}

type Change = fn(&mut Source);

/// Changes that make each kind of commit in silver: a merge, one that changes nothing, a truncate, all in a row.
const CHANGES: [Change; 4] = [
    |source| {
        source.insert(10, row("ten", 1));
        source.update(1, Some(11), None, 2);
        source.delete(2);
    },
    |source| {
        source.insert(10, row("ten", 1));
        source.delete(10);
    },
    |source| source.truncate(),
    |source| {
        source.delete(1);
        source.truncate();
        source.insert(1, row("one", 1));
        source.commit();
        source.update(1, None, None, 2);
    },
];

#[tokio::test]
async fn a_flush_lands_once_whatever_happens_to_its_commits() {
    let [bronze_log, silver_log, bronze_data, silver_data] = PLACES;
    let logs = [bronze_log, silver_log].into_iter().flat_map(|log| Fault::ALL.map(|fault| (log, fault)));
    let data = [bronze_data, silver_data].map(|data| (data, Fault::Refused));
    for (place, fault) in logs.chain(data) {
        for change in CHANGES {
            let store = FaultyStore::new();
            let lake = lake(&store);
            let mut source = some_rows();
            let mut table = copied(&lake, &source).await;
            change(&mut source);
            // What the first flush leaves of the faults strikes the second.
            store.fail(fault, place, 3);
            flush(&mut table, &source).await.unwrap();
            assert_eq!(silver(&lake, &table, None).await, source.rows, "{fault:?} at {place}");
            assert_bronze(&lake, &table, 5 + source.changes()).await;
            source.commit();
            source.insert(77, row("next", 1));
            flush(&mut table, &source).await.unwrap();
            assert_eq!(silver(&lake, &table, None).await, source.rows, "{fault:?} at {place}");
            assert_bronze(&lake, &table, 5 + source.changes()).await;
            assert_eq!(open(&lake).await.durable(), table.durable());
        }
    }
}

#[tokio::test]
async fn a_copy_lands_once_whatever_happens_to_its_commits() {
    for log in &PLACES[..2] {
        for version in ["00.json", "01.json"] {
            for fault in Fault::ALL {
                let store = FaultyStore::new();
                let lake = lake(&store);
                let source = some_rows();
                let mut table = open(&lake).await;
                store.fail(fault, &format!("{log}{version:0>25}"), 1);
                let mut result = copy(&mut table, &source).await;
                if result.is_err() {
                    // The table could not be made: nothing is in it yet.
                    assert_eq!((version, fault), ("00.json", Fault::Refused));
                    result = copy(&mut table, &source).await;
                }
                result.unwrap();
                assert!(store.struck());
                assert_eq!(silver(&lake, &table, None).await, source.rows, "{fault:?} at {log}{version}");
                assert_bronze(&lake, &table, 5).await;
            }
        }
    }
}

#[tokio::test]
async fn a_commit_is_found_though_the_store_is_blind_for_a_while() {
    for change in CHANGES {
        let store = FaultyStore::new();
        let lake = lake(&store);
        let mut source = some_rows();
        let mut table = copied(&lake, &source).await;
        change(&mut source);
        store.fail(Fault::AnswerLost, PLACES[1], 1);
        // One list is made before the commit.
        flush(&mut table, &source).await.unwrap();
        store.fail(Fault::AnswerLost, PLACES[0], 1);
        store.blind(3);
        source.commit();
        source.insert(70, row("blind", 1));
        let _ = flush(&mut table, &source).await;
        flush(&mut table, &source).await.unwrap();
        assert!(store.struck());
        assert_eq!(silver(&lake, &table, None).await, source.rows);
        assert_bronze(&lake, &table, 5 + source.changes()).await;
    }
}

#[tokio::test]
async fn a_store_that_stays_away_is_an_error_that_can_be_tried_again() {
    let store = FaultyStore::new();
    let lake = lake(&store);
    let mut source = some_rows();
    let mut table = copied(&lake, &source).await;
    source.delete(1);
    for place in [PLACES[0], PLACES[1], PLACES[2]] {
        store.fail(Fault::Refused, place, 1000);
        if place == PLACES[1] {
            source.commit();
            source.delete(2);
        }
        let error = flush(&mut table, &source).await.unwrap_err();
        assert!(error.is_retryable(), "{error:?}");
        store.fail(Fault::Refused, "nowhere", 1);
        flush(&mut table, &source).await.unwrap();
        assert_eq!(silver(&lake, &table, None).await, source.rows);
        source.commit();
        source.insert(100 + source.changes() as i64, row("more", 1));
    }
    flush(&mut table, &source).await.unwrap();
    assert_bronze(&lake, &table, 5 + source.changes()).await;
}

#[tokio::test]
async fn a_crash_between_bronze_and_silver_is_made_good_by_the_replay() {
    for change in CHANGES {
        let store = FaultyStore::new();
        let lake = lake(&store);
        let mut source = some_rows();
        let mut table = copied(&lake, &source).await;
        let before = table.durable();
        change(&mut source);
        store.fail(Fault::Hangs, PLACES[1], 1);
        crash(&store, flush(&mut table, &source)).await;
        drop(table);
        let mut table = open(&lake).await;
        assert_eq!(table.durable(), before, "what only bronze has is not durable");
        // Bronze is ahead: the replay is appended from there on, and merged whole.
        source.commit();
        source.insert(88, row("later", 1));
        flush(&mut table, &source).await.unwrap();
        assert_eq!(silver(&lake, &table, None).await, source.rows);
        assert_bronze(&lake, &table, 5 + source.changes()).await;
    }
}

#[tokio::test]
async fn a_crash_between_the_halves_of_a_copy_needs_a_new_epoch() {
    let store = FaultyStore::new();
    let lake = lake(&store);
    let mut source = some_rows();
    let mut table = open(&lake).await;
    store.fail(Fault::Hangs, &format!("{}{:0>25}", PLACES[1], "01.json"), 1);
    crash(&store, copy(&mut table, &source)).await;
    let mut table = open(&lake).await;
    assert_eq!((table.epoch(), table.durable()), (Some(1), None));
    source.start_epoch(2);
    copy(&mut table, &source).await.unwrap();
    assert_eq!(silver(&lake, &table, None).await, source.rows);
    assert_bronze(&lake, &table, 10).await;
}

#[tokio::test]
async fn a_call_dropped_midway_is_made_good_by_the_next() {
    for change in CHANGES {
        for place in PLACES {
            let store = FaultyStore::new();
            let lake = lake(&store);
            let mut source = some_rows();
            let mut table = copied(&lake, &source).await;
            change(&mut source);
            store.fail(Fault::Hangs, place, 1);
            tokio::select! {
                // Not all changes write to every place.
                done = flush(&mut table, &source) => done.unwrap(),
                () = store.hung() => {}
            }
            flush(&mut table, &source).await.unwrap();
            assert_eq!(silver(&lake, &table, None).await, source.rows);
            assert_bronze(&lake, &table, 5 + source.changes()).await;
        }
    }
}

#[tokio::test]
async fn a_merge_that_changes_nothing_still_moves_the_position() {
    let store = FaultyStore::new();
    let lake = lake(&store);
    let mut source = some_rows();
    let mut table = copied(&lake, &source).await;
    CHANGES[1](&mut source);
    let version = table.versions().silver;
    flush(&mut table, &source).await.unwrap();
    assert_eq!(table.versions().silver, version + 1);
    assert_eq!(open(&lake).await.durable(), table.durable());
    assert!(table.durable().unwrap().order == i64::MAX);
}

#[tokio::test]
async fn a_second_writer_is_found_out() {
    let store = FaultyStore::new();
    let lake = lake(&store);
    let mut source = some_rows();
    let mut first = copied(&lake, &source).await;
    let mut second = open(&lake).await;
    source.delete(1);
    let short = source.clone();
    source.commit();
    source.delete(2);
    flush(&mut first, &source).await.unwrap();
    let refused = flush(&mut second, &short).await;
    assert!(matches!(refused, Err(LakeError::OtherWriter { .. })), "{refused:?}");
    assert_eq!(silver(&lake, &first, None).await, source.rows);
    assert_bronze(&lake, &first, 5 + 2).await;
}
