//! Copies and flushes without faults.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use arrow::{array::RecordBatch, error::ArrowError};
use futures::stream;
use lakeward_change::{ColumnType, Evolution, Lsn, Position, RAW, TableId, TableSchema};
use lakeward_lakehouse::{CapturedTable, Lake, LakeError, Layer, SourceRef};
use serde_json::Value;

use crate::source::{
    self, EPOCH, Row, SNAPSHOT, Source, TAKEN_AT, assert_bronze, copied, flush, folded, open, row, silver,
};

fn lake(folder: &tempfile::TempDir) -> Lake {
    let names = BTreeMap::from([(TableId::new("public", "products"), "products".to_owned())]);
    Lake::open(folder.path().to_str().unwrap(), names).unwrap()
}

fn some_rows() -> Source {
    Source::with_rows((1..=10).map(|id| (id, row(&format!("notes {id}"), i128::from(id) * 100))))
}

#[tokio::test]
async fn a_copy_is_readable_by_version_and_survives_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(&folder);
    let source = some_rows();
    let table = copied(&lake, &source).await;
    assert_eq!(table.silver_path(), "silver/products");
    assert!(folder.path().join("silver/products/_delta_log").is_dir());
    assert_eq!(silver(&lake, &table, None).await, source.rows);
    assert_bronze(&lake, &table, 10).await;
    let at = Some(Position { epoch: EPOCH, commit: SNAPSHOT, order: 0 });
    assert_eq!(table.durable(), at);
    let again = open(&lake).await;
    assert_eq!((again.durable(), again.versions()), (at, table.versions()));
    lake.check_definition("silver/products", &source::table()).await.unwrap();
}

#[tokio::test]
async fn an_empty_table_is_copied_too() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(&folder);
    let mut source = Source::default();
    let mut table = copied(&lake, &source).await;
    assert!(table.durable().is_some());
    source.insert(1, row("first", 1));
    flush(&mut table, &source).await.unwrap();
    assert_eq!(silver(&lake, &table, None).await, source.rows);
}

#[tokio::test]
async fn changes_of_all_kinds_land_once_however_often_they_come() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(&folder);
    let mut source = some_rows();
    let mut table = copied(&lake, &source).await;
    source.insert(11, row("eleven", 1));
    source.update(1, None, Some("changed"), 2);
    source.commit();
    source.update(2, None, None, 3);
    source.delete(3);
    source.update(4, Some(40), None, 4);
    source.update(40, Some(41), None, 5);
    source.delete(5);
    source.insert(5, row("back again", 6));
    for _ in 0..3 {
        flush(&mut table, &source).await.unwrap();
        assert_eq!(silver(&lake, &table, None).await, source.rows);
        assert_bronze(&lake, &table, 10 + source.changes()).await;
    }
    let versions = table.versions();
    let mut table = open(&lake).await;
    flush(&mut table, &source).await.unwrap();
    assert_eq!(table.versions(), versions, "a repeat commits nothing");
    assert_eq!(source.rows[&41].notes.as_deref(), Some("notes 4"));
}

#[tokio::test]
async fn a_transaction_lands_in_parts_by_ordinal() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(&folder);
    let mut source = some_rows();
    let mut table = copied(&lake, &source).await;
    for id in 20..30 {
        source.insert(id, row("many", 1));
        source.update(id, None, None, i128::from(id));
    }
    table.flush(&source.batches(0..7, 3), false, TAKEN_AT).await.unwrap();
    assert_eq!(table.durable(), Some(Position { epoch: EPOCH, commit: SNAPSHOT, order: 7 }));
    // The source begins the transaction anew, in other batches.
    let mut table = open(&lake).await;
    table.flush(&source.batches(0..13, 5), false, TAKEN_AT).await.unwrap();
    table.flush(&source.batches(13..20, 5), true, TAKEN_AT).await.unwrap();
    assert_eq!(table.durable(), Some(Position { epoch: EPOCH, commit: SNAPSHOT, order: i64::MAX }));
    assert_eq!(silver(&lake, &table, None).await, source.rows);
    assert_bronze(&lake, &table, 10 + 20).await;
}

#[tokio::test]
async fn a_truncate_removes_what_is_older_and_only_that() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(&folder);
    let mut source = some_rows();
    let mut table = copied(&lake, &source).await;
    source.insert(50, row("before", 1));
    source.truncate();
    source.insert(1, row("after", 2));
    source.commit();
    source.truncate();
    source.insert(2, row("after both", 3));
    source.update(2, Some(3), None, 4);
    flush(&mut table, &source).await.unwrap();
    assert_eq!(silver(&lake, &table, None).await, source.rows);
    assert_eq!(source.rows.len(), 1);
    source.commit();
    source.truncate();
    flush(&mut table, &source).await.unwrap();
    assert_eq!(silver(&lake, &table, None).await, BTreeMap::new());
    assert_bronze(&lake, &table, 10 + source.changes()).await;
}

#[tokio::test]
async fn older_versions_stay_readable() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(&folder);
    let mut source = some_rows();
    let mut table = copied(&lake, &source).await;
    let mut expected = vec![(table.versions().silver, source.rows.clone())];
    for id in 1..6 {
        source.commit();
        source.delete(id);
        source.update(id + 1, None, None, 7);
        flush(&mut table, &source).await.unwrap();
        expected.push((table.versions().silver, source.rows.clone()));
    }
    for (version, rows) in expected {
        assert_eq!(silver(&lake, &table, Some(version)).await, rows);
    }
    let missing = lake.read("silver/products", Some(1000)).await;
    assert!(matches!(missing, Err(LakeError::Delta { .. })));
}

#[tokio::test]
async fn a_merge_of_many_rows_finds_each_once() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(&folder);
    let mut source = Source::with_rows((0..20_000).map(|id| (id, row("notes", i128::from(id)))));
    let mut table = open(&lake).await;
    table.copy(EPOCH, Lsn(SNAPSHOT as u64), TAKEN_AT, source.copy(4096), &|_| {}).await.unwrap();
    for id in 0..20_000 {
        source.update(id, None, if id % 2 == 0 { Some("new") } else { None }, 1);
    }
    flush(&mut table, &source).await.unwrap();
    assert_eq!(silver(&lake, &table, None).await, source.rows);
}

#[tokio::test]
async fn many_kept_values_are_merged_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(&folder);
    let mut source = Source::with_rows((0..10_000).map(|id| (id, row(&format!("long {id}"), 1))));
    let mut table = copied(&lake, &source).await;
    let before = table.versions().silver;
    for id in 0..10_000 {
        // Some under another key, twice: the second part needs what the first has written.
        let renamed = (id % 10 == 0).then_some(20_000 + id);
        source.update(id, renamed, None, 2);
        source.update(renamed.unwrap_or(id), None, None, 3);
    }
    flush(&mut table, &source).await.unwrap();
    assert!(table.versions().silver > before + 1);
    assert_eq!(silver(&lake, &table, None).await, source.rows);
    assert_bronze(&lake, &table, 10_000 + source.changes()).await;
}

#[tokio::test]
async fn a_new_epoch_replaces_silver_and_adds_to_bronze() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(&folder);
    let mut source = some_rows();
    let mut table = copied(&lake, &source).await;
    source.delete(1);
    flush(&mut table, &source).await.unwrap();
    let old = source.all();
    assert!(matches!(source::copy(&mut table, &source).await, Err(LakeError::Epoch { .. })));
    source.start_epoch(2);
    source::copy(&mut table, &source).await.unwrap();
    assert_eq!(silver(&lake, &table, None).await, source.rows);
    assert_bronze(&lake, &table, 10 + 1 + 9).await;
    assert!(matches!(
        table.flush(&old, true, TAKEN_AT).await,
        Err(LakeError::Epoch { found: 1, epoch: 2, .. })
    ));
    source.insert(1, row("anew", 1));
    flush(&mut table, &source).await.unwrap();
    assert_eq!(silver(&lake, &table, None).await, source.rows);
}

#[tokio::test]
async fn another_server_under_the_same_name_is_another_source() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(&folder);
    let source = some_rows();
    copied(&lake, &source).await;
    let other = SourceRef { system_id: "9999".into(), ..source::server() };
    let table = CapturedTable::open(&lake, &other, source::table()).await.unwrap();
    assert_eq!((table.epoch(), table.durable()), (Some(EPOCH), None));
}

#[tokio::test]
async fn a_copy_whose_rows_fail_leaves_the_table_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(&folder);
    let mut source = some_rows();
    let mut table = copied(&lake, &source).await;
    let good = source::table();
    let rows = vec![
        Ok(RecordBatch::new_empty(good.arrow())),
        Err(ArrowError::ExternalError("the connection broke".into())),
    ];
    let failed = table.copy(2, Lsn(5000), TAKEN_AT, stream::iter(rows), &|_| {}).await;
    assert!(matches!(failed, Err(LakeError::Rows { .. })));
    assert_eq!(silver(&lake, &table, None).await, source.rows);
    source.insert(99, row("goes on", 1));
    flush(&mut table, &source).await.unwrap();
    assert_eq!(silver(&lake, &table, None).await, source.rows);
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(&folder);
    let mut source = some_rows();
    let open_as = async |change: fn(&mut TableSchema)| {
        let mut schema = source::table().as_ref().clone();
        change(&mut schema);
        CapturedTable::open(&lake, &source::server(), Arc::new(schema))
            .await
            .map(|table| table.evolution().clone())
    };
    for name in ["_epoch", "with space", "ID"] {
        let refused = match name {
            "_epoch" => open_as(|s| s.columns[1].name = "_epoch".into()).await,
            "ID" => open_as(|s| s.columns[1].name = "ID".into()).await,
            _ => open_as(|s| s.columns[1].name = "with space".into()).await,
        };
        assert!(matches!(refused, Err(LakeError::Column { column, .. }) if column == name));
    }
    let mut table = open(&lake).await;
    source.insert(11, row("too early", 1));
    assert!(matches!(flush(&mut table, &source).await, Err(LakeError::NotCopied { .. })));
    copied(&lake, &source).await;
    let changed = open_as(|s| s.columns[2].column_type = ColumnType::Float8).await.unwrap();
    assert!(matches!(changed, Evolution::Replaced(reason) if reason.contains("price")));
    let mut table = open(&lake).await;
    let batches = source.batches(0..1, 1);
    let twice = [batches.clone(), batches].concat();
    assert!(matches!(table.flush(&twice, true, TAKEN_AT).await, Err(LakeError::Order { .. })));
}

#[tokio::test]
async fn bronze_keeps_what_the_source_said() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(&folder);
    let mut source = some_rows();
    let mut table = copied(&lake, &source).await;
    source.update(1, Some(100), None, 5);
    source.delete(2);
    flush(&mut table, &source).await.unwrap();
    let sql = "SELECT _op, _order, _unavailable, _old_key, _committed_at, id, \"Notes\" FROM t \
               WHERE _order > 0 OR _order = -10 ORDER BY _order";
    let rows = source::query(&lake, table.bronze_path(), None, sql).await;
    let text = arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string();
    let expected = "\
+-----+--------+--------------+-----------+-----------------------------+-----+----------+
| _op | _order | _unavailable | _old_key  | _committed_at               | id  | Notes    |
+-----+--------+--------------+-----------+-----------------------------+-----+----------+
| r   | -10    |              |           |                             | 10  | notes 10 |
| u   | 1      | [Notes]      | {id: 1}   | 2026-03-01T00:00:00.001Z    | 100 |          |
| d   | 2      |              |           | 2026-03-01T00:00:00.001Z    | 2   |          |
+-----+--------+--------------+-----------+-----------------------------+-----+----------+";
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let cells = |text: &str| words(&text.lines().filter(|l| !l.starts_with('+')).collect::<String>());
    assert_eq!(cells(&text), cells(expected), "{text}");
}

#[tokio::test]
async fn names_and_roots() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a new/lake");
    let lake = Lake::open(root.to_str().unwrap(), BTreeMap::new()).unwrap();
    assert_eq!(lake.table_path(Layer::Silver, "shop", &TableId::new("public", "t")), "silver/shop/public/t");
    assert!(matches!(lake.read("silver/nothing", None).await, Err(LakeError::NoTable { .. })));
    assert!(matches!(Lake::open("gopher://host/lake", BTreeMap::new()), Err(LakeError::Root { .. })));
    let source = Source::with_rows([(1, Row::default())]);
    let table = copied(&lake, &source).await;
    assert_eq!(silver(&lake, &table, None).await, source.rows);
}

/// Takes the column of values that do not fit out of a table's first schema, as it was before there was one.
fn without_raw(table: &Path) {
    let log = table.join("_delta_log/00000000000000000000.json");
    let lines = fs::read_to_string(&log).unwrap();
    let actions = lines.lines().map(|line| {
        let mut action: Value = serde_json::from_str(line).unwrap();
        if let Some(text) = action.pointer_mut("/metaData/schemaString") {
            let mut schema: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
            schema["fields"].as_array_mut().unwrap().retain(|field| field["name"] != RAW);
            *text = schema.to_string().into();
        }
        action.to_string() + "\n"
    });
    fs::write(&log, actions.collect::<String>()).unwrap();
}

#[tokio::test]
async fn a_table_from_before_there_was_raw_gets_it() {
    let folder = tempfile::tempdir().unwrap();
    let lake = lake(&folder);
    let mut source = Source::with_rows([(1, row("one", 1)), (2, row("two", 2))]);
    let table = copied(&lake, &source).await;
    for path in [table.bronze_path(), table.silver_path()] {
        without_raw(&folder.path().join(path));
    }
    let mut table = open(&lake).await;
    assert_eq!(*table.evolution(), Evolution::Extended);
    table.extend().await.unwrap();
    assert_eq!(*open(&lake).await.evolution(), Evolution::Same);
    source.insert(3, row("not a number", 4));
    source.update(1, None, None, 9);
    flush(&mut table, &source).await.unwrap();
    assert_eq!(silver(&lake, &table, None).await, source.rows);
    assert_eq!(folded(&lake, &table).await.0, source.rows);
}
