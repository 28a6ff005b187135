//! Messages of a topic, as they go into the lake at once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use arrow::record_batch::RecordBatch;
use base64::{Engine, engine::general_purpose::STANDARD};
use lakeward_change::{DeadLetter, TableId};
use lakeward_events::{
    Contract, Form, Limits, Refused, TopicMessage, TopicReader, TopicRows, broken, names, topic_schema,
};
use lakeward_lakehouse::{LoadedLetters, Progress};
use serde::{Deserialize, Serialize};

/// So few messages may all be dead letters.
const FEW: u64 = 100;
const MESSAGES: usize = 200_000;
const BYTES: usize = 64 << 20;

/// How messages become rows, or dead letters.
pub(super) struct Decoder {
    pub(super) topic: String,
    /// What dead letters are of.
    pub(super) table: TableId,
    /// `None`: all are dead letters.
    pub(super) rows: Option<(Form, Arc<Contract>)>,
}

pub(super) struct Chunk {
    /// Empty if nothing came.
    pub(super) ends: Progress,
    pub(super) rows: RecordBatch,
    pub(super) letters: Vec<DeadLetter>,
    pub(super) messages: u64,
    /// When Kafka took the oldest message, in milliseconds since 1970-01-01 UTC.
    pub(super) oldest: Option<i64>,
}

/// Where a letter was, as JSON in [`DeadLetter::relation`].
#[derive(Serialize)]
struct Whence<'m> {
    topic: &'m str,
    partition: i32,
    offset: i64,
    contract: Option<String>,
    /// Base64, as the headers' values are.
    key: Option<String>,
    headers: BTreeMap<&'m str, String>,
}

#[derive(Deserialize)]
struct Reason<'m> {
    field: &'m str,
    rule: &'m str,
}

impl Chunk {
    /// What comes within a time.
    pub(super) fn read(reader: &mut TopicReader, decoder: Decoder, time: Duration) -> Result<Self> {
        let Decoder { topic, table, rows } = decoder;
        let contract = rows.as_ref().map(|(_, contract)| contract.name());
        let mut decoded = rows.map(|(form, contract)| TopicRows::new(form, contract));
        let mut letters = Vec::new();
        let (mut messages, mut oldest) = (0, None::<i64>);
        let limits = Limits { time, messages: MESSAGES, bytes: BYTES };
        let ends = reader.read(limits, |message| {
            messages += 1;
            oldest = message.taken_at().into_iter().chain(oldest).min();
            match (&mut decoded, message.value()) {
                (Some(rows), Some(value)) => rows.push(message.partition(), message.offset(), value),
                (Some(_), None) => {}
                (None, _) => letters.push(invalid(&table, message)),
            }
        })?;
        let (rows, refused) = match decoded {
            Some(mut decoded) => decoded.finish()?,
            None => (RecordBatch::new_empty(topic_schema()), Vec::new()),
        };
        letters.extend(refused.into_iter().map(|Refused { partition, offset, reason, message }| {
            let headers = BTreeMap::new();
            let whence =
                Whence { topic: &topic, partition, offset, contract: contract.clone(), key: None, headers };
            letter(&table, (partition, offset), reason, message, &whence)
        }));
        Ok(Self { ends, rows, letters, messages, oldest })
    }
}

impl Chunk {
    /// # Errors
    /// More than a share of the messages would be dead letters: rather a contract or a producer is wrong than all of them.
    pub(super) fn hold_back(&self, most: f64) -> Result<()> {
        let letters = self.letters.len();
        if self.messages < FEW || letters as f64 <= most * self.messages as f64 {
            return Ok(());
        }
        let reason = self.letters.first().map_or("", |letter| &letter.reason);
        bail!(
            "{letters} of {} messages would be dead letters, the first because {reason}. Nothing of them was written: mend \
             the contract or what sends them, or raise [events] most_letters to have them set aside",
            self.messages
        );
    }
}

/// What the validator found invalid: its headers say why, and where the message was before.
fn invalid(table: &TableId, message: &TopicMessage<'_>) -> DeadLetter {
    let mut headers: BTreeMap<&str, &[u8]> = message.headers().collect();
    let mut own = |name: &str| headers.remove(name).and_then(|value| std::str::from_utf8(value).ok());
    let reasons = own(names::REASONS).and_then(|text| serde_json::from_str::<Vec<Reason<'_>>>(text).ok());
    let told = reasons.unwrap_or_default().into_iter().map(|Reason { field, rule }| broken(field, rule));
    let whence = Whence {
        topic: own(names::TOPIC).unwrap_or_default(),
        partition: own(names::PARTITION).and_then(|text| text.parse().ok()).unwrap_or(-1),
        offset: own(names::OFFSET).and_then(|text| text.parse().ok()).unwrap_or(-1),
        contract: own(names::CONTRACT_HEADER).map(str::to_owned),
        key: message.key().map(|key| STANDARD.encode(key)),
        headers: headers.into_iter().map(|(name, value)| (name, STANDARD.encode(value))).collect(),
    };
    let place = (message.partition(), message.offset());
    let value = message.value().unwrap_or_default().to_vec();
    letter(table, place, told.collect::<Vec<_>>().join("; "), value, &whence)
}

fn letter(
    table: &TableId,
    place: (i32, i64),
    reason: String,
    message: Vec<u8>,
    whence: &Whence<'_>,
) -> DeadLetter {
    let relation = serde_json::to_vec(whence).unwrap_or_default();
    LoadedLetters::letter(table, place, reason, message, relation)
}
