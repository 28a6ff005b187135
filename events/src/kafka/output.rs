//! The two topics that are written: a message as it came, beside it where it came from and how it was judged.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use rdkafka::{
    ClientContext, Message as _,
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, DeliveryResult, Header, Headers, OwnedHeaders},
    producer::{BaseRecord, ProducerContext, ThreadedProducer},
};

use super::{names, options::Topics};
use crate::{Contract, EventsError, Reason};

/// Remembers the first message that the broker did not take: the transaction's own error does not name it.
#[derive(Default)]
pub(super) struct Deliveries {
    failed: Mutex<Option<(String, KafkaError)>>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result
            && let Ok(mut failed) = self.failed.lock()
        {
            failed.get_or_insert_with(|| (message.topic().to_owned(), error.clone()));
        }
    }
}

impl Deliveries {
    /// Why messages were not taken, if the broker said so; what was purged is a consequence.
    pub(super) fn failure(&self, raw: &str) -> Option<EventsError> {
        let (into, error) = self.failed.lock().ok()?.take()?;
        Some(match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                EventsError::TooLarge { topic: raw.to_owned(), into }
            }
            _ => EventsError::kafka(format!("take messages into {into}"))(error),
        })
    }
}

pub(super) type Producer = ThreadedProducer<Deliveries>;

/// What became of messages.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) valid: u64,
    pub(super) invalid: u64,
    pub(super) broken: HashMap<Reason, u64>,
}

impl Judged {
    /// Counts a message and passes it on.
    pub(super) fn pass(
        &mut self,
        message: &BorrowedMessage<'_>,
        contract: &Contract,
        producer: &Producer,
        topics: &Topics,
    ) -> Result<(), EventsError> {
        let outcome = contract.check(message.payload().unwrap_or_default());
        let topic = if outcome.is_ok() { &topics.validated } else { &topics.invalid };
        let reasons = match outcome {
            Ok(()) => {
                self.valid += 1;
                None
            }
            Err(reasons) => {
                self.invalid += 1;
                let text = serde_json::to_string(&reasons).unwrap_or_default();
                for reason in reasons {
                    *self.broken.entry(reason).or_default() += 1;
                }
                Some(text)
            }
        };
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).headers(headers(message, contract, reasons));
        // A message without a key is kept in its partition by the same number, which the other topics have.
        record.key = message.key();
        record.payload = message.payload();
        record.timestamp = message.timestamp().to_millis();
        match producer.send(record) {
            Ok(()) => Ok(()),
            Err((error, _)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                Err(EventsError::TooLarge { topic: topics.raw.clone(), into: topic.clone() })
            }
            Err((error, _)) => Err(EventsError::kafka(format!("take messages into {topic}"))(error)),
        }
    }
}

/// The message's own, without those that an earlier pass put there, and ours.
fn headers(message: &BorrowedMessage<'_>, contract: &Contract, reasons: Option<String>) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new_with_capacity(8);
    for header in message.headers().into_iter().flat_map(Headers::iter) {
        if !OURS.contains(&header.key) {
            headers = headers.insert(header);
        }
    }
    let place = [
        (names::CONTRACT_HEADER, contract.name()),
        (names::TOPIC, message.topic().to_owned()),
        (names::PARTITION, message.partition().to_string()),
        (names::OFFSET, message.offset().to_string()),
    ];
    let reasons = reasons.map(|reasons| (names::REASONS, reasons));
    for (key, value) in place.iter().chain(&reasons) {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    headers
}

const OURS: [&str; 5] =
    [names::REASONS, names::CONTRACT_HEADER, names::TOPIC, names::PARTITION, names::OFFSET];

/// A producer that has fenced all of before with its name, whose transactions are over then.
pub(super) fn open(
    topics: &Topics,
    limit: std::time::Duration,
) -> Result<(Producer, Arc<Deliveries>), EventsError> {
    use rdkafka::producer::Producer as _;
    let producer: Producer = topics
        .transactional_producer()
        .create_with_context(Deliveries::default())
        .map_err(EventsError::kafka("take these settings"))?;
    producer.init_transactions(limit).map_err(EventsError::kafka("begin with transactions"))?;
    let deliveries = Arc::clone(producer.context());
    Ok((producer, deliveries))
}
