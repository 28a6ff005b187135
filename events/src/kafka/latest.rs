//! A compacted topic of whole values: the newest of a key stands.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::Consumer,
    error::{KafkaError, RDKafkaErrorCode as Code},
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
};

use super::{
    client::{Client, Troubles},
    session,
};
use crate::EventsError;

/// Kafka has this long to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Without a message for so long, reading the topic has failed.
const SILENCE: Duration = Duration::from_secs(30);
/// Values of one transaction.
const VALUES: usize = 10_000;

/// Where such a topic is, and who writes it.
#[derive(Debug, Clone)]
pub struct LatestOptions {
    /// `host:port`, several with commas between.
    pub brokers: String,
    /// More settings of the clients, by librdkafka's names: TLS, SASL.
    pub settings: BTreeMap<String, String>,
    pub topic: String,
    /// Of all who write by the same name, the one who opened last can; the others' values are refused.
    pub writer: String,
}

/// The topic, to be written. Its calls block.
pub struct LatestTopic {
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
}

impl LatestTopic {
    /// Makes the topic if there is none, ends whoever else writes it, and gives the values that stand, by key.
    ///
    /// # Errors
    /// Kafka is away, or refuses.
    pub fn open(options: &LatestOptions) -> Result<(Self, BTreeMap<String, Vec<u8>>), EventsError> {
        let topic = options.topic.clone();
        let config = || {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", &options.brokers).set("client.id", "lakeward-streams");
            config
        };
        let settled = |mut config: ClientConfig| {
            for (name, value) in &options.settings {
                config.set(name, value);
            }
            config
        };
        let mut producer = config();
        producer
            .set("transactional.id", &options.writer)
            .set("transaction.timeout.ms", "30000")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "5");
        let producer: ThreadedProducer<DefaultProducerContext> =
            settled(producer).create().map_err(EventsError::kafka("take these settings"))?;
        ensure(&settled(config()), &topic)?;
        // What another one has begun is committed or undone after this, and nothing more comes from there.
        producer.init_transactions(PATIENCE).map_err(EventsError::kafka("begin with transactions"))?;
        let mut consumer = config();
        consumer
            .set("group.id", &options.writer)
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false");
        let values = read(&settled(consumer), &topic)?;
        Ok((Self { producer, topic }, values))
    }

    /// Writes values by their keys, all of them or, of very many, some thousand at a time.
    ///
    /// # Errors
    /// Kafka is away or refuses, or another one writes by now. Then open the topic again.
    pub fn put(&self, values: &[(String, Vec<u8>)]) -> Result<(), EventsError> {
        for values in values.chunks(VALUES) {
            self.producer.begin_transaction().map_err(EventsError::kafka("begin a transaction"))?;
            for (key, value) in values {
                let record = BaseRecord::to(&self.topic).key(key).payload(value);
                let refused = EventsError::kafka(format!("take values into {}", self.topic));
                self.producer.send(record).map_err(|(error, _)| refused(error))?;
            }
            self.producer
                .commit_transaction(PATIENCE)
                .map_err(EventsError::kafka(format!("commit values of {}", self.topic)))?;
        }
        Ok(())
    }
}

/// Makes the topic if there is none.
fn ensure(config: &ClientConfig, topic: &str) -> Result<(), EventsError> {
    let admin: AdminClient<DefaultClientContext> =
        config.create().map_err(EventsError::kafka("take these settings"))?;
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(-1)).set("cleanup.policy", "compact");
    let options = AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE));
    let made = futures::executor::block_on(admin.create_topics([&new], &options));
    for made in made.map_err(EventsError::kafka("make topics"))? {
        match made {
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                return Err(EventsError::kafka(format!("make topic {topic}"))(KafkaError::AdminOp(code)));
            }
        }
    }
    Ok(())
}

/// The newest value of each key, up to the ends that the topic's partitions have.
fn read(config: &ClientConfig, topic: &str) -> Result<BTreeMap<String, Vec<u8>>, EventsError> {
    let failed = || EventsError::kafka(format!("read topic {topic}"));
    let consumer: Client =
        config.create_with_context(Troubles).map_err(EventsError::kafka("take these settings"))?;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).map_err(failed())?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|one| one.id());
    let mut all = TopicPartitionList::new();
    for partition in partitions {
        all.add_partition_offset(topic, partition, Offset::Beginning).map_err(failed())?;
    }
    if all.count() == 0 {
        return Err(failed()(KafkaError::MetadataFetch(Code::UnknownTopicOrPartition)));
    }
    consumer.assign(&all).map_err(failed())?;
    let (mut values, mut ended) = (BTreeMap::new(), 0);
    let mut heard = Instant::now();
    while ended < all.count() {
        if heard.elapsed() > SILENCE {
            return Err(failed()(KafkaError::MessageConsumption(Code::OperationTimedOut)));
        }
        match consumer.poll(Duration::from_millis(200)) {
            None => continue,
            Some(Ok(message)) => {
                let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
                match message.payload() {
                    Some(value) => drop(values.insert(key, value.to_vec())),
                    None => drop(values.remove(&key)),
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) if session::is_passing(&error) => continue,
            Some(Err(error)) => return Err(failed()(error)),
        }
        heard = Instant::now();
    }
    Ok(values)
}
