//! A connector's topics: what there is of them, and from where on they are read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lakeward_change::{Lsn, Position};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::Consumer,
    error::KafkaError,
    metadata::{MetadataPartition, MetadataTopic},
};
use tokio::{
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
};

use super::{
    client::{Client, Troubles, refused},
    options::KafkaOptions,
    queue::Queue,
    reader::{Ends, Reader, serve, watch},
    reassembly::{Reassembly, Table},
    registry::Registry,
    stream::{self, TopicsStream},
};
use crate::{
    CdcError, Offsets, SlotState,
    cursor::Cursor,
    debezium::{Marks, Topic, TopicDecoder},
    definition::Definition,
};

const PATIENCE: Duration = Duration::from_secs(10);
const SETTINGS: &str =
    "work with these settings; [source.kafka] certificates, if given, must be a readable PEM file";

/// A table whose topics are read.
pub(crate) struct Followed {
    pub(crate) definition: Definition,
    pub(crate) durable: Position,
    /// Columns that its earlier events may lack.
    pub(crate) came: BTreeSet<String>,
}

pub(crate) struct Topics {
    options: KafkaOptions,
    database: String,
    consumer: Arc<Client>,
    pub(crate) registry: Option<Arc<Registry>>,
    cluster: String,
    /// Points of the log from which on the topics can be read, the oldest first.
    starts: Vec<(Lsn, Offsets)>,
    /// Why what follows the newest of them cannot be read any more.
    pub(crate) gone: Option<String>,
}

impl Topics {
    pub(crate) async fn open(options: KafkaOptions, database: String) -> Result<Self, CdcError> {
        let registry = options.registry.as_deref().map(Registry::new).transpose()?.map(Arc::new);
        let client = options.client().create_with_context(Troubles::default());
        let consumer: Arc<Client> = Arc::new(client.map_err(CdcError::kafka(SETTINGS))?);
        let asked = blocking(&consumer, |consumer| Ok(consumer.client().fetch_cluster_id(PATIENCE)));
        let brokers = || options.brokers.clone();
        let cluster = tokio::select! {
            cluster = asked => cluster?.ok_or_else(|| {
                let last = consumer.client().context().last();
                let reason = last.map_or_else(String::new, |(_, reason)| format!(" ({reason})"));
                CdcError::Brokers { brokers: brokers(), waited: PATIENCE, reason }
            })?,
            (reason, fix) = refused(&consumer) => {
                return Err(CdcError::Refused { brokers: brokers(), reason, fix });
            }
        };
        Ok(Self { options, database, consumer, registry, cluster, starts: Vec::new(), gone: None })
    }

    /// What the topics of a server's connector are called as a source of their own.
    pub(crate) fn source_of(&self, system_id: &str) -> String {
        format!("{system_id}/{}/{}", self.cluster, self.options.prefix)
    }

    /// Finds from where on the topics can be read: from the points that are known, as far as Kafka still has what
    /// follows; without any, from now on. Then `flushed` tells how far the log is, after that.
    pub(crate) async fn reach(
        &mut self,
        known: Vec<(Lsn, Offsets)>,
        flushed: impl Future<Output = Result<Lsn, CdcError>>,
    ) -> Result<(), CdcError> {
        let ranges = self.ranges().await?;
        if known.is_empty() {
            let ends = ranges.into_iter().map(|(topic, partitions)| {
                (topic, partitions.into_iter().map(|(partition, (_, end))| (partition, end)).collect())
            });
            let ends = ends.collect();
            self.starts = vec![(flushed.await?, ends)];
            return Ok(());
        }
        let gone = |offsets: &Offsets| {
            offsets.iter().find_map(|(topic, partitions)| {
                partitions.iter().find_map(|(partition, offset)| {
                    let range = ranges.get(topic).and_then(|partitions| partitions.get(partition));
                    unreadable(topic, *partition, *offset, range.copied())
                })
            })
        };
        let newest = known.iter().max_by_key(|(lsn, _)| *lsn);
        self.gone = newest.and_then(|(_, offsets)| gone(offsets));
        self.starts = known.into_iter().filter(|(_, offsets)| gone(offsets).is_none()).collect();
        self.starts.sort_by_key(|(lsn, _)| *lsn);
        Ok(())
    }

    /// As a slot would be: it has forgotten what came before the oldest point.
    pub(crate) fn state(&self) -> SlotState {
        match self.starts.first() {
            Some((lsn, _)) => {
                SlotState::Present { confirmed: *lsn, active_pid: None, lost: self.gone.is_some() }
            }
            None => SlotState::Missing,
        }
    }

    /// All partitions of the connector's topics, with their first and next offsets. That of transactions comes first, so
    /// that no transaction has ended before its end that has events beyond the others'.
    async fn ranges(&self) -> Result<BTreeMap<String, BTreeMap<i32, (i64, i64)>>, CdcError> {
        let (transactions, prefix) = (self.options.transactions(), format!("{}.", self.options.prefix));
        let list = move |consumer: &Client| {
            let mut topics: Vec<_> = partitions(consumer, &prefix)?.into_iter().collect();
            topics.sort_by_key(|(name, _)| *name != transactions);
            let ranges = topics.into_iter().map(|(topic, partitions)| {
                let range =
                    |partition| Ok((partition, consumer.fetch_watermarks(&topic, partition, PATIENCE)?));
                let ranges = partitions.into_iter().map(range).collect::<Result<BTreeMap<_, _>, _>>();
                ranges.map(|ranges| (topic, ranges))
            });
            ranges.collect::<Result<BTreeMap<_, _>, _>>()
        };
        let ranges = blocking(&self.consumer, list).await?;
        let problem = match ranges.get(&self.options.transactions()).map(BTreeMap::len) {
            Some(1) => return Ok(ranges),
            None | Some(0) => {
                "there is no such topic: the connector must run, with provide.transaction.metadata and a \
                               heartbeat"
                    .to_owned()
            }
            Some(partitions) => format!("it has {partitions} partitions, and only one keeps the order"),
        };
        Err(CdcError::Topic { topic: self.options.transactions(), problem })
    }

    /// Reads on from a point of the log, or a known one before it.
    pub(crate) async fn stream(
        &self,
        from: Lsn,
        followed: Vec<Followed>,
        max_rows: usize,
    ) -> Result<TopicsStream, CdcError> {
        let ranges = self.ranges().await?;
        let start = self.starts.iter().rev().find(|(lsn, _)| *lsn <= from);
        let (_, offsets) = start.ok_or(CdcError::SlotMoved { slot: self.options.transactions() })?;
        let known = |topic: &str, partition: i32| offsets.get(topic)?.get(&partition).copied();
        let transactions = self.options.transactions();
        let end_offset = known(&transactions, 0).unwrap_or_default();
        let mut readers = vec![(transactions.clone(), 0, end_offset)];
        let mut read = BTreeMap::new();
        let (mut tables, mut decoders, mut collections) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (index, Followed { definition, durable, came }) in followed.into_iter().enumerate() {
            let schema = &definition.schema;
            let mut table = Table::new(schema.id.clone(), durable);
            let names: BTreeSet<String> = std::iter::once(schema.id.to_string())
                .chain(schema.origin.leaves.iter().map(|leaf| leaf.name.clone()))
                .collect();
            for name in names {
                let topic = self.options.topic(&name);
                collections.insert(name, index);
                read.insert(topic.clone(), ranges.get(&topic).map_or(0, BTreeMap::len));
                for (&partition, &(low, _)) in ranges.get(&topic).into_iter().flatten() {
                    // What came after the point is new from its beginning.
                    let at = known(&topic, partition).unwrap_or(low);
                    readers.push((topic.clone(), partition, at));
                    decoders.push((
                        index,
                        table.queues.len(),
                        TopicDecoder::new(self.read_as(&definition, durable.epoch, &came)),
                    ));
                    table.queues.push(Queue::new(topic.clone(), partition, at));
                }
            }
            tables.push(table);
        }
        let mut assignment = TopicPartitionList::new();
        for (topic, partition, at) in &readers {
            assignment
                .add_partition_offset(topic, *partition, Offset::Offset(*at))
                .map_err(CdcError::kafka("take an offset"))?;
        }
        let (outbox, incoming) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        // Before the assignment: what were fetched in between would go to the consumer's own queue.
        let queues = readers.into_iter().map(|(topic, partition, _)| {
            let queue = self.consumer.split_partition_queue(&topic, partition);
            let problem = || format!("there is no partition {partition}");
            Ok((queue.ok_or_else(|| CdcError::Topic { topic: topic.clone(), problem: problem() })?, topic))
        });
        let mut queues = queues.collect::<Result<Vec<_>, CdcError>>()?.into_iter();
        self.consumer.assign(&assignment).map_err(CdcError::kafka("assign partitions"))?;
        if let Some((partition, topic)) = queues.next() {
            let (marks, registry) = (Marks::default(), self.registry.clone());
            let ends = Ends { topic, partition, marks, begun: None, registry };
            tasks.spawn(ends.run(outbox.clone()));
        }
        for ((partition, topic), (table, number, decoder)) in queues.zip(decoders) {
            let registry = self.registry.clone();
            let reader = Reader { table, queue: number, topic, partition, decoder, registry, from };
            tasks.spawn(reader.run(outbox.clone()));
        }
        tasks.spawn(watch(
            Arc::clone(&self.consumer),
            format!("{}.", self.options.prefix),
            read,
            outbox.clone(),
        ));
        tasks.spawn(serve(Arc::clone(&self.consumer), outbox));
        stream::describe();
        Ok(TopicsStream {
            consumer: Arc::clone(&self.consumer),
            transactions,
            collections,
            reassembly: Reassembly::new(tables, from, end_offset),
            incoming,
            _tasks: tasks,
            cursor: Cursor::new(from),
            max_rows,
            lacking: None,
            ended: false,
        })
    }

    /// What a table's events are held against.
    pub(crate) fn read_as(&self, definition: &Definition, epoch: i64, came: &BTreeSet<String>) -> Topic {
        Topic {
            table: Arc::clone(&definition.schema),
            epoch,
            database: self.database.clone(),
            left_out: definition.left_out.clone(),
            ignores_new: definition.ignores_new,
            came: came.clone(),
            salt: definition.salt.clone(),
            modes: self.options.modes.clone(),
            placed: true,
        }
    }
}

/// Why a partition cannot be read from an offset on; `range`: its first offset and the next, if it is there.
fn unreadable(topic: &str, partition: i32, offset: i64, range: Option<(i64, i64)>) -> Option<String> {
    match range {
        None => Some(format!("partition {partition} of topic {topic} is gone")),
        Some((low, _)) if offset < low => Some(format!(
            "Kafka has removed offsets {offset} to {} of partition {partition} of topic {topic}, which had not been read",
            low - 1
        )),
        Some((_, high)) if high < offset => Some(format!(
            "partition {partition} of topic {topic} ends at offset {high}, before {offset}, up to where it had been read: the \
             topic was made anew, or Kafka has lost some of it"
        )),
        Some(_) => None,
    }
}

/// The partitions of the topics whose names begin so.
pub(super) fn partitions(consumer: &Client, prefix: &str) -> Result<BTreeMap<String, Vec<i32>>, KafkaError> {
    let metadata = consumer.fetch_metadata(None, PATIENCE)?;
    let topics = metadata.topics().iter().filter(|topic| topic.name().starts_with(prefix));
    let numbers = |topic: &MetadataTopic| topic.partitions().iter().map(MetadataPartition::id).collect();
    Ok(topics.map(|topic| (topic.name().to_owned(), numbers(topic))).collect())
}

/// Calls of the client that wait.
pub(super) async fn blocking<T: Send + 'static>(
    consumer: &Arc<Client>,
    call: impl FnOnce(&Client) -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, CdcError> {
    let consumer = Arc::clone(consumer);
    let called = spawn_blocking(move || call(&consumer)).await.map_err(|_| CdcError::Ended)?;
    called.map_err(CdcError::kafka("tell of its topics"))
}
