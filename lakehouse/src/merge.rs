//! Merging into silver's files.
//!
//! Copy on write, in two passes. The first reads the key columns alone, where the range of keys may be concerned, and
//! finds the files that hold such rows; the second writes those anew, a few at a time, with the changed rows in the
//! places of the old ones. Memory holds the upsert, and a row group of each file that is being written, however large
//! the table is.

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch},
    compute::{cast, filter, filter_record_batch},
    datatypes::{DataType, TimeUnit, TimestampMicrosecondType},
    error::ArrowError,
};
use deltalake::datafusion::{
    common::ScalarValue,
    error::DataFusionError,
    functions_aggregate::min_max::{MaxAccumulator, MinAccumulator},
    logical_expr::{Accumulator, Expr, lit},
};
use futures::{StreamExt, TryStreamExt, stream};
use lakeward_change::LEAF;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Lake, LakeError,
    condition::{all, column},
    rewrite::{FILE, OldFile, Rewritten, old_files, rewrite, rows_by_file},
    table::Table,
    upsert::Upsert,
};

/// Files that are written at a time: each holds a row group in memory.
const FILES_AT_ONCE: usize = 2;
/// Files that are smaller become one.
const SMALL: u64 = 4 << 20;

/// Writes what the loaded state's files become.
pub(crate) async fn merge(upsert: &Arc<Upsert>, table: &Table, lake: &Lake) -> Result<Rewritten, LakeError> {
    let Found { files, rows } = find(upsert, table, lake).await?;
    let new = upsert.new_rows(&rows).map_err(LakeError::arrow(&table.path))?;
    let new = Some(new).filter(|new| new.num_rows() > 0);
    if files.is_empty() || upsert.only_inserts() {
        let added = table.stage(new.as_slice()).await?;
        return Ok(Rewritten { removed: Vec::new(), added });
    }
    let upsert = Arc::clone(upsert);
    rewrite_each(table, lake, &files, move |stored| upsert.apply(&stored), new).await
}

/// The rows that would be put in.
pub(crate) async fn absent(upsert: &Upsert, table: &Table, lake: &Lake) -> Result<RecordBatch, LakeError> {
    let Found { rows, .. } = find(upsert, table, lake).await?;
    upsert.new_rows(&rows).map_err(LakeError::arrow(&table.path))
}

/// Writes what the loaded state's files become without the rows of some partitions of the source's table.
pub(crate) async fn remove_leaves(
    leaves: &BTreeSet<String>,
    table: &Table,
    lake: &Lake,
) -> Result<Rewritten, LakeError> {
    let failed = || LakeError::query(&table.path, "searched");
    let gone = column(LEAF).in_list(leaves.iter().map(|leaf| lit(leaf.as_str())).collect(), false);
    let mut batches = rows_by_file(table, &lake.session(), gone, vec![column(FILE)]).await?;
    let mut files = BTreeSet::new();
    while let Some(batch) = batches.try_next().await.map_err(failed())? {
        note(batch.column(0), &mut files).map_err(LakeError::arrow(&table.path))?;
    }
    let leaves = leaves.clone();
    let stay = move |stored: RecordBatch| {
        let leaf = stored.column_by_name(LEAF).and_then(|leaf| leaf.as_string_opt::<i32>());
        let stays = |leaf: Option<&str>| Some(leaf.is_none_or(|leaf| !leaves.contains(leaf)));
        let missing = || ArrowError::SchemaError(format!("no text column {LEAF}"));
        filter_record_batch(&stored, &leaf.ok_or_else(missing)?.iter().map(stays).collect())
    };
    rewrite_each(table, lake, &files, stay, None).await
}

/// Writes files anew, some at a time, as `change` leaves their rows, and the new rows into the first.
async fn rewrite_each(
    table: &Table,
    lake: &Lake,
    urls: &BTreeSet<String>,
    change: impl Fn(RecordBatch) -> Result<RecordBatch, ArrowError> + Clone + Send + 'static,
    mut new: Option<RecordBatch>,
) -> Result<Rewritten, LakeError> {
    let files = old_files(table, true, |path| urls.iter().any(|url| url.ends_with(path)))?;
    if files.len() != urls.len() {
        let reason = format!("of {} files that hold rows its log has {}", urls.len(), files.len());
        return Err(LakeError::Damaged { table: table.path.clone(), reason });
    }
    stream::iter(grouped(files))
        .map(|files| {
            let (table, session, change) = (table.clone(), lake.serial_session(), change.clone());
            let new = new.take();
            AbortOnDropHandle::new(tokio::spawn(async move {
                let added = rewrite(&table, &session, &files, change, new).await?;
                let removed = files.into_iter().map(|file| file.removed).collect();
                Ok::<_, LakeError>(Rewritten { removed, added })
            }))
        })
        .buffered(FILES_AT_ONCE)
        .map(|ended| ended.map_err(LakeError::stopped(&table.path))?)
        .try_fold(Rewritten::default(), async |mut all, part| {
            all.removed.extend(part.removed);
            all.added.extend(part.added);
            Ok(all)
        })
        .await
}

/// What of a table an upsert concerns.
struct Found {
    /// The files' URLs.
    files: BTreeSet<String>,
    /// For each of the upsert's rows, whether one with its key is stored.
    rows: Vec<bool>,
}

async fn find(upsert: &Upsert, table: &Table, lake: &Lake) -> Result<Found, LakeError> {
    let (failed, arrow) = (|| LakeError::query(&table.path, "searched"), LakeError::arrow(&table.path));
    let mut found = Found { files: BTreeSet::new(), rows: vec![false; upsert.num_rows()] };
    if upsert.num_rows() == 0 {
        return Ok(found);
    }
    let keys = upsert.key_names().count();
    let columns = upsert.key_names().chain([FILE]).map(column).collect();
    let mut batches = rows_by_file(table, &lake.session(), range(upsert).map_err(failed())?, columns).await?;
    while let Some(batch) = batches.try_next().await.map_err(failed())? {
        let concerning = upsert.concerning(&batch.columns()[..keys]).map_err(&arrow)?;
        let concerned: BooleanArray = concerning.iter().map(|row| Some(row.is_some())).collect();
        if concerned.true_count() == 0 {
            continue;
        }
        let files = filter(batch.column(keys), &concerned).map_err(&arrow)?;
        note(&files, &mut found.files).map_err(&arrow)?;
        concerning.into_iter().flatten().for_each(|row| found.rows[row] = true);
    }
    Ok(found)
}

/// Takes down the names in a column of files.
fn note(column: &ArrayRef, files: &mut BTreeSet<String>) -> Result<(), ArrowError> {
    for file in cast(column, &DataType::Utf8)?.as_string::<i32>().iter().flatten() {
        if !files.contains(file) {
            files.insert(file.to_owned());
        }
    }
    Ok(())
}

/// The range that the upsert's keys lie in, by which files and row groups are skipped. Columns of other types are left
/// out: their statistics are rounded or leave values out.
fn range(upsert: &Upsert) -> Result<Expr, DataFusionError> {
    let mut bounds = Vec::new();
    for (name, values) in upsert.key_names().zip(upsert.keys()?) {
        if upsert.is_found_by_time()
            && matches!(values.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _))
        {
            bounds.push(around(name, &values));
            continue;
        }
        let exact = matches!(values.data_type(), DataType::Utf8 | DataType::Date32);
        if values.is_empty() || !(exact || values.data_type().is_integer()) {
            continue;
        }
        let mut least = MinAccumulator::try_new(values.data_type())?;
        let mut greatest = MaxAccumulator::try_new(values.data_type())?;
        least.update_batch(&[Arc::clone(&values)])?;
        greatest.update_batch(&[values])?;
        bounds.push(column(name).between(lit(least.evaluate()?), lit(greatest.evaluate()?)));
    }
    Ok(all(bounds.into_iter()))
}

/// The range of times that some lie in, and a millisecond more: statistics are rounded to that.
fn around(name: &str, values: &ArrayRef) -> Expr {
    const ROUNDED: i64 = 1_000;
    let times = values.as_primitive::<TimestampMicrosecondType>();
    let zone = times.timezone().map(Arc::from);
    let bound = |time: i64| lit(ScalarValue::TimestampMicrosecond(Some(time), zone.clone()));
    let least = arrow::compute::min(times).unwrap_or(i64::MIN).saturating_sub(ROUNDED);
    let greatest = arrow::compute::max(times).unwrap_or(i64::MAX).saturating_add(ROUNDED);
    column(name).between(bound(least), bound(greatest))
}

/// Each large file by itself, the small ones together and first, where new rows are put in.
fn grouped(files: Vec<OldFile>) -> Vec<Vec<OldFile>> {
    let (small, mut large): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.bytes < SMALL);
    large.sort_by_key(|file| file.bytes);
    let small = Some(small).filter(|small| !small.is_empty());
    small.into_iter().chain(large.into_iter().map(|file| vec![file])).collect()
}
