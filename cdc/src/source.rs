//! A Postgres database as a source of changes.

mod options;
mod selected;

#[cfg(feature = "kafka")]
use std::collections::BTreeSet;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use lakeward_change::{Lsn, Position, TableId, TableSchema};
use pgwire_replication::ReplicationConfig;
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::Client;

#[cfg(feature = "kafka")]
use crate::kafka::{self, Topics};
use crate::{
    CdcError, ChangeStream, Claim, LetterReader, Offsets, SchemaPolicy, SlotState, SlotWal, Snapshot,
    assembler::{Assembler, Followed},
    catalog::Catalog,
    connection::{answered, connect, connect_replication, replication_config},
    definition::Definition,
    error::sqlstate,
    name::{inserts_name, slug},
    publication::Publication,
    rule, slot,
    stream::PostgresStream,
};

use self::selected::{histories, read_catalog};
pub use self::{
    options::PostgresOptions,
    selected::{HistoryTable, SkippedTable},
};

/// Arrow's offsets have 32 bits, and one Postgres value can be 1 GiB: chunks stay well below their sum.
const MAX_CHUNK_BYTES: usize = 512 << 20;

/// A Postgres database whose changes can be read.
pub struct PostgresSource {
    options: PostgresOptions,
    client: Client,
    config: ReplicationConfig,
    name: String,
    slot: String,
    publication: String,
    system_id: String,
    timeline: u32,
    user: String,
    /// The catalog as it was read; and without what is ignored.
    seen: Arc<Catalog>,
    catalog: Arc<Catalog>,
    tables: Vec<Arc<TableSchema>>,
    skipped: Vec<SkippedTable>,
    histories: Vec<HistoryTable>,
    /// What the changes are read from, if not from a slot.
    #[cfg(feature = "kafka")]
    topics: Option<Topics>,
    /// Columns that tables got since the point from which topics are read.
    #[cfg(feature = "kafka")]
    came: BTreeMap<TableId, BTreeSet<String>>,
}

impl PostgresSource {
    /// Connects and reads the catalog. Changes nothing in the source.
    #[cfg_attr(not(feature = "kafka"), expect(unused_mut, reason = "what the topics' options give"))]
    pub async fn open(mut options: PostgresOptions) -> Result<Self, CdcError> {
        #[cfg(feature = "kafka")]
        if let Some(kafka) = &options.kafka {
            options.source_name.get_or_insert_with(|| kafka.prefix.clone());
            options.publication = Some(kafka.publication.clone());
        }
        let client = connect(&options.url).await?;
        let session = client
            .query_one("SELECT current_user::text, current_database()::text", &[])
            .await
            .map_err(CdcError::query("say which database it is"))?;
        let (user, database): (String, String) = (session.get(0), session.get(1));
        let name = options.source_name.clone().unwrap_or_else(|| database.clone());
        let default_name = format!("lakeward_{}", slug(&name));
        let slot = options.slot.clone().unwrap_or_else(|| default_name.clone());
        let publication = options.publication.clone().unwrap_or(default_name);
        let config = replication_config(&options.url, &user, &database, &slot, &publication)?;
        let mut replication = connect_replication(config.clone()).await?;
        let system = replication.identify_system().await.map_err(CdcError::replication("identify itself"))?;
        let system_id = system.system_id;
        #[cfg(feature = "kafka")]
        let topics = match &options.kafka {
            Some(kafka) => Some(Topics::open(kafka.clone(), database).await?),
            None => None,
        };

        let read = read_catalog(&client, &options, &user, &slot, &publication);
        let catalog = Arc::new(answered("read its catalog", read).await?);
        let skipped = catalog.skipped.iter().map(|skipped| SkippedTable {
            id: skipped.table.clone(),
            reason: skipped.obstacle.to_string(),
            by_definition: skipped.obstacle.by_definition,
        });
        Ok(Self {
            tables: catalog.tables.iter().map(|table| Arc::clone(&table.schema)).collect(),
            skipped: skipped.collect(),
            histories: histories(&catalog),
            seen: Arc::clone(&catalog),
            catalog,
            user,
            options,
            client,
            config,
            name,
            slot,
            publication,
            #[cfg(feature = "kafka")]
            system_id: topics
                .as_ref()
                .map_or_else(|| system_id.clone(), |topics| topics.source_of(&system_id)),
            #[cfg(not(feature = "kafka"))]
            system_id,
            #[cfg(feature = "kafka")]
            topics,
            #[cfg(feature = "kafka")]
            came: BTreeMap::new(),
            timeline: system.timeline,
        })
    }

    /// The server's system identifier: it survives everything but a new cluster.
    pub fn system_id(&self) -> &str {
        &self.system_id
    }

    /// The server's timeline: another one after a promotion or point-in-time recovery.
    pub fn timeline(&self) -> u32 {
        self.timeline
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn slot_name(&self) -> &str {
        &self.slot
    }

    pub fn publication_name(&self) -> &str {
        &self.publication
    }

    /// The tables to capture.
    pub fn tables(&self) -> &[Arc<TableSchema>] {
        &self.tables
    }

    /// Tables that were asked for and cannot be captured.
    pub fn skipped(&self) -> &[SkippedTable] {
        &self.skipped
    }

    /// Captured tables of which there is a history of inserts alone.
    pub fn histories(&self) -> &[HistoryTable] {
        &self.histories
    }

    /// Whether the source has the table, but it is not asked for.
    pub fn is_unselected(&self, table: &TableId) -> bool {
        self.catalog.unselected.contains(table)
    }

    /// What is done about changes of the table's definition.
    pub fn policy(&self, table: &TableId) -> SchemaPolicy {
        rule::policy(&self.options.rules, table)
    }

    /// The slot was named in the options: it may be there already, and is taken as it is.
    pub fn has_named_slot(&self) -> bool {
        self.options.slot.is_some()
    }

    /// Columns of captured tables that Postgres does not publish: generated ones.
    pub fn omitted_columns(&self) -> &[(TableId, String)] {
        &self.catalog.omitted
    }

    /// Whether changes come by Kafka: then there is no slot of ours.
    pub fn has_topics(&self) -> bool {
        self.options.has_topics()
    }

    /// Finds from where on the topics can be read: `known` are points of the log, and where the topics went on there.
    /// Without any it is from now on.
    #[cfg_attr(
        not(feature = "kafka"),
        expect(clippy::unused_async, unused_variables, reason = "there are no topics")
    )]
    pub async fn reach(&mut self, known: Vec<(Lsn, Offsets)>) -> Result<(), CdcError> {
        #[cfg(feature = "kafka")]
        if let Some(mut topics) = self.topics.take() {
            let reached = topics.reach(known, self.flush_lsn()).await;
            self.topics = Some(topics);
            return reached;
        }
        Ok(())
    }

    /// Of a table as it was at the point from which topics are read: its events may be without the columns since.
    #[cfg_attr(not(feature = "kafka"), expect(unused_variables, reason = "there are no topics"))]
    pub fn was(&mut self, earlier: &TableSchema) {
        #[cfg(feature = "kafka")]
        if let Ok(definition) = self.catalog.find(&earlier.id) {
            let names = |schema: &TableSchema| -> BTreeSet<String> {
                (0..schema.columns.len()).map(|column| schema.source_name(column).to_owned()).collect()
            };
            let came = &names(&definition.schema) - &names(earlier);
            self.came.insert(earlier.id.clone(), came);
        }
    }

    /// Why the topics cannot be read on from the newest point that is known.
    pub fn gone(&self) -> Option<&str> {
        #[cfg(feature = "kafka")]
        if let Some(topics) = &self.topics {
            return topics.gone.as_deref();
        }
        None
    }

    /// The slot; or, in its terms, what the topics still hold.
    pub async fn slot(&self) -> Result<SlotState, CdcError> {
        #[cfg(feature = "kafka")]
        if let Some(topics) = &self.topics {
            return Ok(topics.state());
        }
        answered("read its replication slots", slot::state(&self.client, &self.slot)).await
    }

    /// What the server keeps for the slot; `None` if there is no slot.
    pub async fn slot_wal(&self) -> Result<Option<SlotWal>, CdcError> {
        slot::wal(&self.client, &self.slot).await
    }

    /// Takes the right to create, drop and read the slot.
    ///
    /// # Errors
    /// If another process has claimed it.
    pub async fn claim(&self) -> Result<Claim, CdcError> {
        slot::claim(connect(&self.options.url).await?, &self.slot).await
    }

    /// The server's clock, microseconds UTC.
    pub async fn now(&self) -> Result<i64, CdcError> {
        let row = self
            .client
            .query_one("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8", &[])
            .await;
        Ok(row.map_err(CdcError::query("say what time it is"))?.get(0))
    }

    /// Tables whose definitions changed since this source was opened, and those that came or went.
    pub async fn changed_tables(&self) -> Result<Vec<TableId>, CdcError> {
        let read = read_catalog(&self.client, &self.options, &self.user, &self.slot, &self.publication);
        Ok(answered("read its catalog", read).await?.differing(&self.seen))
    }

    /// Captures of a table the columns that it was captured with, whatever others come; `false` if that cannot be.
    pub fn ignore_other_columns(&mut self, captured: &TableSchema) -> bool {
        let keep =
            (0..captured.columns.len()).map(|column| captured.source_name(column).to_owned()).collect();
        let mut catalog = (*self.catalog).clone();
        let found = catalog.tables.iter_mut().find(|definition| definition.schema.id == captured.id);
        let Some(definition) = found else { return false };
        let Some((narrowed, _)) = definition.with_columns(&keep) else { return false };
        *definition = Definition { ignores_new: true, ..narrowed };
        self.tables = catalog.tables.iter().map(|table| Arc::clone(&table.schema)).collect();
        self.catalog = Arc::new(catalog);
        true
    }

    /// Partitioned tables whose changes were published without their partitions until now: of what is in the log
    /// already, the truncates of partitions are missing.
    pub fn tables_without_partitions(&self) -> impl Iterator<Item = &TableId> {
        let partitioned =
            self.catalog.tables.iter().filter(|table| self.catalog.via_root && table.partitioned);
        partitioned.map(|table| &table.schema.id)
    }

    /// Sees to it that the publications hold the captured tables and tell of their partitions: creates them if they are
    /// missing, or ours whose slot is gone; else ours are altered.
    pub async fn prepare(&self) -> Result<(), CdcError> {
        let tables = &self.catalog.tables;
        if tables.is_empty() {
            return Err(CdcError::NoTables { skipped: self.skipped.len() });
        }
        if self.has_topics() {
            return Ok(());
        }
        match Publication::find(&self.client, &self.publication).await? {
            Some(found) if !found.ours => Ok(()),
            Some(found) if self.slot().await? != SlotState::Missing => {
                let inserts = Publication::find_inserts(&self.client, &self.publication).await?;
                let ours: Vec<_> = std::iter::once(found).chain(inserts).collect();
                Publication::arrange(&self.client, &ours, tables).await
            }
            _ => Publication::create(&self.client, &self.publication, tables).await,
        }
    }

    /// Creates the slot; its stream begins exactly where the snapshot ends. Transactions that are open now hold it
    /// up: longer than `wait` is an error that names them.
    pub async fn create_slot(&self, wait: Duration) -> Result<Snapshot, CdcError> {
        self.snapshot(&self.slot, false, wait).await
    }

    /// A snapshot without a stream, of a slot that goes away with it. `wait` as in [`Self::create_slot`].
    pub async fn temporary_snapshot(&self, wait: Duration) -> Result<Snapshot, CdcError> {
        let name = format!("lakeward_tmp_{}", uuid::Uuid::new_v4().simple());
        self.snapshot(&name, true, wait).await
    }

    /// The snapshot at `lsn` that another process has exported under `name`, and holds as long as it is used.
    pub fn imported_snapshot(&self, name: &str, lsn: Lsn) -> Snapshot {
        Snapshot::imported(self.options.url.clone(), Arc::clone(&self.catalog), name, lsn)
    }

    async fn snapshot(&self, slot: &str, temporary: bool, wait: Duration) -> Result<Snapshot, CdcError> {
        let created = slot::create(&self.client, self.config.clone(), slot, temporary, wait).await?;
        Ok(Snapshot::new(self.options.url.clone(), Arc::clone(&self.catalog), created))
    }

    /// Streams all transactions with a final LSN at or beyond `from`, which is durable with us: Postgres is told so.
    /// Follows the tables of `durable` alone, each from beyond its position and in that position's epoch.
    pub async fn stream(
        &self,
        from: Lsn,
        durable: &BTreeMap<TableId, Position>,
    ) -> Result<Box<dyn ChangeStream>, CdcError> {
        #[cfg(feature = "kafka")]
        if let Some(topics) = &self.topics {
            let followed = self.catalog.tables.iter().filter_map(|definition| {
                let durable = *durable.get(&definition.schema.id)?;
                let came = self.came.get(&definition.schema.id).cloned().unwrap_or_default();
                Some(kafka::Followed { definition: definition.clone(), durable, came })
            });
            let stream = topics.stream(from, followed.collect(), self.options.max_chunk_rows.max(1)).await?;
            return Ok(Box::new(stream));
        }
        // A reader that just went away may still hold the slot. One that stands beyond would skip changes silently.
        match slot::wait_released(&self.client, &self.slot).await? {
            SlotState::Present { confirmed, lost: false, .. } if confirmed <= from => {}
            _ => return Err(CdcError::SlotMoved { slot: self.slot.clone() }),
        }
        let position = pgwire_replication::Lsn(from.0);
        let mut config = self.config.clone().with_start_lsn(position).with_ack_lsn(position);
        if Publication::find_inserts(&self.client, &self.publication).await?.is_some() {
            let both = [&self.publication, &inserts_name(&self.publication)];
            config.publication = both.map(|name| escape_identifier(name)).into();
        }
        let mut session = connect_replication(config).await?;
        let system = session.identify_system().await.map_err(CdcError::replication("identify itself"))?;
        if system.system_id != self.system_id {
            return Err(CdcError::OtherSystem { expected: self.system_id.clone(), found: system.system_id });
        }
        session.start().await.map_err(CdcError::replication("start streaming"))?;
        if let Err(source) = session.wait_started().await {
            // Somebody else was faster.
            if sqlstate(&source).as_deref() == Some("55006") {
                slot::wait_released(&self.client, &self.slot).await?;
            }
            return Err(CdcError::Replication { action: "start streaming".into(), source });
        }
        let followed = self.catalog.tables.iter().filter_map(|definition| {
            let durable = *durable.get(&definition.schema.id)?;
            Some(Followed { definition: definition.clone(), durable })
        });
        let assembler = Assembler::new(followed.collect(), self.catalog.known.clone());
        let max_bytes = self.options.max_chunk_bytes.clamp(1, MAX_CHUNK_BYTES);
        let max_rows = self.options.max_chunk_rows.max(1);
        Ok(Box::new(PostgresStream::new(session, from, assembler, max_rows, max_bytes)))
    }

    /// What reads the letters of a captured table again; `None` for another table.
    pub fn letter_reader(&self, table: &TableId) -> Option<LetterReader> {
        let definition = self.catalog.tables.iter().find(|definition| definition.schema.id == *table)?;
        #[cfg(feature = "kafka")]
        let topic = self.topics.as_ref().map(|topics| topics.read_as(definition, 0, &BTreeSet::new()));
        #[cfg(not(feature = "kafka"))]
        let topic = None;
        let reader = LetterReader::new(definition.clone(), topic);
        #[cfg(feature = "kafka")]
        let reader = reader.with_registry(self.topics.as_ref().and_then(|topics| topics.registry.clone()));
        Some(reader)
    }

    /// How far the source's log is on its disk.
    pub async fn flush_lsn(&self) -> Result<Lsn, CdcError> {
        let row = self
            .client
            .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
            .await
            .map_err(CdcError::query("say how far its log is"))?;
        slot::parse_lsn(&row.get::<_, String>(0))
    }

    /// Ends the session that has claimed the slot: only for one whose process cannot go on.
    pub async fn evict(&self, pid: i32) -> Result<(), CdcError> {
        let ended = self.client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await;
        ended.map(drop).map_err(CdcError::query(format!("end session {pid}, which holds the slot's name")))
    }

    /// Drops the slot, if it is there.
    pub async fn drop_slot(&self) -> Result<(), CdcError> {
        slot::drop(&self.client, &self.slot).await
    }

    /// Takes everything away that the capture left in the source: the slot, and the publications that we created.
    pub async fn drop_all(&self) -> Result<(), CdcError> {
        self.drop_slot().await?;
        Publication::drop(&self.client, &self.publication).await
    }
}
