//! Where a topic's letter was in Kafka, and what its message had beside its value.

use base64::{Engine, engine::general_purpose::STANDARD};
use lakeward_change::DeadLetter;
use serde::{Deserialize, Serialize};

use super::Message;

/// In [`DeadLetter::relation`], as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Whence {
    topic: String,
    partition: i32,
    offset: i64,
    /// Base64, as they came.
    key: Option<String>,
    old_key: Option<String>,
}

#[cfg(feature = "kafka")]
impl super::TopicLetter {
    /// The letter with what is needed to read it again.
    pub(crate) fn of_topic(self, topic: &str) -> DeadLetter {
        let encoded = |bytes: Option<Vec<u8>>| bytes.map(|bytes| STANDARD.encode(bytes));
        let whence = Whence {
            topic: topic.to_owned(),
            partition: self.partition,
            offset: self.offset,
            key: encoded(self.key),
            old_key: encoded(self.old_key),
        };
        DeadLetter { relation: serde_json::to_vec(&whence).unwrap_or_default(), ..self.letter }
    }
}

impl Whence {
    /// `None` if the letter did not come by a topic.
    pub(crate) fn of(letter: &DeadLetter) -> Option<Self> {
        serde_json::from_slice(&letter.relation).ok()
    }

    /// Has `read` take the letter's message as it came.
    pub(crate) fn message<R>(&self, letter: &DeadLetter, read: impl FnOnce(&Message<'_>) -> R) -> R {
        let decoded = |text: &Option<String>| text.as_ref().and_then(|text| STANDARD.decode(text).ok());
        let (key, old_key) = (decoded(&self.key), decoded(&self.old_key));
        read(&Message {
            partition: self.partition,
            offset: self.offset,
            key: key.as_deref(),
            value: Some(&letter.message),
            old_key: old_key.as_deref(),
        })
    }
}
