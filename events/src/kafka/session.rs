//! From one opening of the clients to the next: messages are read, judged and passed on, a transaction at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::Consumer,
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::BorrowedMessage,
    producer::Producer as _,
};

use super::{
    client::{Client, Troubles},
    names,
    options::Topics,
    output::{self, Deliveries, Judged, Producer},
};
use crate::{Contract, EventsError};

/// A transaction takes what comes within this time …
const LINGER: Duration = Duration::from_millis(50);
/// … up to so many messages …
const MESSAGES: u64 = 10_000;
/// … or bytes.
const BYTES: usize = 16 << 20;
const POLL: Duration = Duration::from_millis(100);
/// Kafka has this long to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// The clients of a validator. They are opened anew after every error, as after a crash: what Kafka says is committed is
/// where it goes on, and what is not committed never was.
pub(super) struct Session<'t> {
    topics: &'t Topics,
    consumer: Client,
    producer: Producer,
    deliveries: Arc<Deliveries>,
    /// Partitions that have been read in this session.
    begun: BTreeSet<i32>,
    /// Those of them that have nothing more at hand.
    ended: BTreeSet<i32>,
}

impl<'t> Session<'t> {
    pub(super) fn open(topics: &'t Topics) -> Result<Self, EventsError> {
        let (producer, deliveries) = output::open(topics, PATIENCE)?;
        let consumer: Client = topics
            .consumer()
            .create_with_context(Troubles)
            .map_err(EventsError::kafka("take these settings"))?;
        consumer
            .subscribe(&[&topics.raw])
            .map_err(EventsError::kafka(format!("read topic {}", topics.raw)))?;
        Ok(Self { topics, consumer, producer, deliveries, begun: BTreeSet::new(), ended: BTreeSet::new() })
    }

    /// Whether all partitions that this validator has are read to their ends.
    pub(super) fn is_idle(&self) -> bool {
        let assigned = self.consumer.assignment().map(|list| list.count()).unwrap_or(0);
        assigned > 0 && assigned == self.ended.len()
    }

    /// Moves the messages that come within a moment, in one transaction. `None` if none came.
    pub(super) fn transaction(&mut self, contract: &Contract) -> Result<Option<Judged>, EventsError> {
        let Some(message) = received(&self.consumer, &mut self.ended, self.topics, POLL)? else {
            return Ok(None);
        };
        let began = Instant::now();
        // Whose message this is is said by the group's state now: once another one has its partition, the group has moved
        // on, and with this state it takes no offsets.
        let group = self.consumer.group_metadata().filter(|_| !self.consumer.assignment_lost());
        let oldest = message.timestamp().to_millis();
        self.producer.begin_transaction().map_err(EventsError::kafka("begin a transaction"))?;
        let mut judged = Judged::default();
        let (mut next, mut bytes) = (BTreeMap::new(), 0);
        let mut message = Some(message);
        while let Some(current) = message {
            if self.begun.insert(current.partition()) {
                tell_lost(&self.consumer, &current);
            }
            judged.pass(&current, contract, &self.producer, self.topics)?;
            next.insert(current.partition(), current.offset() + 1);
            bytes += current.payload_len() + current.key_len();
            let left = LINGER.saturating_sub(began.elapsed());
            if bytes >= BYTES || judged.valid + judged.invalid >= MESSAGES || left.is_zero() {
                break;
            }
            message = received(&self.consumer, &mut self.ended, self.topics, left)?;
        }
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in next {
            let added = offsets.add_partition_offset(&self.topics.raw, partition, Offset::Offset(offset));
            added.map_err(EventsError::kafka("name offsets"))?;
        }
        let committed = group.ok_or(KafkaError::Canceled).and_then(|group| {
            self.producer.send_offsets_to_transaction(&offsets, &group, PATIENCE)?;
            self.producer.commit_transaction(PATIENCE)
        });
        if let Err(error) = committed {
            let failure = self.deliveries.failure(&self.topics.raw);
            return Err(failure.unwrap_or_else(|| EventsError::kafka("commit a transaction")(error)));
        }
        metrics::counter!(names::TRANSACTIONS).increment(1);
        if let (Some(oldest), Ok(now)) = (oldest, SystemTime::now().duration_since(UNIX_EPOCH)) {
            metrics::gauge!(names::LAG).set((now.as_secs_f64() - oldest as f64 / 1e3).max(0.0));
        }
        Ok(Some(judged))
    }
}

/// The next message, if one comes within `limit`. Passing troubles are the client's own.
fn received<'c>(
    consumer: &'c Client,
    ended: &mut BTreeSet<i32>,
    topics: &Topics,
    limit: Duration,
) -> Result<Option<BorrowedMessage<'c>>, EventsError> {
    let began = Instant::now();
    loop {
        let left = limit.saturating_sub(began.elapsed());
        match consumer.poll(left) {
            None => return Ok(None),
            Some(Ok(message)) => {
                ended.remove(&message.partition());
                return Ok(Some(message));
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
            Some(Err(error)) if is_passing(&error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "Kafka does not answer");
            }
            Some(Err(error)) => return Err(EventsError::kafka(format!("read topic {}", topics.raw))(error)),
        }
        if left.is_zero() {
            return Ok(None);
        }
    }
}

/// Says so if the first message that is read is not the first that was to be: its topic has lost some.
fn tell_lost(consumer: &Client, first: &BorrowedMessage<'_>) {
    let mut asked = TopicPartitionList::new();
    asked.add_partition(first.topic(), first.partition());
    let committed = consumer.committed_offsets(asked, PATIENCE).ok().and_then(|list| {
        list.elements().first().and_then(|element| match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        })
    });
    // Offsets that are no messages, as the ends of transactions, are not lost.
    let Some(expected) = committed.filter(|expected| *expected < first.offset()) else { return };
    let Ok((low, _)) = consumer.fetch_watermarks(first.topic(), first.partition(), PATIENCE) else { return };
    if low > expected {
        let lost = low - expected;
        metrics::counter!(names::LOST).increment(lost.unsigned_abs());
        tracing::error!(
            topic = first.topic(),
            partition = first.partition(),
            "Kafka removed {lost} messages before they were read: raise the topic's retention"
        );
    }
}

pub(super) fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::Resolve
                | Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::RequestTimedOut
                | Code::UnknownTopicOrPartition
                | Code::NotCoordinator
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
        )
    )
}

/// Whether another one with the same name has taken over, or Kafka ended the transaction because it took too long.
pub(super) fn is_fenced(error: &EventsError) -> bool {
    let EventsError::Kafka { source, .. } = error else { return false };
    matches!(
        source.rdkafka_error_code(),
        Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::FencedInstanceId)
    )
}
