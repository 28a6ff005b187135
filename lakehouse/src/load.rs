//! Rows of files: appended to bronze, and put into silver where their key is not there yet.
//!
//! A file is loaded in numbered chunks, always the same ones. Each commit carries the number of its chunk, as a
//! transaction identifier of the file: after a crash, or the whole file again, what is there is passed over.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Date32Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};
use backon::Retryable;
use lakeward_change::{DeadLetter, TableId};

use crate::{
    Lake, LakeError, Layer, SourceRef, bronze,
    commit::{Txn, Work, backoff, commit},
    letter_rows,
    table::{Definition, Table},
    upsert::Upsert,
};

const FILE_BYTES: u64 = 128 << 20;
const FILE: &str = "_file";
const INGESTED_AT: &str = "_ingested_at";
const MICROSECONDS_A_DAY: i64 = 86_400_000_000;

/// A table whose rows come from files, and a file that is loaded into it.
pub struct LoadedTable {
    lake: Lake,
    id: TableId,
    /// The file: its `system_id` says which one it is.
    source: SourceRef,
    /// Columns of silver, which tell rows apart. A time is best first: files are skipped by it.
    key: Vec<usize>,
    /// How many columns silver has: the first ones.
    columns: usize,
    schema: SchemaRef,
    bronze: Table,
    silver: Table,
    /// A call failed or was dropped midway: what is there must be read anew.
    stale: bool,
}

impl LoadedTable {
    /// Makes the table if there is none. Rows will come in `schema`; its first `columns` columns are silver's, among them
    /// those of the key.
    ///
    /// # Errors
    /// If a key is no column, or the store fails.
    pub async fn open(
        lake: &Lake,
        source: &SourceRef,
        id: TableId,
        schema: SchemaRef,
        columns: usize,
        key: &[&str],
    ) -> Result<Self, LakeError> {
        let path = |layer| lake.table_path(layer, &source.name, &id);
        let mut bronze = Table::open(lake, &path(Layer::Bronze)).await?;
        let mut silver = Table::open(lake, &path(Layer::Silver)).await?;
        let current =
            Arc::new(Schema::new(schema.fields().iter().take(columns).cloned().collect::<Vec<_>>()));
        let key_columns = key.iter().map(|name| current.index_of(name)).collect::<Result<Vec<_>, _>>();
        let key_columns = key_columns.map_err(LakeError::arrow(&silver.path))?;
        let statistics = Some(key.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let all = |schema, partition, statistics| Definition {
            schema,
            partition,
            statistics,
            target_file_bytes: FILE_BYTES,
            captured: None,
        };
        bronze.create(&all(bronze_schema(&schema), Some(bronze::INGEST_DATE), statistics.clone())).await?;
        silver.create(&all(current, None, statistics)).await?;
        let (lake, source) = (lake.clone(), source.clone());
        Ok(Self { lake, id, source, key: key_columns, columns, schema, bronze, silver, stale: false })
    }

    /// Up to which chunk the file is whole in the lake; 0 if nothing of it is.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn done(&self) -> Result<i64, LakeError> {
        let app_id = self.app_id();
        let (bronze, silver) = (self.bronze.txn(&app_id).await?, self.silver.txn(&app_id).await?);
        Ok(bronze.unwrap_or(0).min(silver.unwrap_or(0)))
    }

    /// Takes in a chunk: what of it cannot be taken in is kept as dead letters first, the rows are appended to bronze, and
    /// those whose key is new are put into silver. Each happens once, however often this is called. `now` (microseconds
    /// UTC) is stored with the rows.
    ///
    /// # Errors
    /// If the rows are of another schema, another process loads the same file, or the store fails for longer than some
    /// retries take. The same chunk may be loaded again.
    pub async fn load(
        &mut self,
        number: i64,
        rows: &RecordBatch,
        letters: &[DeadLetter],
        now: i64,
    ) -> Result<(), LakeError> {
        if self.stale {
            self.bronze.reload().await?;
            self.silver.reload().await?;
        }
        self.stale = true;
        self.keep(number, letters, now).await?;
        let app_id = self.app_id();
        let before = self.bronze.txn(&app_id).await?;
        if before < Some(number) {
            let arrow = LakeError::arrow(&self.bronze.path);
            let rows = self.bronze_rows(rows, now).map_err(arrow)?;
            let stage = || self.bronze.stage(std::slice::from_ref(&rows));
            let files = stage.retry(backoff()).when(LakeError::is_retryable).await?;
            let txn = Txn { app_id: app_id.clone(), before, after: number };
            commit(&mut self.bronze, &Work::Append(files), &[txn]).await?;
        }
        let before = self.silver.txn(&app_id).await?;
        if before < Some(number) {
            let rows = rows.project(&(0..self.columns).collect::<Vec<_>>());
            let upsert = rows.and_then(|rows| Upsert::inserting(rows, self.key.clone()));
            let upsert = Arc::new(upsert.map_err(LakeError::arrow(&self.silver.path))?);
            let work = Work::Merge { upsert: &upsert, lake: &self.lake };
            commit(&mut self.silver, &work, &[Txn { app_id, before, after: number }]).await?;
        }
        self.stale = false;
        Ok(())
    }

    async fn keep(&self, number: i64, letters: &[DeadLetter], now: i64) -> Result<(), LakeError> {
        if letters.is_empty() {
            return Ok(());
        }
        // Commits that meet each other are tried again; within a process they need not meet.
        let _only = self.lake.letter_files().lock().await;
        let mut stored = Table::open(&self.lake, &letter_rows::path()).await?;
        stored.create(&letter_rows::definition()).await?;
        let app_id = format!("dead_letters/{}", self.app_id());
        let before = stored.txn(&app_id).await?;
        if before >= Some(number) {
            return Ok(());
        }
        let files = stored.stage(&[letter_rows::batch(&self.source, letters, now)?]).await?;
        commit(&mut stored, &Work::Append(files), &[Txn { app_id, before, after: number }]).await
    }

    fn app_id(&self) -> String {
        let (SourceRef { name, system_id }, TableId { schema, name: table }) = (&self.source, &self.id);
        // Quoted, so that no two tables share one.
        format!("{name}/{system_id}/{schema:?}.{table:?}/chunk")
    }

    fn bronze_rows(&self, rows: &RecordBatch, now: i64) -> Result<RecordBatch, ArrowError> {
        let length = rows.num_rows();
        let day = i32::try_from(now.div_euclid(MICROSECONDS_A_DAY)).unwrap_or(i32::MAX);
        let added: [ArrayRef; 3] = [
            Arc::new(StringArray::from(vec![self.source.system_id.as_str(); length])),
            Arc::new(TimestampMicrosecondArray::from_value(now, length).with_timezone("UTC")),
            Arc::new(Date32Array::from_value(day, length)),
        ];
        let columns = rows.columns().iter().cloned().chain(added).collect();
        RecordBatch::try_new(bronze_schema(&self.schema), columns)
    }
}

fn bronze_schema(rows: &Schema) -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let added = [(FILE, DataType::Utf8), (INGESTED_AT, time), (bronze::INGEST_DATE, DataType::Date32)]
        .map(|(name, data_type)| Arc::new(Field::new(name, data_type, true)));
    Arc::new(Schema::new(rows.fields().iter().cloned().chain(added).collect::<Vec<_>>()))
}
