//! The client, and why it has no connection.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::{
    ClientContext,
    consumer::{Consumer, ConsumerContext, StreamConsumer, stream_consumer::StreamPartitionQueue},
    error::{KafkaError, RDKafkaErrorCode},
};

pub(super) type Client = StreamConsumer<Troubles>;
pub(super) type Partition = StreamPartitionQueue<Troubles>;

/// What the client said last of its troubles. The errors that it gives are without reasons.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<Option<(RDKafkaErrorCode, String)>>);

impl ClientContext for Troubles {
    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((code, reason.to_owned()));
        }
    }
}

impl ConsumerContext for Troubles {}

impl Troubles {
    pub(super) fn last(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Waits until Kafka refuses the client: why, and what to do.
pub(super) async fn refused(client: &Arc<Client>) -> (String, &'static str) {
    loop {
        // Nothing is assigned: only troubles are told.
        let _ = client.recv().await;
        match client.client().context().last() {
            Some((RDKafkaErrorCode::Authentication, reason)) => {
                return (
                    reason,
                    "[source.kafka] sasl_username, sasl_password and sasl_mechanism must be a user's of Kafka",
                );
            }
            Some((RDKafkaErrorCode::SSL, reason)) => {
                return (
                    reason,
                    "[source.kafka] certificates must name who has signed the brokers' certificates, and \
                     security_protocol what their listener speaks",
                );
            }
            _ => {}
        }
    }
}
