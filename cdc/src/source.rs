//! A Postgres database as a source of changes.

#[cfg(feature = "kafka")]
use std::collections::BTreeSet;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use lakeward_change::{Lsn, Position, TableId, TableSchema};
use pgwire_replication::ReplicationConfig;
use postgres_protocol::escape::escape_identifier;
use serde::Serialize;
use tokio_postgres::Client;

#[cfg(feature = "kafka")]
use crate::kafka::{self, KafkaOptions, Topics};
use crate::{
    CdcError, ChangeStream, Claim, LetterReader, Offsets, Salt, SchemaPolicy, SlotState, SlotWal, Snapshot,
    TableRule,
    assembler::{Assembler, Followed},
    catalog::Catalog,
    connection::{answered, connect, connect_replication, replication_config},
    debezium,
    definition::Definition,
    error::sqlstate,
    name::{inserts_name, slug},
    pattern::Selection,
    publication::Publication,
    rule, slot,
    stream::PostgresStream,
};

/// Arrow's offsets have 32 bits, and one Postgres value can be 1 GiB: chunks stay well below their sum.
const MAX_CHUNK_BYTES: usize = 512 << 20;

/// What to capture, and how.
#[derive(Clone)]
pub struct PostgresOptions {
    pub url: String,
    /// What the source is called; by default its database's name.
    pub source_name: Option<String>,
    /// Replication slot; by default named by the source.
    pub slot: Option<String>,
    /// Publication; by default named by the source. One that exists and is not ours is taken as it is.
    pub publication: Option<String>,
    /// Patterns `schema.table`, where `*` stands for any characters; without a dot a table of any schema. Empty: all.
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    /// What holds for some tables only.
    pub rules: Vec<TableRule>,
    /// Of the columns that rules have hashed.
    pub salt: Salt,
    /// Numerics without a scale are decimals of 38 digits with this many of them a fraction, at most 38; by default texts.
    pub numeric_scale: Option<u8>,
    /// Topics to read changes from, instead of a slot.
    #[cfg(feature = "kafka")]
    pub kafka: Option<KafkaOptions>,
    /// A chunk ends at this many rows.
    pub max_chunk_rows: usize,
    /// A chunk ends at about this size; the row that reaches it is still in it.
    pub max_chunk_bytes: usize,
}

impl PostgresOptions {
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            source_name: None,
            slot: None,
            publication: None,
            include: Vec::new(),
            exclude: Vec::new(),
            rules: Vec::new(),
            salt: Salt::default(),
            numeric_scale: None,
            #[cfg(feature = "kafka")]
            kafka: None,
            max_chunk_rows: 65_536,
            max_chunk_bytes: 32 << 20,
        }
    }
}

impl PostgresOptions {
    fn has_topics(&self) -> bool {
        #[cfg(feature = "kafka")]
        return self.kafka.is_some();
        #[cfg(not(feature = "kafka"))]
        false
    }
}

/// A table that was asked for and cannot be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedTable {
    pub id: TableId,
    /// What it lacks, and what mends it.
    pub reason: String,
    /// It is the table's own definition; otherwise a right, or the publication.
    pub by_definition: bool,
}

/// A table of which inserts and truncates alone are captured: without a key, its updates and deletes cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryTable {
    #[serde(flatten)]
    pub id: TableId,
    /// What it lacks, and what mends it.
    pub reason: String,
}

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

/// The catalog's tables that are asked for and can be published.
async fn read_catalog(
    client: &Client,
    options: &PostgresOptions,
    user: &str,
    slot: &str,
    publication: &str,
) -> Result<Catalog, CdcError> {
    let selection = Selection::new(&options.include, &options.exclude);
    let mut catalog = Catalog::read(client, &selection).await?;
    let rules = |table: &TableId, column: &str| rule::left_out(&options.rules, table).contains(column);
    catalog.leave_out(rules, "the configuration leaves out");
    if options.has_topics() {
        let uncarried = debezium::uncarried(client).await?;
        let is_out = |table: &TableId, column: &str| uncarried.contains(&(table.clone(), column.to_owned()));
        catalog.leave_out(is_out, "the connector's events do not carry");
    }
    rule::convert(options, &mut catalog);
    match Publication::find(client, publication).await? {
        None if options.has_topics() => {
            let problem = "is missing: its tables are those of the connector's topics".to_owned();
            let (name, fix) = (publication.to_owned(), "`lakeward connector apply`".to_owned());
            return Err(CdcError::Publication { name, problem, fix });
        }
        Some(found) if !found.ours || options.has_topics() => {
            let theirs = escape_identifier(publication);
            catalog.leave_out_histories(&format!(
                "publication {theirs} is not one of ours, which take the inserts of such tables alone"
            ));
            catalog.restrict(&found.tables, found.via_root, publication);
        }
        found => {
            let inserts = Publication::find_inserts(client, publication).await?;
            if found.is_some() && inserts.is_none() && slot::state(client, slot).await? != SlotState::Missing
            {
                catalog.leave_out_histories(
                    "the replication slot is older than such tables' publication: `lakeward source drop` and a new \
                     `lakeward ingest` begin anew with both",
                );
            }
            catalog.via_root = [&found, &inserts].into_iter().flatten().any(|found| found.via_root);
            let holds = |found: &Option<Publication>, table: &Definition| {
                found.as_ref().is_some_and(|found| found.tables.contains_key(&table.schema.id))
            };
            catalog.restrict_to_owned(user, |table| {
                holds(if table.schema.is_history() { &inserts } else { &found }, table)
            });
        }
    }
    Ok(catalog)
}

fn histories(catalog: &Catalog) -> Vec<HistoryTable> {
    let histories = catalog.tables.iter().filter(|table| table.schema.is_history());
    let reason = |id| catalog.without_key.get(id).map(ToString::to_string).unwrap_or_default();
    histories
        .map(|table| HistoryTable { id: table.schema.id.clone(), reason: reason(&table.schema.id) })
        .collect()
}
