//! Watermarks: consistent cuts of a source. One row of `ops/watermarks` says up to where the source is durable and
//! which version of each table holds exactly that.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::{
        ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    },
    compute::{concat_batches, filter_record_batch},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit},
};
use deltalake::{
    datafusion::{logical_expr::cast, prelude::lit},
    protocol::DeltaOperation,
};
use lakeward_change::{ChangeBatch, Lsn, StoppedTable, TableId};
use lakeward_faults::failpoint;
use serde::{Deserialize, Serialize};

use crate::{
    Compaction, Lake, LakeError, Layer, Retention, bronze,
    commit::{Txn, Work, commit},
    compaction::compact,
    condition::{beyond, column},
    retention::kept,
    rewrite::Rewritten,
    silver::POSITION,
    table::{Definition, Partition, Table},
};

/// A consistent cut: everything that committed before `lsn`, and nothing else, is in the tables at these versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    pub source: String,
    pub system_id: String,
    /// The server's timeline: another one means that it was restored or promoted.
    pub timeline: u32,
    pub epoch: i64,
    pub lsn: Lsn,
    /// The newest commit time in the cut, microseconds UTC.
    pub stream_time: Option<i64>,
    /// When it was written, microseconds UTC; zero where an earlier version of Lakeward did.
    #[serde(default)]
    pub written_at: i64,
    /// Why the cut was made.
    pub reason: String,
    #[serde(with = "entries")]
    pub tables: BTreeMap<TableId, WatermarkTable>,
    /// Tables that an earlier cut had and this one lacks.
    #[serde(default)]
    pub stopped: Vec<StoppedTable>,
    /// For each topic and partition of a source that comes by them, where it goes on after the cut.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub offsets: BTreeMap<String, BTreeMap<i32, i64>>,
}

/// A captured table in a cut. Paths are relative to the lake. A history has no silver: its path is empty, its version -1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatermarkTable {
    pub epoch: i64,
    pub bronze_path: String,
    pub bronze_version: i64,
    pub silver_path: String,
    pub silver_version: i64,
    /// Empty where nothing tells rows apart, or equal ones are counted.
    pub key: Vec<String>,
}

impl WatermarkTable {
    /// Updates and deletes cannot be captured: there is bronze alone.
    pub fn is_history(&self) -> bool {
        self.silver_path.is_empty()
    }

    /// Where the table's definition is kept.
    pub fn defined_at(&self) -> &str {
        if self.is_history() { &self.bronze_path } else { &self.silver_path }
    }
}

impl Watermark {
    /// The versions it names of the table at a path.
    pub(crate) fn versions(&self, path: &str) -> impl Iterator<Item = i64> {
        self.tables
            .values()
            .flat_map(|table| {
                [(&table.bronze_path, table.bronze_version), (&table.silver_path, table.silver_version)]
            })
            .filter(move |(of, _)| *of == path)
            .map(|(_, version)| version)
    }
}

/// JSON has no map with such keys: a list takes its place.
mod entries {
    use std::collections::BTreeMap;

    use lakeward_change::TableId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::WatermarkTable;

    #[derive(Serialize, Deserialize)]
    struct Entry<I, T> {
        #[serde(flatten)]
        id: I,
        #[serde(flatten)]
        table: T,
    }

    pub(super) fn serialize<S: Serializer>(
        tables: &BTreeMap<TableId, WatermarkTable>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(tables.iter().map(|(id, table)| Entry { id, table }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<TableId, WatermarkTable>, D::Error> {
        let entries = Vec::<Entry<TableId, WatermarkTable>>::deserialize(deserializer)?;
        Ok(entries.into_iter().map(|Entry { id, table }| (id, table)).collect())
    }
}

const SEQUENCE: &str = "sequence";
const SOURCE: &str = "source";
const FILE_BYTES: u64 = 32 << 20;
/// Each watermark is a file of its own until so many have come.
const COMPACTED_EVERY: i64 = 50;

fn path() -> String {
    format!("{}/watermarks", Layer::Ops)
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    Arc::new(Schema::new(vec![
        field(SEQUENCE, DataType::Int64),
        field("epoch", DataType::Int64),
        field("lsn", DataType::Int64),
        field("stream_time", time),
        field("reason", DataType::Utf8),
        field("watermark", DataType::Utf8),
        field(SOURCE, DataType::Utf8),
    ]))
}

fn row(watermark: &Watermark, sequence: i64) -> Result<RecordBatch, LakeError> {
    let table = path();
    let json = serde_json::to_string(watermark)
        .map_err(|error| LakeError::Damaged { table: table.clone(), reason: error.to_string() })?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![sequence])),
        Arc::new(Int64Array::from(vec![watermark.epoch])),
        Arc::new(Int64Array::from(vec![watermark.lsn.as_i64()])),
        Arc::new(TimestampMicrosecondArray::from(vec![watermark.stream_time]).with_timezone("UTC")),
        Arc::new(StringArray::from(vec![watermark.reason.as_str()])),
        Arc::new(StringArray::from(vec![json])),
        Arc::new(StringArray::from(vec![watermark.source.as_str()])),
    ];
    RecordBatch::try_new(schema(), columns).map_err(LakeError::arrow(&table))
}

fn parsed(json: &str) -> Result<Watermark, LakeError> {
    serde_json::from_str(json).map_err(|error| damaged(error.to_string()))
}

fn all(rows: &RecordBatch) -> Result<Vec<Watermark>, LakeError> {
    rows.column(5).as_string::<i32>().iter().map(|text| parsed(text.unwrap_or_default())).collect()
}

fn damaged(reason: String) -> LakeError {
    LakeError::Damaged { table: path(), reason }
}

fn is_of(partition: &Partition, source: &str) -> bool {
    partition.get(SOURCE).is_some_and(|value| value.as_deref() == Some(source))
}

impl Lake {
    /// Appends a watermark; the newest one of its source from then on.
    ///
    /// # Errors
    /// If another writer appends for the same source at the same time, or the store fails.
    pub async fn append_watermark(&self, watermark: &Watermark) -> Result<(), LakeError> {
        let mut table = Table::open(self, &path()).await?;
        table
            .create(&Definition {
                schema: schema(),
                partition: Some(SOURCE),
                statistics: Some(vec![SEQUENCE.to_owned()]),
                target_file_bytes: FILE_BYTES,
                captured: None,
            })
            .await?;
        let app_id = format!("watermarks/{}", watermark.source);
        let before = table.txn(&app_id).await?;
        let after = before.unwrap_or(0) + 1;
        let files = table.stage(&[row(watermark, after)?]).await?;
        failpoint("watermark_sent").await?;
        commit(&mut table, &Work::Append(files), &[Txn { app_id, before, after }]).await?;
        failpoint("watermark_written").await?;
        if after % COMPACTED_EVERY == 0
            && let Err(error) = self.compact_watermarks(&mut table, &watermark.source).await
        {
            // The watermark is durable, and its file is as good as a larger one.
            tracing::warn!(error = &error as &dyn std::error::Error, "watermarks were not compacted");
        }
        Ok(())
    }

    async fn compact_watermarks(&self, table: &mut Table, source: &str) -> Result<(), LakeError> {
        let _only = self.watermark_files().lock().await;
        table.reload().await?;
        let session = self.serial_session();
        compact(table, &session, Compaction::Whole, |file| is_of(file, source), &[]).await?;
        Ok(())
    }

    /// Takes a source's watermarks that are not kept out of the table, and gives those that are.
    pub(crate) async fn prune_watermarks(
        &self,
        source: &str,
        retention: &Retention,
        now: i64,
    ) -> Result<Vec<Watermark>, LakeError> {
        let _only = self.watermark_files().lock().await;
        let mut table = Table::open(self, &path()).await?;
        if table.state.is_none() {
            return Ok(Vec::new());
        }
        let rows = self.watermark_rows(&table, source).await?;
        let sequences = rows.column(0).as_primitive::<Int64Type>().values().iter().copied();
        let mut watermarks: BTreeMap<i64, Watermark> = sequences.clone().zip(all(&rows)?).collect();
        let times = |watermark: &Watermark| (watermark.stream_time, watermark.written_at);
        let kept = kept(&watermarks.iter().map(|(s, w)| (*s, times(w))).collect(), retention, now);
        watermarks.retain(|sequence, _| kept.contains(sequence));
        if watermarks.len() < rows.num_rows() {
            let stays: BooleanArray = sequences.map(|s| Some(kept.contains(&s))).collect();
            let left = filter_record_batch(&rows, &stays).map_err(LakeError::arrow(&table.path))?;
            let removed = table.removes(|file| is_of(file, source), true)?;
            let added = table.stage(&[left]).await?;
            let operation = DeltaOperation::Delete { predicate: None };
            commit(&mut table, &Work::Exchange { files: Rewritten { removed, added }, operation }, &[])
                .await?;
        }
        table.vacuum(&BTreeSet::new(), retention.grace, now).await?;
        Ok(watermarks.into_values().collect())
    }

    /// All of a source's rows, in order.
    async fn watermark_rows(&self, table: &Table, source: &str) -> Result<RecordBatch, LakeError> {
        let failed = || LakeError::query(&table.path, "read");
        let session = self.session();
        let batches =
            session
                .read_table(table.provider(&session).await?)
                .and_then(|rows| rows.filter(column(SOURCE).eq(lit(source))))
                // A partition's value comes as a dictionary.
                .and_then(|rows| {
                    rows.select(schema().fields().iter().map(|field| {
                        cast(column(field.name()), field.data_type().clone()).alias(field.name())
                    }))
                })
                .and_then(|rows| rows.sort(vec![column(SEQUENCE).sort(true, false)]))
                .map_err(failed())?
                .collect()
                .await
                .map_err(failed())?;
        concat_batches(&schema(), &batches).map_err(LakeError::arrow(&table.path))
    }

    /// The newest watermark of a source; of all sources, the one with the newest stream time.
    ///
    /// # Errors
    /// If the store fails or a row is damaged.
    pub async fn latest_watermark(&self, source: Option<&str>) -> Result<Option<Watermark>, LakeError> {
        let table = Table::open(self, &path()).await?;
        if table.state.is_none() {
            return Ok(None);
        }
        let mut newest: Option<Watermark> = None;
        for (name, sequence) in newest_sequences(&table)? {
            if source.is_some_and(|wanted| wanted != name) {
                continue;
            }
            let watermark = self.watermark(&table, &name, sequence).await?;
            if newest.as_ref().is_none_or(|other| watermark.stream_time > other.stream_time) {
                newest = Some(watermark);
            }
        }
        Ok(newest)
    }

    /// All watermarks of a source that are kept, the oldest first: each can be read.
    ///
    /// # Errors
    /// If the store fails or a row is damaged.
    pub async fn watermarks(&self, source: &str) -> Result<Vec<Watermark>, LakeError> {
        let table = Table::open(self, &path()).await?;
        if table.state.is_none() {
            return Ok(Vec::new());
        }
        let rows = self.watermark_rows(&table, source).await?;
        all(&rows)
    }

    async fn watermark(&self, table: &Table, source: &str, sequence: i64) -> Result<Watermark, LakeError> {
        let failed = || LakeError::query(&table.path, "read");
        let session = self.session();
        let batches = session
            .read_table(table.provider(&session).await?)
            .and_then(|rows| {
                rows.filter(column(SOURCE).eq(lit(source)).and(column(SEQUENCE).eq(lit(sequence))))
            })
            .and_then(|rows| rows.select(vec![column("watermark")]))
            .map_err(failed())?
            .collect()
            .await
            .map_err(failed())?;
        let text = batches
            .iter()
            .find(|batch| batch.num_rows() > 0)
            .and_then(|batch| batch.column(0).as_string_opt::<i32>())
            .ok_or_else(|| damaged("its statistics name a row that it lacks".to_owned()))?;
        parsed(text.value(0))
    }

    /// The changes of a table's bronze, at its newest version, that lie beyond the watermark, in position order; with
    /// `before`, of transactions that committed before that LSN.
    ///
    /// # Errors
    /// If the watermark does not have the table, or the store fails.
    pub async fn bronze_after(
        &self,
        watermark: &Watermark,
        table: &TableId,
        before: Option<Lsn>,
    ) -> Result<Vec<ChangeBatch>, LakeError> {
        let missing = || LakeError::NoTable { table: table.to_string() };
        let entry = watermark.tables.get(table).ok_or_else(missing)?;
        let bronze = Table::open(self, &entry.bronze_path).await?;
        let definition = Arc::new(bronze.captured_schema()?.ok_or_else(missing)?);
        let session = self.session();
        let [epoch, commit, order] = POSITION.map(column);
        // A copy's rows lie before every streamed one, and are in the watermark whose snapshot they are.
        let beyond = beyond(&commit, &order, (watermark.lsn.as_i64(), 0));
        let beyond = epoch.clone().gt(lit(entry.epoch)).or(epoch.clone().eq(lit(entry.epoch)).and(beyond));
        let beyond = match before {
            Some(end) => beyond.and(commit.clone().lt(lit(end.as_i64()))),
            None => beyond,
        };
        let failed = || LakeError::query(&entry.bronze_path, "read");
        let rows = session
            .read_table(bronze.provider(&session).await?)
            .and_then(|rows| rows.filter(beyond))
            .and_then(|rows| {
                rows.sort([epoch, commit, order].map(|column| column.sort(true, false)).to_vec())
            })
            .map_err(failed())?;
        let schema: SchemaRef = Arc::new(rows.schema().as_arrow().clone());
        let batches = rows.collect().await.map_err(failed())?;
        let arrow = LakeError::arrow(&entry.bronze_path);
        let rows = concat_batches(&schema, &batches).map_err(&arrow)?;
        bronze::changes(&definition, &rows).map_err(&arrow)
    }
}

/// The greatest sequence of each source, by the statistics of the table's files.
fn newest_sequences(table: &Table) -> Result<BTreeMap<String, i64>, LakeError> {
    let files = table.loaded()?.add_actions_table(true).map_err(LakeError::delta(&table.path, "listed"))?;
    let damaged = || damaged("a file without statistics".to_owned());
    let sources = files
        .column_by_name("partition.source")
        .and_then(|c| c.as_string_opt::<i32>())
        .ok_or_else(damaged)?;
    let sequences = files
        .column_by_name("max.sequence")
        .and_then(|c| c.as_primitive_opt::<Int64Type>())
        .ok_or_else(damaged)?;
    let mut newest = BTreeMap::new();
    for (source, sequence) in sources.iter().zip(sequences) {
        let (Some(source), Some(sequence)) = (source, sequence) else { return Err(damaged()) };
        let known = newest.entry(source.to_owned()).or_insert(sequence);
        *known = sequence.max(*known);
    }
    Ok(newest)
}
