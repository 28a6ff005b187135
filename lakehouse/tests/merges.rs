//! What a merge does to silver's files.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray},
    compute::concat,
    datatypes::Int64Type,
};
use futures::stream;
use lakeward_change::{ChangeBatch, Column, ColumnType, Lsn, Op, TableId, TableSchema};
use lakeward_lakehouse::{CapturedTable, Lake};

use crate::{
    fingerprints::every_type,
    source::{EPOCH, SNAPSHOT, Source, TAKEN_AT, copied, flush, query, row, server, silver},
};

fn lake(folder: &tempfile::TempDir) -> Lake {
    Lake::open(folder.path().to_str().unwrap(), BTreeMap::new()).unwrap()
}

async fn files(lake: &Lake, table: &CapturedTable) -> Vec<String> {
    let url = lake.table_url(table.silver_path()).unwrap();
    let mut files: Vec<String> = deltalake::open_table(url).await.unwrap().get_file_uris().unwrap().collect();
    files.sort();
    files
}

#[tokio::test]
async fn files_that_hold_no_changed_key_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(&folder);
    let mut source = Source::with_rows((1..=10).map(|id| (id, row("copied", 1))));
    let mut table = copied(&lake, &source).await;
    let [first] = files(&lake, &table).await.try_into().unwrap();

    source.insert(11, row("new", 1));
    source.commit();
    flush(&mut table, &source).await.unwrap();
    let both = files(&lake, &table).await;
    assert!(both.len() == 2 && both.contains(&first), "{both:?}");

    // Of the second file alone; the new row goes into it.
    source.update(11, None, Some("changed"), 2);
    source.insert(12, row("newer", 1));
    source.commit();
    flush(&mut table, &source).await.unwrap();
    let now = files(&lake, &table).await;
    assert!(now.len() == 2 && now.contains(&first) && now != both, "{now:?}");

    // A key that lies in the first file's range, but is not there.
    source.delete(5);
    source.commit();
    flush(&mut table, &source).await.unwrap();
    let without = files(&lake, &table).await;
    assert!(!without.contains(&first), "{without:?}");
    source.insert(5, row("again", 1));
    source.commit();
    flush(&mut table, &source).await.unwrap();
    let now = files(&lake, &table).await;
    assert!(without.iter().all(|file| now.contains(file)) && now.len() == 3, "{now:?}");
    assert_eq!(silver(&lake, &table, None).await, source.rows);
}

fn keyed_by(key: ColumnType) -> Arc<TableSchema> {
    let column =
        |name: &str, column_type| Column { name: name.into(), column_type, source_type: "any".into() };
    Arc::new(TableSchema {
        id: TableId::new("public", "keyed"),
        columns: vec![column("k", key), column("n", ColumnType::Int8)],
        key: vec![0],
        origin: Default::default(),
    })
}

/// One change in a transaction of its own.
fn change(table: &Arc<TableSchema>, commit: i64, op: Op, key: ArrayRef, n: Option<i64>) -> ChangeBatch {
    let number = |value| Int64Array::from(vec![value]);
    ChangeBatch {
        table: Arc::clone(table),
        epoch: EPOCH,
        ops: vec![op],
        commits: number(commit),
        orders: number(1),
        lsns: number(commit),
        xids: number(commit),
        committed_at: TimestampMicrosecondArray::from(vec![TAKEN_AT]).with_timezone("UTC"),
        values: RecordBatch::try_new(table.arrow(), vec![key, Arc::new(Int64Array::from(vec![n]))]).unwrap(),
        old_keys: None,
        unavailable: vec![None, None],
    }
}

#[tokio::test]
async fn every_type_can_be_a_key() {
    for (key, values, _) in every_type() {
        let folder = tempfile::tempdir().unwrap();
        let (lake, schema) = (lake(&folder), keyed_by(key));
        let at = |index| values.slice(index, 1);
        let mut table = CapturedTable::open(&lake, &server(), Arc::clone(&schema)).await.unwrap();
        let keys = concat(&[&at(0), &at(1)]).unwrap();
        let rows = RecordBatch::try_new(schema.arrow(), vec![keys, Arc::new(Int64Array::from(vec![1, 2]))]);
        let rows = stream::iter([rows]);
        table.copy(EPOCH, Lsn(SNAPSHOT as u64), TAKEN_AT, rows, &|_: u64| {}).await.unwrap();
        let flushes = [
            vec![change(&schema, SNAPSHOT + 1, Op::Update, at(0), Some(10))],
            vec![change(&schema, SNAPSHOT + 2, Op::Delete, at(1), None)],
            vec![change(&schema, SNAPSHOT + 3, Op::Insert, at(1), Some(20))],
            vec![
                change(&schema, SNAPSHOT + 4, Op::Update, at(1), Some(30)),
                change(&schema, SNAPSHOT + 5, Op::Update, at(0), Some(40)),
            ],
        ];
        let expected = [vec![2, 10], vec![10], vec![10, 20], vec![30, 40]];
        for (changes, expected) in flushes.iter().zip(expected) {
            table.flush(changes, true, TAKEN_AT).await.unwrap();
            let found = query(&lake, table.silver_path(), None, "SELECT k, n FROM t ORDER BY n").await;
            let numbers: Vec<i64> = found
                .iter()
                .flat_map(|rows| rows.column(1).as_primitive::<Int64Type>().values().to_vec())
                .collect();
            assert_eq!(numbers, expected, "{key:?}");
        }
    }
}
