//! Feature tables: one run beside the other.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{array::AsArray, datatypes::Int64Type};
use lakeward_change::Position;
use lakeward_lakehouse::{Lake, LakeError};
use object_store::ObjectStore;
use url::Url;

use crate::{
    faults::{Fault, FaultyStore},
    source::{TAKEN_AT, query},
};

async fn write(lake: &Lake, sql: &str, created_time: i64) -> Result<u64, LakeError> {
    let frame = lake.session().sql(sql).await.unwrap();
    lake.write_features("user_rfm", frame, created_time, None).await
}

async fn sums(lake: &Lake) -> Vec<(i64, i64)> {
    let sql = "SELECT cast(created_time AS bigint), sum(user_id) FROM t GROUP BY 1 ORDER BY 1";
    let rows = query(lake, "features/user_rfm", None, sql).await;
    rows.iter()
        .flat_map(|batch| {
            let number = |column: usize| batch.column(column).as_primitive::<Int64Type>().values().to_vec();
            number(0).into_iter().zip(number(1)).collect::<Vec<_>>()
        })
        .collect()
}

const VIEW: &str = "SELECT user_id, cast('2026-02-01T00:00:00Z' AS timestamp) AT TIME ZONE 'UTC' AS event_time, \
    cast(12.5 AS decimal(12, 2)) AS monetary, 'loyal' AS segment, \
    arrow_cast(3, 'UInt32') AS score FROM (VALUES (1), (2), (3)) AS v(user_id)";

#[tokio::test]
async fn a_run_replaces_itself_and_nothing_else() {
    for fault in Fault::ALL {
        let store = FaultyStore::new();
        let lake = Lake::with_store(
            Url::parse("memory:///").unwrap(),
            Arc::clone(&store) as Arc<dyn ObjectStore>,
            BTreeMap::new(),
        )
        .unwrap();
        assert_eq!(write(&lake, VIEW, TAKEN_AT).await.unwrap(), 3);
        let later = TAKEN_AT + 1_234_567;
        store.fail(fault, "user_rfm/_delta_log", 2);
        write(&lake, &VIEW.replace("(3)", "(4)"), later).await.unwrap();
        assert_eq!(sums(&lake).await, [(TAKEN_AT, 6), (later, 7)], "{fault:?}");
        write(&lake, VIEW, later).await.unwrap();
        assert_eq!(sums(&lake).await, [(TAKEN_AT, 6), (later, 6)]);
        write(&lake, &format!("{VIEW} WHERE user_id > 5"), TAKEN_AT).await.unwrap();
        assert_eq!(sums(&lake).await, [(later, 6)]);
        assert!(store.struck());
    }
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused() {
    let store = Arc::new(object_store::memory::InMemory::new()) as Arc<dyn ObjectStore>;
    let lake = Lake::with_store(Url::parse("memory:///").unwrap(), store, BTreeMap::new()).unwrap();
    for view in ["SELECT 1 AS created_time", "SELECT cast('2026-02-01T00:00:00' AS timestamp) AS event_time"]
    {
        assert!(matches!(write(&lake, view, TAKEN_AT).await, Err(LakeError::Features { .. })), "{view}");
    }
    write(&lake, VIEW, TAKEN_AT).await.unwrap();
    let other = write(&lake, "SELECT 1 AS user_id", TAKEN_AT).await;
    assert!(matches!(other, Err(LakeError::Features { .. })));
    assert_eq!(sums(&lake).await, [(TAKEN_AT, 6)]);
}

#[tokio::test]
async fn a_run_says_what_it_was_computed_from() {
    let store = Arc::new(object_store::memory::InMemory::new()) as Arc<dyn ObjectStore>;
    let lake = Lake::with_store(Url::parse("memory:///").unwrap(), store, BTreeMap::new()).unwrap();
    assert_eq!(lake.feature_run("user_rfm", None).await.unwrap(), None);
    let later = TAKEN_AT + 1_234_567;
    let at = |commit| Some(Position { epoch: 2, commit, order: 0 });
    let write = async |time, position| {
        let frame = lake.session().sql(VIEW).await.unwrap();
        lake.write_features("user_rfm", frame, time, position).await.unwrap();
    };
    write(later, at(70)).await;
    write(TAKEN_AT, None).await;
    let run = async |time| lake.feature_run("user_rfm", time).await.unwrap();
    let newest = run(None).await.unwrap();
    assert_eq!((newest.created_time, newest.position), (later, at(70)));
    assert_eq!(newest.path, "features/user_rfm");
    assert_eq!(run(Some(TAKEN_AT)).await.unwrap().position, None);
    assert_eq!(run(Some(TAKEN_AT + 1)).await, None);
    // Written again, also from an earlier watermark.
    write(later, at(60)).await;
    let again = run(None).await.unwrap();
    assert!(again.version > newest.version && again.position == at(60));
}
