//! A consumer that keeps the log for troubles.

use rdkafka::{
    ClientContext,
    consumer::{BaseConsumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};

pub(super) type Client = BaseConsumer<Troubles>;

pub(super) struct Troubles;

impl ClientContext for Troubles {
    /// The end of a partition is told as an error, whenever there is nothing more.
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::PartitionEOF) {
            tracing::warn!(reason, error = &error as &dyn std::error::Error, "Kafka does not answer");
        }
    }
}

impl ConsumerContext for Troubles {}
