//! One Delta table as last loaded: reading its state, staging files for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Schema, SchemaRef},
};
use deltalake::{
    DeltaTable,
    datafile::writer::{DeltaWriter, WriterConfig},
    datafusion::{catalog::TableProvider, prelude::SessionContext},
    delta_datafusion::TableProviderBuilder,
    kernel::{
        Add, EagerSnapshot, Metadata, MetadataExt, Remove, StructType,
        engine::arrow_conversion::TryIntoKernel,
    },
    logstore::{LogStore, LogStoreRef},
    operations::{create::CreateBuilder, get_num_idx_cols_and_stats_columns},
    protocol::SaveMode,
    table::{config::TablePropertiesExt, state::DeltaTableState},
};
use lakeward_change::TableSchema;
use lakeward_faults::failpoint;
use parquet::{
    basic::{Compression, Encoding},
    file::properties::WriterProperties,
    schema::types::ColumnPath,
};

use crate::{Lake, LakeError, silver::POSITION};

/// Rows of a Parquet row group: what a writer buffers and a reader skips.
const ROW_GROUP_ROWS: usize = 128 * 1024;
/// The table property that holds a captured table's definition.
const DEFINITION: &str = "lakeward.definition";

/// Values of the partition columns, as the log has them.
pub(crate) type Partition = BTreeMap<String, Option<String>>;

#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) path: String,
    pub(crate) log_store: LogStoreRef,
    pub(crate) state: Option<DeltaTableState>,
}

/// How a table is made.
pub(crate) struct Definition {
    pub(crate) schema: SchemaRef,
    pub(crate) partition: Option<&'static str>,
    /// Columns that files are skipped by; the first ones if none are named.
    pub(crate) statistics: Option<Vec<String>>,
    pub(crate) target_file_bytes: u64,
    pub(crate) captured: Option<Arc<TableSchema>>,
}

impl Table {
    /// The newest state; none if there is no table yet.
    pub(crate) async fn open(lake: &Lake, path: &str) -> Result<Self, LakeError> {
        let mut table = Self { path: path.to_owned(), log_store: lake.log_store(path)?, state: None };
        table.reload().await?;
        Ok(table)
    }

    /// The state of a version; the newest if none is given.
    pub(crate) async fn open_at(lake: &Lake, path: &str, version: Option<i64>) -> Result<Self, LakeError> {
        let Some(version) = version else {
            let table = Self::open(lake, path).await?;
            table.loaded()?;
            return Ok(table);
        };
        let log_store = lake.log_store(path)?;
        let state = match u64::try_from(version) {
            Ok(version) => DeltaTableState::try_new(&log_store, Some(version)).await,
            Err(_) => return Err(LakeError::NoTable { table: path.to_owned() }),
        };
        let state = Some(state.map_err(LakeError::delta(path, "loaded"))?);
        Ok(Self { path: path.to_owned(), log_store, state })
    }

    pub(crate) async fn reload(&mut self) -> Result<(), LakeError> {
        let failed = || LakeError::delta(&self.path, "loaded");
        self.state = if self.log_store.is_delta_table_location().await.map_err(failed())? {
            Some(DeltaTableState::try_new(&self.log_store, None).await.map_err(failed())?)
        } else {
            None
        };
        Ok(())
    }

    pub(crate) fn loaded(&self) -> Result<&DeltaTableState, LakeError> {
        self.state.as_ref().ok_or_else(|| LakeError::NoTable { table: self.path.clone() })
    }

    pub(crate) fn snapshot(&self) -> Result<&EagerSnapshot, LakeError> {
        Ok(self.loaded()?.snapshot())
    }

    pub(crate) fn version(&self) -> Option<i64> {
        self.state.as_ref().map(|state| i64::try_from(state.version()).unwrap_or(i64::MAX))
    }

    /// Of all files of the loaded state.
    pub(crate) fn file_names(&self) -> Result<BTreeSet<String>, LakeError> {
        let log = self.snapshot()?.try_log_data().map_err(LakeError::delta(&self.path, "listed"))?;
        Ok(log.iter().map(|file| file.path().into_owned()).collect())
    }

    /// The value of a transaction identifier in the loaded state.
    pub(crate) async fn txn(&self, app_id: &str) -> Result<Option<i64>, LakeError> {
        let Some(state) = &self.state else { return Ok(None) };
        state
            .transaction_version(&self.log_store, app_id)
            .await
            .map_err(LakeError::delta(&self.path, "asked for its progress"))
    }

    /// Creates the table if it is missing.
    pub(crate) async fn create(&mut self, definition: &Definition) -> Result<(), LakeError> {
        if self.state.is_some() {
            return Ok(());
        }
        let (schema, properties) = (self.kernel_schema(definition)?, self.properties(definition)?);
        let created = CreateBuilder::new()
            .with_log_store(Arc::clone(&self.log_store))
            .with_columns(schema.fields().cloned())
            .with_partition_columns(definition.partition)
            .with_raise_if_key_not_exists(false)
            .with_configuration(properties.map(|(key, value)| (key, Some(value))))
            .with_save_mode(SaveMode::Ignore)
            .await;
        // The answer may be lost though the table was made: what is there decides.
        self.reload().await?;
        match created {
            Err(error) if self.state.is_none() => Err(LakeError::delta(&self.path, "created")(error)),
            _ => Ok(()),
        }
    }

    /// What gives the table another definition; its partitioning stays.
    pub(crate) fn redefined(&self, definition: &Definition) -> Result<Metadata, LakeError> {
        let failed = || LakeError::delta(&self.path, "redefined");
        let metadata = self.loaded()?.metadata().clone();
        let metadata =
            metadata.with_schema(&self.kernel_schema(definition)?).map_err(|error| failed()(error.into()))?;
        self.properties(definition)?
            .try_fold(metadata, |metadata, (key, value)| metadata.add_config_key(key.to_owned(), value))
            .map_err(|error| failed()(error.into()))
    }

    fn kernel_schema(&self, definition: &Definition) -> Result<StructType, LakeError> {
        definition.schema.as_ref().try_into_kernel().map_err(LakeError::arrow(&self.path))
    }

    fn properties(
        &self,
        definition: &Definition,
    ) -> Result<impl Iterator<Item = (&'static str, String)> + use<>, LakeError> {
        let captured =
            definition.captured.as_deref().map(serde_json::to_string).transpose().map_err(|error| {
                LakeError::Damaged { table: self.path.clone(), reason: error.to_string() }
            })?;
        let properties = [
            ("delta.checkpointInterval", Some("20".to_owned())),
            ("delta.enableExpiredLogCleanup", Some("false".to_owned())),
            ("delta.targetFileSize", Some(definition.target_file_bytes.to_string())),
            ("delta.dataSkippingStatsColumns", definition.statistics.as_ref().map(|names| names.join(","))),
            (DEFINITION, captured),
        ];
        Ok(properties.into_iter().filter_map(|(key, value)| Some((key, value?))))
    }

    /// The columns that the table has, if there is one.
    pub(crate) fn arrow_schema(&self) -> Option<SchemaRef> {
        self.state.as_ref().map(|state| state.snapshot().arrow_schema())
    }

    pub(crate) fn captured_schema(&self) -> Result<Option<TableSchema>, LakeError> {
        let Some(state) = &self.state else { return Ok(None) };
        let Some(text) = state.metadata().configuration().get(DEFINITION) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|error| LakeError::Damaged {
            table: self.path.clone(),
            reason: format!("its property {DEFINITION}: {error}"),
        })
    }

    pub(crate) async fn provider(
        &self,
        session: &SessionContext,
    ) -> Result<Arc<dyn TableProvider>, LakeError> {
        self.provided(session, |table| table).await
    }

    /// With a column of the URLs of the files that the rows are in.
    pub(crate) async fn provider_with_files(
        &self,
        session: &SessionContext,
        column: &str,
    ) -> Result<Arc<dyn TableProvider>, LakeError> {
        self.provided(session, |table| table.with_file_column(column)).await
    }

    /// Some of the table's files.
    pub(crate) async fn files(
        &self,
        session: &SessionContext,
        paths: impl IntoIterator<Item = String>,
    ) -> Result<Arc<dyn TableProvider>, LakeError> {
        self.provided(session, |table| table.with_file_paths(paths)).await
    }

    async fn provided(
        &self,
        session: &SessionContext,
        choose: impl FnOnce(TableProviderBuilder) -> TableProviderBuilder,
    ) -> Result<Arc<dyn TableProvider>, LakeError> {
        let table = self.delta()?.table_provider().with_session(Arc::new(session.state()));
        let provider = choose(table).build().await.map_err(LakeError::query(&self.path, "read"))?;
        Ok(Arc::new(provider))
    }

    /// The removal of the files in some partitions.
    pub(crate) fn removes(
        &self,
        chosen: impl Fn(&Partition) -> bool,
        data_change: bool,
    ) -> Result<Vec<Remove>, LakeError> {
        let log = self.snapshot()?.try_log_data().map_err(LakeError::delta(&self.path, "listed"))?;
        let chosen = log.iter().filter(|file| chosen(&file.partition_values_map().into_iter().collect()));
        Ok(chosen.map(|file| file.remove_action(data_change)).collect())
    }

    /// The values of a partition column, as the log has them; none is null.
    pub(crate) fn partition_values(&self, column: &str) -> Result<BTreeSet<String>, LakeError> {
        let log = self.snapshot()?.try_log_data().map_err(LakeError::delta(&self.path, "listed"))?;
        let value = |partition: Partition| partition.get(column).cloned().flatten();
        Ok(log.iter().filter_map(|file| value(file.partition_values_map().into_iter().collect())).collect())
    }

    pub(crate) fn delta(&self) -> Result<DeltaTable, LakeError> {
        let mut table = DeltaTable::new(Arc::clone(&self.log_store));
        table.state = Some(self.loaded()?.clone());
        Ok(table)
    }

    /// A writer of files into the table's folder; they are part of the table once a commit adds them.
    pub(crate) fn writer(&self, schema: SchemaRef) -> Result<DeltaWriter, LakeError> {
        let state = self.loaded()?;
        let properties = state.table_config();
        let (indexed, statistics) = get_num_idx_cols_and_stats_columns(Some(properties), Default::default());
        let config = WriterConfig::new(
            Arc::clone(&schema),
            state.metadata().partition_columns().to_vec(),
            Some(writer_properties(&schema, statistics.as_deref().unwrap_or_default())),
            Some(properties.target_file_size()),
            Some(8 * 1024),
            indexed,
            statistics,
        );
        Ok(DeltaWriter::new(self.log_store.object_store(None), config))
    }

    /// Writes batches as files.
    pub(crate) async fn stage(&self, batches: &[RecordBatch]) -> Result<Vec<Add>, LakeError> {
        let Some(first) = batches.first() else { return Ok(Vec::new()) };
        let mut writer = self.writer(first.schema())?;
        for batch in batches {
            if let Err(error) = writer.write(batch).await {
                abandon(writer).await;
                return Err(LakeError::delta(&self.path, "written to")(error));
            }
        }
        let files = writer.close().await.map_err(LakeError::delta(&self.path, "written to"))?;
        failpoint("file_put").await?;
        Ok(files)
    }
}

/// Ends a writer whose files nobody wants; what it has written already is no part of the table.
pub(crate) async fn abandon(writer: DeltaWriter) {
    if let Err(error) = writer.abort().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "an upload could not be cancelled");
    }
}

/// Numbers that are keys, and times, mostly grow and seldom repeat: they are written as differences, where a dictionary
/// would be built in vain. Positions do repeat.
fn writer_properties(schema: &Schema, skipped_by: &[String]) -> WriterProperties {
    let growing = schema.fields().iter().filter(|field| match field.data_type() {
        DataType::Timestamp(..) => true,
        number if number.is_integer() => {
            skipped_by.contains(field.name()) && !POSITION.contains(&field.name().as_str())
        }
        _ => false,
    });
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS));
    growing
        .map(|field| ColumnPath::new(vec![field.name().clone()]))
        .fold(properties, |properties, column| {
            properties
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED)
        })
        .build()
}
