//! A topic is read from wherever its reader is, which the reader itself keeps.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::Consumer,
    error::KafkaError,
    message::{BorrowedMessage, Headers as _},
};

use super::{
    client::{Client, Troubles},
    names,
    options::Topics,
    session::is_passing,
};
use crate::EventsError;

/// Kafka has this long to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// All partitions of a topic. Its calls block.
pub struct TopicReader {
    consumer: Client,
    topic: String,
    /// What Kafka calls itself; another one of the same address has another name.
    cluster: String,
    partitions: BTreeSet<i32>,
    /// Partitions that have nothing more at hand.
    ended: BTreeSet<i32>,
}

/// How much is read at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the first message on.
    pub time: Duration,
    pub messages: usize,
    pub bytes: usize,
}

/// A message, as it was read.
pub struct TopicMessage<'m>(BorrowedMessage<'m>);

impl TopicMessage<'_> {
    pub fn partition(&self) -> i32 {
        self.0.partition()
    }

    pub fn offset(&self) -> i64 {
        self.0.offset()
    }

    /// When Kafka took it, in milliseconds since 1970-01-01 UTC.
    pub fn taken_at(&self) -> Option<i64> {
        self.0.timestamp().to_millis()
    }

    pub fn key(&self) -> Option<&[u8]> {
        self.0.key()
    }

    /// `None` for a message that only says that its key has gone.
    pub fn value(&self) -> Option<&[u8]> {
        self.0.payload()
    }

    /// The names and values of its headers.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let headers = self.0.headers().into_iter().flat_map(|headers| headers.iter());
        headers.map(|header| (header.key, header.value.unwrap_or_default()))
    }
}

impl TopicReader {
    /// `None` if there is no such topic. Nothing is read yet.
    ///
    /// # Errors
    /// Kafka is away, or refuses.
    pub fn open(topics: &Topics, topic: &str) -> Result<Option<Self>, EventsError> {
        let failed = || EventsError::kafka(format!("tell of topic {topic}"));
        let consumer: Client = topics
            .reader()
            .create_with_context(Troubles)
            .map_err(EventsError::kafka("take these settings"))?;
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).map_err(failed())?;
        let found = metadata.topics().iter().flat_map(|topic| topic.partitions());
        let partitions: BTreeSet<i32> = found.map(|partition| partition.id()).collect();
        if partitions.is_empty() {
            return Ok(None);
        }
        let cluster = consumer.client().fetch_cluster_id(PATIENCE).unwrap_or_default();
        Ok(Some(Self { consumer, topic: topic.to_owned(), cluster, partitions, ended: BTreeSet::new() }))
    }

    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    pub fn partitions(&self) -> impl Iterator<Item = i32> + Clone {
        self.partitions.iter().copied()
    }

    /// Where the first message is that Kafka took at a moment (milliseconds since 1970-01-01 UTC) or later, in each
    /// partition; its end, if there is none.
    ///
    /// # Errors
    /// Kafka is away.
    pub fn since(&self, moment: i64) -> Result<BTreeMap<i32, i64>, EventsError> {
        let failed = || EventsError::kafka(format!("tell of topic {}", self.topic));
        let mut asked = TopicPartitionList::new();
        for partition in self.partitions() {
            asked.add_partition_offset(&self.topic, partition, Offset::Offset(moment)).map_err(failed())?;
        }
        let found = self.consumer.offsets_for_times(asked, PATIENCE).map_err(failed())?;
        let mut since = BTreeMap::new();
        for place in found.elements() {
            let offset = match place.offset() {
                Offset::Offset(offset) => offset,
                _ => {
                    let ends = self.consumer.fetch_watermarks(&self.topic, place.partition(), PATIENCE);
                    ends.map_err(failed())?.1
                }
            };
            since.insert(place.partition(), offset);
        }
        Ok(since)
    }

    /// Begins at offsets; partitions without one begin with the oldest message that there is.
    ///
    /// # Errors
    /// Kafka is away, or a partition ends before its offset: then it is another one of the same name. Messages that Kafka has
    /// removed unread are told in the log and counted.
    pub fn start(&mut self, from: &BTreeMap<i32, i64>) -> Result<(), EventsError> {
        let failed = || EventsError::kafka(format!("read topic {}", self.topic));
        let mut assigned = TopicPartitionList::new();
        for partition in self.partitions() {
            let (first, end) =
                self.consumer.fetch_watermarks(&self.topic, partition, PATIENCE).map_err(failed())?;
            let next = from.get(&partition).copied().unwrap_or(first);
            if next > end {
                let topic = self.topic.clone();
                return Err(EventsError::OtherTopic { topic, partition, end, next });
            }
            if first > next {
                let lost = first - next;
                metrics::counter!(names::LOST).increment(lost.unsigned_abs());
                tracing::error!(
                    topic = self.topic,
                    partition,
                    "Kafka removed {lost} messages before they were read: raise the topic's retention"
                );
            }
            let offset = Offset::Offset(next.max(first));
            assigned.add_partition_offset(&self.topic, partition, offset).map_err(failed())?;
        }
        self.ended.clear();
        self.consumer.assign(&assigned).map_err(failed())
    }

    /// Reads what comes, at first for at most a tenth of a second, and gives the offsets that follow what was read.
    ///
    /// # Errors
    /// Kafka refuses. What was read until then is to be read again.
    pub fn read(
        &mut self,
        limits: Limits,
        mut take: impl FnMut(&TopicMessage<'_>),
    ) -> Result<BTreeMap<i32, i64>, EventsError> {
        let (mut next, mut messages, mut bytes) = (BTreeMap::new(), 0, 0);
        let mut until = Instant::now() + Duration::from_millis(100);
        while messages < limits.messages && bytes < limits.bytes {
            match self.consumer.poll(until.saturating_duration_since(Instant::now())) {
                None => break,
                Some(Ok(message)) => {
                    if messages == 0 {
                        until = Instant::now() + limits.time;
                    }
                    messages += 1;
                    bytes += message.payload_len() + message.key_len();
                    self.ended.remove(&message.partition());
                    next.insert(message.partition(), message.offset() + 1);
                    take(&TopicMessage(message));
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.ended.insert(partition);
                    // There is no use in waiting for what may come to the others.
                    if self.is_at_end() && messages == 0 {
                        break;
                    }
                }
                Some(Err(error)) if is_passing(&error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "Kafka does not answer");
                }
                Some(Err(error)) => {
                    return Err(EventsError::kafka(format!("read topic {}", self.topic))(error));
                }
            }
            if Instant::now() >= until {
                break;
            }
        }
        Ok(next)
    }

    /// Whether all partitions were read to their ends.
    pub fn is_at_end(&self) -> bool {
        self.ended.len() == self.partitions.len()
    }

    /// Whether the topic has partitions by now that are not read.
    ///
    /// # Errors
    /// Kafka is away.
    pub fn has_grown(&self) -> Result<bool, EventsError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), PATIENCE);
        let metadata = metadata.map_err(EventsError::kafka(format!("tell of topic {}", self.topic)))?;
        let now: usize = metadata.topics().iter().map(|topic| topic.partitions().len()).sum();
        Ok(now > self.partitions.len())
    }
}
