//! Events come in: written to the raw topic, acknowledged by all replicas that are in sync.

use std::time::Duration;

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{FutureProducer, FutureRecord},
};

use super::options::Topics;
use crate::EventsError;

/// Partitions of a raw topic that is made here.
const PARTITIONS: i32 = 6;
const PATIENCE: Duration = Duration::from_secs(10);

/// The raw topic, to be written.
#[derive(Clone)]
pub struct RawLog {
    producer: FutureProducer,
    topic: String,
}

impl RawLog {
    /// Waits for nothing: a Kafka that is away is noticed by the first event. An event that is not acknowledged within
    /// `patience` is not taken in.
    ///
    /// # Errors
    /// Settings that the client refuses.
    pub fn open(topics: &Topics, patience: Duration) -> Result<Self, EventsError> {
        let producer =
            topics.raw_producer(patience).create().map_err(EventsError::kafka("take these settings"))?;
        Ok(Self { producer, topic: topics.raw.clone() })
    }

    /// Appends events with their keys, and returns when all of them are durable.
    ///
    /// # Errors
    /// Some are not, or it is not known. Those that are stay; events that are sent again are told by their `event_id`.
    pub async fn append(&self, events: &[(Option<String>, &[u8])]) -> Result<(), EventsError> {
        let failed = || EventsError::kafka(format!("take events into {}", self.topic));
        let mut deliveries = Vec::with_capacity(events.len());
        for (key, event) in events {
            let mut record = FutureRecord::<str, [u8]>::to(&self.topic).payload(event);
            if let Some(key) = key {
                record = record.key(key);
            }
            deliveries.push(self.producer.send_result(record).map_err(|(error, _)| failed()(error))?);
        }
        for delivery in deliveries {
            let cancelled = || KafkaError::MessageProduction(RDKafkaErrorCode::PurgeInflight);
            let delivered = delivery.await.map_err(|_| failed()(cancelled()))?;
            delivered.map_err(|(error, _)| failed()(error))?;
        }
        Ok(())
    }
}

impl Topics {
    /// Makes the topics that there are not: what comes of the raw one has as many partitions as it.
    ///
    /// # Errors
    /// Kafka is away, or refuses.
    pub(super) fn ensure(&self) -> Result<(), EventsError> {
        let consumer: BaseConsumer =
            self.admin().create().map_err(EventsError::kafka("take these settings"))?;
        let metadata =
            consumer.fetch_metadata(None, PATIENCE).map_err(EventsError::kafka("list its topics"))?;
        let partitions = |name: &str| {
            let topic = metadata.topics().iter().find(|topic| topic.name() == name)?;
            i32::try_from(topic.partitions().len()).ok().filter(|count| *count > 0)
        };
        let count = partitions(&self.raw).unwrap_or(PARTITIONS);
        let missing: Vec<_> = [&self.raw, &self.validated, &self.invalid]
            .into_iter()
            .filter(|name| partitions(name).is_none())
            .map(|name| NewTopic::new(name, count, TopicReplication::Fixed(-1)))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let admin: AdminClient<DefaultClientContext> =
            self.admin().create().map_err(EventsError::kafka("take these settings"))?;
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
        let made = futures::executor::block_on(admin.create_topics(&missing, &options));
        for made in made.map_err(EventsError::kafka("make topics"))? {
            match made {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => {
                    let refused = EventsError::kafka(format!("make topic {topic}"));
                    return Err(refused(KafkaError::AdminOp(code)));
                }
            }
        }
        Ok(())
    }
}
