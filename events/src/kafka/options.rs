//! Where the topics are, and what the clients are set to.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::ClientConfig;

/// Kafka, and the topics of events.
#[derive(Debug, Clone)]
pub struct Topics {
    /// `host:port`, several with commas between.
    pub brokers: String,
    /// More settings of the clients, by librdkafka's names: TLS, SASL.
    pub settings: BTreeMap<String, String>,
    /// Events as they come in.
    pub raw: String,
    /// Events that conform.
    pub validated: String,
    /// Events that do not, with the reasons.
    pub invalid: String,
    /// The consumer group of all validators of these topics.
    pub group: String,
    /// Which of them this one is. At most one of a name can be at work.
    pub instance: String,
}

/// So long a dead validator's transaction keeps readers waiting, if it does not come back itself.
const TRANSACTION_LIMIT: &str = "30000";
/// As large as a broker may be set to take: what it does take is its own business.
const LARGEST_MESSAGE: &str = "100000000";

impl Topics {
    fn client(&self, role: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("client.id", format!("lakeward-{role}"));
        config
    }

    /// Settings that people give come last.
    fn settled(&self, mut config: ClientConfig) -> ClientConfig {
        for (name, value) in &self.settings {
            config.set(name, value);
        }
        config
    }

    /// What fences a validator of before with the same name.
    fn transactional_id(&self) -> String {
        format!("{}-{}", self.group, self.instance)
    }

    pub(super) fn admin(&self) -> ClientConfig {
        self.settled(self.client("events"))
    }

    pub(super) fn consumer(&self) -> ClientConfig {
        let mut config = self.client("validate");
        config
            .set("group.id", &self.group)
            // One that comes back within the session's time finds its partitions, and nobody else is disturbed.
            .set("group.instance.id", self.transactional_id())
            .set("session.timeout.ms", "10000")
            .set("heartbeat.interval.ms", "1000")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest")
            .set("allow.auto.create.topics", "false")
            .set("queued.max.messages.kbytes", "16384")
            // Once that is full the client would pause for a second.
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.wait.max.ms", "50");
        self.settled(config)
    }

    /// Of one who keeps by itself how far it is: it joins no group.
    pub(super) fn reader(&self) -> ClientConfig {
        let mut config = self.client("load");
        config
            // librdkafka wants a name, and does nothing with it.
            .set("group.id", "lakeward-load")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false")
            .set("queued.max.messages.kbytes", "16384")
            // Once that is full the client would pause for a second.
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.wait.max.ms", "50");
        self.settled(config)
    }

    pub(super) fn transactional_producer(&self) -> ClientConfig {
        let mut config = self.client("validate");
        config
            .set("transactional.id", self.transactional_id())
            .set("transaction.timeout.ms", TRANSACTION_LIMIT)
            .set("message.max.bytes", LARGEST_MESSAGE)
            // Where Java's clients put a key, so that an event stays in the partition that its producer chose.
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("linger.ms", "5");
        self.settled(config)
    }

    pub(super) fn raw_producer(&self, patience: Duration) -> ClientConfig {
        let mut config = self.client("events");
        config
            // Acknowledged by all replicas in sync, and written once however often it is sent.
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", patience.as_millis().to_string())
            .set("message.max.bytes", LARGEST_MESSAGE)
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("linger.ms", "5");
        self.settled(config)
    }
}
