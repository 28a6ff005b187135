//! Where the topics are.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;

use crate::debezium::Modes;

/// Kafka, and the connector whose topics are read.
#[derive(Clone)]
pub struct KafkaOptions {
    /// `host:port`, several with commas between.
    pub brokers: String,
    /// The connector's `topic.prefix`.
    pub prefix: String,
    /// The connector's publication: its tables are the topics'.
    pub publication: String,
    /// How the connector writes values.
    pub modes: Modes,
    /// The schema registry, if the connector writes Avro: the URL that Confluent's clients would have.
    pub registry: Option<String>,
    /// More settings of the client, by librdkafka's names: TLS, SASL.
    pub settings: BTreeMap<String, String>,
}

impl KafkaOptions {
    pub(super) fn transactions(&self) -> String {
        format!("{}.transaction", self.prefix)
    }

    /// The topic of a table's events, as Debezium names it.
    pub(super) fn topic(&self, table: &str) -> String {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        format!("{}.{table}", self.prefix).chars().map(|c| if fits(c) { c } else { '_' }).collect()
    }

    pub(super) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "lakeward")
            // Never joined: partitions are assigned by hand, and its offsets are hints for people.
            .set("group.id", format!("lakeward-{}", self.prefix))
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", "false")
            // What is no longer there is told, never passed over.
            .set("auto.offset.reset", "error")
            // What waits in the client is beside the pipeline's budget.
            .set("queued.max.messages.kbytes", "4096")
            // Once that is full the client would pause for a second, however soon there is room.
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.wait.max.ms", "50")
            .set("topic.metadata.refresh.interval.ms", "30000");
        for (name, value) in &self.settings {
            config.set(name, value);
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_named_as_the_connector_names_them() {
        let options = KafkaOptions {
            brokers: String::new(),
            prefix: "shop".into(),
            publication: String::new(),
            modes: Modes::default(),
            registry: None,
            settings: BTreeMap::new(),
        };
        assert_eq!(options.topic("public.order_items"), "shop.public.order_items");
        assert_eq!(options.topic("Große.Läden 1"), "shop.Gro_e.L_den_1");
        assert_eq!(options.transactions(), "shop.transaction");
    }
}
