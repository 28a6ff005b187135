//! Feature tables: the results of a view, one run beside the other.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray},
    compute::cast,
    datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit},
};
use chrono::{DateTime, NaiveDateTime};
use deltalake::{datafusion::prelude::DataFrame, kernel::engine::arrow_conversion::TryIntoArrow};
use futures::TryStreamExt;
use lakeward_change::Position;

use crate::{
    Lake, LakeError,
    commit::{Txn, Work, commit},
    table::{Definition, Table, abandon},
};

const CREATED_TIME: &str = "created_time";
/// How the log writes a value of it.
const WRITTEN: &str = "%Y-%m-%d %H:%M:%S%.6f";
const FILE_BYTES: u64 = 64 << 20;

/// One run's rows in a feature table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureRun {
    /// The table's path in the lake.
    pub path: String,
    /// The table's version that the run was found in.
    pub version: i64,
    /// Microseconds UTC.
    pub created_time: i64,
    /// What the rows were computed from, if that was said.
    pub position: Option<Position>,
}

impl Lake {
    /// The run with a `created_time` (microseconds UTC) in the newest version of `features/{name}`, or the one with the
    /// greatest. `None` if there are no rows of it.
    ///
    /// # Errors
    /// The store fails.
    pub async fn feature_run(
        &self,
        name: &str,
        created_time: Option<i64>,
    ) -> Result<Option<FeatureRun>, LakeError> {
        let path = Self::feature_path(name);
        let table = Table::open(self, &path).await?;
        let Some(version) = table.version() else { return Ok(None) };
        let runs = table.partition_values(CREATED_TIME)?;
        let runs = runs.iter().filter_map(|value| NaiveDateTime::parse_from_str(value, WRITTEN).ok());
        let runs = runs.map(|time| time.and_utc().timestamp_micros());
        let Some(created_time) = runs.filter(|run| created_time.is_none_or(|wanted| wanted == *run)).max()
        else {
            return Ok(None);
        };
        let [epoch, commit] = place(created_time);
        let found = table.txn(&epoch).await?.zip(table.txn(&commit).await?);
        let position = found.map(|(epoch, commit)| Position { epoch, commit, order: 0 });
        Ok(Some(FeatureRun { path, version, created_time, position }))
    }

    /// Writes the rows of one run, known by its `created_time` (microseconds UTC), into `features/{name}`. Rows that
    /// an earlier run with the same time wrote are replaced, others stay. The column `created_time` is added, and
    /// partitions the table. `position` is that of the watermark that the rows are computed from. Returns the number of
    /// rows.
    ///
    /// # Errors
    /// If the frame fails, has columns other than the table's or a timestamp without time zone, or the store fails.
    pub async fn write_features(
        &self,
        name: &str,
        frame: DataFrame,
        created_time: i64,
        position: Option<Position>,
    ) -> Result<u64, LakeError> {
        let path = Self::feature_path(name);
        let failed = |reason: String| LakeError::Features { table: path.clone(), reason };
        let value = DateTime::from_timestamp_micros(created_time)
            .ok_or_else(|| failed("has no time of this kind".to_owned()))?
            .format(WRITTEN)
            .to_string();
        let schema = stored_schema(frame.schema().as_arrow()).map_err(failed)?;
        let mut table = Table::open(self, &path).await?;
        table
            .create(&Definition {
                schema: Arc::clone(&schema),
                partition: Some(CREATED_TIME),
                statistics: None,
                target_file_bytes: FILE_BYTES,
                captured: None,
            })
            .await?;
        same_columns(&table, &schema)?;

        let mut rows = 0;
        let mut batches = frame.execute_stream().await.map_err(LakeError::query(&path, "computed"))?;
        let mut writer = table.writer(Arc::clone(&schema))?;
        let written = loop {
            let step = async {
                let Some(batch) = batches.try_next().await.map_err(LakeError::query(&path, "computed"))?
                else {
                    return Ok(false);
                };
                let batch = stored(&schema, &batch, created_time).map_err(LakeError::arrow(&path))?;
                writer.write(&batch).await.map_err(LakeError::delta(&path, "written to"))?;
                rows += batch.num_rows() as u64;
                Ok(true)
            };
            match step.await {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = written {
            abandon(writer).await;
            return Err(error);
        }
        let files = writer.close().await.map_err(LakeError::delta(&path, "written to"))?;
        let before = table.txn(RUNS).await?;
        let mut txns = vec![Txn { app_id: RUNS.to_owned(), before, after: before.unwrap_or(0) + 1 }];
        for (app_id, after) in
            position.into_iter().flat_map(|at| place(created_time).into_iter().zip([at.epoch, at.commit]))
        {
            txns.push(Txn { before: table.txn(&app_id).await?, app_id, after });
        }
        let work = Work::ReplacePartition { column: CREATED_TIME, value, files };
        commit(&mut table, &work, &txns).await?;
        Ok(rows)
    }
}

/// The transaction identifier that counts the runs written.
const RUNS: &str = "lakeward/runs";

/// The transaction identifiers that say what a run was computed from: epoch and commit of a position.
fn place(created_time: i64) -> [String; 2] {
    ["epoch", "commit"].map(|part| format!("{RUNS}/{created_time}/{part}"))
}

/// The frame's columns as they are stored, all nullable, then `created_time`.
fn stored_schema(frame: &Schema) -> Result<SchemaRef, String> {
    let mut fields: Vec<FieldRef> = Vec::new();
    for field in frame.fields() {
        if field.name() == CREATED_TIME {
            return Err(format!("cannot have a column {CREATED_TIME} of its own"));
        }
        let data_type = stored_type(field.data_type()).ok_or_else(|| {
            format!("cannot store the column {:?} of type {}", field.name(), field.data_type())
        })?;
        fields.push(Arc::new(Field::new(field.name(), data_type, true)));
    }
    fields.push(Arc::new(Field::new(CREATED_TIME, time(), true)));
    Ok(Arc::new(Schema::new(fields)))
}

/// `None` for types that Delta lacks; a timestamp without time zone would need a newer protocol.
fn stored_type(frame: &DataType) -> Option<DataType> {
    Some(match frame {
        DataType::Timestamp(_, Some(_)) => time(),
        DataType::Timestamp(_, None) | DataType::Null => return None,
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Dictionary(_, value) => return stored_type(value),
        DataType::List(field) | DataType::LargeList(field) => {
            DataType::List(Arc::new(Field::new("element", stored_type(field.data_type())?, true)))
        }
        other => other.clone(),
    })
}

fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn stored(
    schema: &SchemaRef,
    batch: &RecordBatch,
    created_time: i64,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let mut columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast(column, field.data_type()))
        .collect::<Result<_, _>>()?;
    columns.push(Arc::new(
        TimestampMicrosecondArray::from_value(created_time, batch.num_rows()).with_timezone("UTC"),
    ));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

pub(crate) fn same_columns(table: &Table, schema: &Schema) -> Result<(), LakeError> {
    let stored: Schema =
        table.loaded()?.schema().as_ref().try_into_arrow().map_err(LakeError::arrow(&table.path))?;
    let names = |schema: &Schema| {
        schema
            .fields()
            .iter()
            .map(|field| (field.name().clone(), field.data_type().clone()))
            .collect::<Vec<_>>()
    };
    if names(&stored) == names(schema) {
        return Ok(());
    }
    Err(LakeError::Features {
        table: table.path.clone(),
        reason: "has other columns than this version gives: move its folder away, it is built anew"
            .to_owned(),
    })
}
