//! Computed tables: rows and marks in one commit, and what differs between two versions.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit},
};
use deltalake::datafusion::catalog::TableProvider;
use lakeward_lakehouse::{GoldTable, Lake, LakeError};
use object_store::ObjectStore;
use url::Url;

use crate::faults::{Fault, FaultyStore};

const PATH: &str = "gold/sums";

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![Field::new("at", time, true), Field::new("sum", DataType::Int64, true)]))
}

/// Rows by their key; those without a sum are to go.
async fn put(table: &mut GoldTable, rows: &[(i64, Option<i64>)], mark: i64) -> Result<(), LakeError> {
    let keys = rows.iter().map(|(at, _)| at * 60_000_000);
    let columns: [ArrayRef; 2] = [
        Arc::new(TimestampMicrosecondArray::from_iter_values(keys).with_timezone("UTC")),
        Arc::new(rows.iter().map(|(_, sum)| *sum).collect::<Int64Array>()),
    ];
    let deleted: BooleanArray = rows.iter().map(|(_, sum)| Some(sum.is_none())).collect();
    table.put(RecordBatch::try_new(schema(), columns.into()).unwrap(), deleted, &[("source", mark)]).await
}

async fn rows(lake: &Lake, provider: Option<Arc<dyn TableProvider>>) -> Vec<(i64, i64)> {
    let Some(provider) = provider else { return Vec::new() };
    let session = lake.session();
    session.register_table("t", provider).unwrap();
    let sql = "SELECT cast(at AS bigint) / 60000000, sum FROM t ORDER BY 1, 2";
    let found = session.sql(sql).await.unwrap().collect().await.unwrap();
    session.deregister_table("t").unwrap();
    let of = |batch: &RecordBatch, column: usize| {
        batch.column(column).as_primitive::<Int64Type>().values().to_vec()
    };
    found.iter().flat_map(|batch| of(batch, 0).into_iter().zip(of(batch, 1))).collect()
}

#[tokio::test]
async fn rows_and_marks_change_together_whatever_fails() {
    for fault in Fault::ALL {
        let store = FaultyStore::new();
        let root = Url::parse("memory:///").unwrap();
        let lake =
            Lake::with_store(root, Arc::clone(&store) as Arc<dyn ObjectStore>, BTreeMap::new()).unwrap();
        let mut table = GoldTable::open(&lake, "sums", schema()).await.unwrap();
        assert_eq!(table.mark("source").await.unwrap(), None);
        put(&mut table, &[(1, Some(10)), (2, Some(20)), (3, Some(30))], 1).await.unwrap();
        store.fail(fault, "sums/_delta_log", 1);
        put(&mut table, &[(2, Some(25)), (3, None), (4, Some(40)), (5, None)], 2).await.unwrap();
        assert!(store.struck(), "{fault:?}");
        let after = [(1, 10), (2, 25), (4, 40)];
        assert_eq!(rows(&lake, Some(table.rows().await.unwrap())).await, after, "{fault:?}");
        assert_eq!(table.mark("source").await.unwrap(), Some(2), "{fault:?}");

        // The file was written anew; what stayed is on both sides.
        let difference = lake.difference(PATH, Some(1), 2).await.unwrap();
        assert_eq!(rows(&lake, difference.removed).await, [(1, 10), (2, 20), (3, 30)]);
        assert_eq!(rows(&lake, difference.added).await, after);
        let all = lake.difference(PATH, None, 2).await.unwrap();
        assert!(all.removed.is_none());
        assert_eq!(rows(&lake, all.added).await, after);

        // Another one was faster: nothing of the slower one is there.
        let mut other = GoldTable::open(&lake, "sums", schema()).await.unwrap();
        put(&mut other, &[(6, Some(60))], 3).await.unwrap();
        let refused = put(&mut table, &[(1, Some(99))], 4).await;
        assert!(matches!(refused, Err(LakeError::OtherWriter { .. })), "{fault:?}: {refused:?}");
        table.refresh().await.unwrap();
        assert_eq!(table.mark("source").await.unwrap(), Some(3));
        assert_eq!(
            rows(&lake, Some(table.rows().await.unwrap())).await,
            [(1, 10), (2, 25), (4, 40), (6, 60)]
        );
        // No rows at all still move the mark.
        put(&mut table, &[], 4).await.unwrap();
        let difference = lake.difference(PATH, Some(3), 4).await.unwrap();
        assert!(difference.removed.is_none() && difference.added.is_none());
        other.refresh().await.unwrap();
        assert_eq!(other.mark("source").await.unwrap(), Some(4));
    }
}

#[tokio::test]
async fn another_shape_of_rows_is_refused() {
    let root = Url::parse("memory:///").unwrap();
    let lake = Lake::with_store(root, FaultyStore::new() as Arc<dyn ObjectStore>, BTreeMap::new()).unwrap();
    GoldTable::open(&lake, "sums", schema()).await.unwrap();
    let other = Arc::new(Schema::new(vec![Field::new("at", DataType::Int64, true)]));
    let refused = GoldTable::open(&lake, "sums", other).await.err().unwrap();
    assert!(refused.to_string().contains("gold/sums"), "{refused}");
}
