//! Rows that come numbered, from files and topics: appended to bronze, and put into silver where their key is not there
//! yet.
//!
//! The rows of a source's partition come in the order of their numbers. Each commit carries how far each partition is in,
//! as transaction identifiers: after a crash, or from a source that is read anew, what is there is passed over.

mod letters;
mod period;

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Date32Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    compute::filter_record_batch,
    datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};
use backon::Retryable;
use lakeward_change::{DeadLetter, TableId};

use crate::{
    Lake, LakeError, Layer, SourceRef, bronze,
    commit::{Txn, Work, backoff, commit},
    merge::absent,
    table::{Definition, Table},
    tidy::tidy,
    upsert::Upsert,
};

pub use letters::LoadedLetters;
pub use period::Period;

const FILE_BYTES: u64 = 128 << 20;
const SOURCE: &str = "_source";
const INGESTED_AT: &str = "_ingested_at";
const MICROSECONDS_A_DAY: i64 = 86_400_000_000;

/// How far each partition of a source is in: the number that its next row has at least.
pub type Progress = BTreeMap<i32, i64>;

/// What comes in, and which of its columns are what.
#[derive(Debug, Clone)]
pub struct LoadedRows {
    /// Bronze's table, of this source alone.
    pub bronze: TableId,
    /// Silver's, which several may share.
    pub silver: TableId,
    pub schema: SchemaRef,
    /// How many columns silver has: the first ones.
    pub columns: usize,
    /// Of silver's columns, those that tell rows apart. A time is best first: files are skipped by it.
    pub key: &'static [&'static str],
    /// What silver is partitioned by if it is made now, by the key's first column.
    pub period: Period,
    /// The partition that a row is of, 32 bits; without it there is one, 0.
    pub partition: Option<&'static str>,
    /// The row's number in its partition, 64 bits.
    pub number: &'static str,
}

/// A source that is loaded, and its tables.
pub struct LoadedTable {
    lake: Lake,
    /// Its `system_id` says which file it is, or which Kafka.
    source: SourceRef,
    rows: LoadedRows,
    key: Vec<usize>,
    /// What silver is partitioned by.
    period: Option<Period>,
    bronze: Table,
    silver: Table,
    letters: LoadedLetters,
    /// A call failed or was dropped midway: what is there must be read anew.
    stale: bool,
}

impl LoadedTable {
    /// Makes the tables if there are none.
    ///
    /// # Errors
    /// If a key is no column of silver, or the store fails.
    pub async fn open(lake: &Lake, source: &SourceRef, rows: LoadedRows) -> Result<Self, LakeError> {
        let path = |layer, id| lake.table_path(layer, &source.name, id);
        let mut bronze = Table::open(lake, &path(Layer::Bronze, &rows.bronze)).await?;
        let mut silver = Table::open(lake, &path(Layer::Silver, &rows.silver)).await?;
        let fields = &rows.schema.fields()[..rows.columns.min(rows.schema.fields().len())];
        let current = Schema::new(fields);
        let key = rows.key.iter().map(|name| current.index_of(name)).collect::<Result<Vec<_>, _>>();
        let key = key.map_err(LakeError::arrow(&silver.path))?;
        let statistics: Vec<_> = rows.key.iter().map(|name| (*name).to_owned()).collect();
        let all = |schema, partition| Definition {
            schema,
            partition,
            statistics: Some(statistics.clone()),
            target_file_bytes: FILE_BYTES,
            captured: None,
        };
        bronze.create(&all(bronze_schema(&rows.schema), Some(bronze::INGEST_DATE))).await?;
        silver.create(&all(with_period(&current, rows.period), Some(rows.period.column()))).await?;
        let partitioned = silver.loaded()?.metadata().partition_columns();
        let period = partitioned.iter().find_map(|column| Period::by_column(column));
        let (lake, source) = (lake.clone(), source.clone());
        let letters = LoadedLetters::new(&lake, &source, rows.bronze.clone());
        Ok(Self { lake, source, rows, key, period, bronze, silver, letters, stale: false })
    }

    /// How far partitions of a source are whole in the lake, whether or not there are tables.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn so_far(
        lake: &Lake,
        source: &SourceRef,
        rows: &LoadedRows,
        partitions: impl IntoIterator<Item = i32>,
    ) -> Result<Progress, LakeError> {
        let path = lake.table_path(Layer::Silver, &source.name, &rows.silver);
        progress(&Table::open(lake, &path).await?, &app_id(source, &rows.bronze), partitions).await
    }

    /// How far partitions are whole in the lake.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn done(&self, partitions: impl IntoIterator<Item = i32>) -> Result<Progress, LakeError> {
        // Bronze is never behind it.
        progress(&self.silver, &self.app_id(), partitions).await
    }

    /// Takes in what comes before `ends` and was not taken in yet: what of it cannot be is kept as dead letters first (made by
    /// [`LoadedLetters::letter`]), the rows are appended to bronze, and those whose key is new are put into silver. Each
    /// happens once, however often this is called. `now` (microseconds UTC) is stored with the rows.
    ///
    /// # Errors
    /// If the rows are of another schema, another process loads the same, or the store fails for longer than some retries
    /// take. The same may be loaded again.
    pub async fn load(
        &mut self,
        ends: &Progress,
        rows: &RecordBatch,
        letters: &[DeadLetter],
        now: i64,
    ) -> Result<(), LakeError> {
        if self.stale {
            self.bronze.reload().await?;
        }
        self.stale = true;
        self.letters.keep(ends, letters, now).await?;
        let app_id = self.app_id();
        let done = progress(&self.bronze, &app_id, ends.keys().copied()).await?;
        let txns = advance(&app_id, &done, ends);
        if !txns.is_empty() {
            let fresh = self.fresh(rows, &done).and_then(|rows| self.bronze_rows(&rows, now));
            let fresh = fresh.map_err(LakeError::arrow(&self.bronze.path))?;
            let work = if fresh.num_rows() == 0 {
                Work::Nothing
            } else {
                let stage = || self.bronze.stage(std::slice::from_ref(&fresh));
                Work::Append(stage.retry(backoff()).when(LakeError::is_retryable).await?)
            };
            commit(&mut self.bronze, &work, &txns).await?;
        }
        // Other ways put rows into it meanwhile: of a state of before, commit and merge would be tried twice.
        self.silver.reload().await?;
        let done = progress(&self.silver, &app_id, ends.keys().copied()).await?;
        let txns = advance(&app_id, &done, ends);
        if !txns.is_empty() {
            let fresh = self.fresh(rows, &done).map_err(LakeError::arrow(&self.silver.path))?;
            if fresh.num_rows() == 0 {
                commit(&mut self.silver, &Work::Nothing, &txns).await?;
            } else {
                let upsert = Arc::new(self.inserting(&fresh)?);
                let work = Work::Merge { upsert: &upsert, lake: &self.lake };
                commit(&mut self.silver, &work, &txns).await?;
            }
        }
        self.stale = false;
        Ok(())
    }

    /// Puts rows of bronze's schema into silver whose keys are new there; how far the source is stays as it is.
    ///
    /// # Errors
    /// As [`Self::load`]. The rows may be put in again.
    pub async fn put(&mut self, rows: &RecordBatch) -> Result<(), LakeError> {
        self.stale = true;
        self.silver.reload().await?;
        let upsert = Arc::new(self.inserting(rows)?);
        let work = Work::Merge { upsert: &upsert, lake: &self.lake };
        commit(&mut self.silver, &work, &[]).await
    }

    /// Which of some rows, of the key's columns at least, silver has not.
    ///
    /// # Errors
    /// If they lack a column of the key, or the store fails.
    pub async fn absent(&mut self, rows: RecordBatch) -> Result<RecordBatch, LakeError> {
        let arrow = || LakeError::arrow(&self.silver.path);
        let key = self.rows.key.iter().map(|name| rows.schema_ref().index_of(name));
        let key = key.collect::<Result<_, _>>().map_err(arrow())?;
        let upsert = Upsert::inserting(rows, key).map_err(arrow())?;
        self.silver.reload().await?;
        absent(&upsert, &self.silver, &self.lake).await
    }

    /// Now and then puts small files together and removes what was replaced an hour ago and longer. `now` is in
    /// microseconds UTC.
    ///
    /// # Errors
    /// If others commit at the same time, or the store fails; the rows are the same either way.
    pub async fn tidy(&mut self, now: i64) -> Result<(), LakeError> {
        let before = std::mem::replace(&mut self.stale, true);
        for table in [&mut self.bronze, &mut self.silver] {
            tidy(table, &self.lake, FILE_BYTES, now).await?;
        }
        self.stale = before;
        Ok(())
    }

    fn inserting(&self, rows: &RecordBatch) -> Result<Upsert, LakeError> {
        let rows = rows.project(&(0..self.rows.columns).collect::<Vec<_>>());
        let upsert = rows.and_then(|rows| Upsert::inserting(self.partitioned(rows)?, self.key.clone()));
        upsert.map_err(LakeError::arrow(&self.silver.path))
    }

    fn partitioned(&self, rows: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let Some((period, time)) = self.period.zip(self.key.first()) else { return Ok(rows) };
        let schema = with_period(&rows.schema(), period);
        let mut columns = rows.columns().to_vec();
        columns.push(period.of(rows.column(*time))?);
        RecordBatch::try_new(schema, columns)
    }

    fn app_id(&self) -> String {
        app_id(&self.source, &self.rows.bronze)
    }

    /// The rows that are not in by then.
    fn fresh(&self, rows: &RecordBatch, done: &Progress) -> Result<RecordBatch, ArrowError> {
        let column = |name: &str| rows.schema_ref().index_of(name).map(|index| rows.column(index));
        let numbers = column(self.rows.number)?.as_primitive::<Int64Type>();
        let partitions = self.rows.partition.map(column).transpose()?;
        let partitions = partitions.map(|partitions| partitions.as_primitive::<Int32Type>());
        let is_fresh = |row| {
            let partition = partitions.map_or(0, |partitions| partitions.value(row));
            Some(done.get(&partition).is_none_or(|done| numbers.value(row) >= *done))
        };
        filter_record_batch(rows, &(0..rows.num_rows()).map(is_fresh).collect())
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
        RecordBatch::try_new(bronze_schema(&self.rows.schema), columns)
    }
}

fn with_period(schema: &Schema, period: Period) -> SchemaRef {
    let column = Field::new(period.column(), DataType::Utf8, true);
    let fields = schema.fields().iter().map(|field| field.as_ref().clone());
    Arc::new(Schema::new(fields.chain([column]).collect::<Vec<_>>()))
}

fn bronze_schema(rows: &Schema) -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let added = [(SOURCE, DataType::Utf8), (INGESTED_AT, time), (bronze::INGEST_DATE, DataType::Date32)]
        .map(|(name, data_type)| Arc::new(Field::new(name, data_type, true)));
    Arc::new(Schema::new(rows.fields().iter().cloned().chain(added).collect::<Vec<_>>()))
}

fn app_id(source: &SourceRef, table: &TableId) -> String {
    let (SourceRef { name, system_id }, TableId { schema, name: table }) = (source, table);
    // Quoted, so that no two tables share one.
    format!("{name}/{system_id}/{schema:?}.{table:?}")
}

/// How far partitions are in a table; those that are not begun are left out.
async fn progress(
    table: &Table,
    app_id: &str,
    partitions: impl IntoIterator<Item = i32>,
) -> Result<Progress, LakeError> {
    let mut done = Progress::new();
    for partition in partitions {
        if let Some(number) = table.txn(&format!("{app_id}/{partition}")).await? {
            done.insert(partition, number);
        }
    }
    Ok(done)
}

/// What tells of the partitions that a commit takes further.
fn advance(app_id: &str, done: &Progress, ends: &Progress) -> Vec<Txn> {
    let txns = ends.iter().map(|(partition, after)| Txn {
        app_id: format!("{app_id}/{partition}"),
        before: done.get(partition).copied(),
        after: *after,
    });
    txns.filter(|txn| txn.before < Some(txn.after)).collect()
}
