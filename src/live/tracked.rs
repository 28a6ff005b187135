//! Events that visitors' trackers sent and that conform to their contract, into customers' sessions as they come.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use chrono::Utc;
use lakeward_events::{Change, ContractFile, Form, Limits, TopicReader, TopicRows, Topics, names};
use lakeward_features::{MemoryStore, SESSION_SPAN};
use lakeward_online::Publisher;
use tokio_util::sync::CancellationToken;

use crate::{config::Config, events::topics};

/// Events that come so close together are taken in at once.
const LIMITS: Limits = Limits { time: Duration::from_millis(20), messages: 50_000, bytes: 16 << 20 };
/// After a failure, and before it is looked again for a topic that is not there.
const PAUSE: Duration = Duration::from_secs(2);
/// How often it is looked whether the topic has more partitions by now.
const LOOK: Duration = Duration::from_secs(30);
/// An event may be dated so much later than Kafka took it: clocks differ.
const AHEAD: i64 = 60_000_000;

/// Brings the events of the last hours, and then those that come, into the store until `shutdown`, if a Kafka is
/// configured for events. Whose sessions change goes on to Redis by the publisher.
pub fn follow(
    config: &Config,
    store: &Arc<MemoryStore>,
    publisher: Option<Arc<Publisher>>,
    shutdown: &CancellationToken,
) -> Result<()> {
    if config.events.brokers.is_none() {
        return Ok(());
    }
    let follower = Follower {
        topics: topics(config),
        contract: ContractFile::open(config.events.contract.as_deref())?,
        store: Arc::clone(store),
        publisher,
        next: BTreeMap::new(),
    };
    let shutdown = shutdown.clone();
    tokio::task::spawn_blocking(move || follower.run(&shutdown));
    Ok(())
}

struct Follower {
    topics: Topics,
    contract: ContractFile,
    store: Arc<MemoryStore>,
    publisher: Option<Arc<Publisher>>,
    /// The offset after what was taken in, by partition.
    next: BTreeMap<i32, i64>,
}

impl Follower {
    fn run(mut self, shutdown: &CancellationToken) {
        let mut failing = false;
        while !shutdown.is_cancelled() {
            if let Err(error) = self.session(shutdown, &mut failing) {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!("sessions wait for topic {}: {error:#}", self.topics.validated);
                }
                // The topic may be another one.
                self.next.clear();
            }
            let until = Instant::now() + PAUSE;
            while Instant::now() < until && !shutdown.is_cancelled() {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// Until the topic is to be opened anew.
    fn session(&mut self, shutdown: &CancellationToken, failing: &mut bool) -> Result<()> {
        let Some(mut reader) = TopicReader::open(&self.topics, &self.topics.validated)? else {
            return Ok(());
        };
        if self.next.is_empty() {
            // What is older is in nobody's session any more.
            self.next = reader.since(Utc::now().timestamp_millis() - SESSION_SPAN / 1_000)?;
        }
        reader.start(&self.next)?;
        let mut looked = Instant::now();
        while !shutdown.is_cancelled() {
            self.take(&mut reader)?;
            *failing = false;
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                if reader.has_grown()? {
                    break;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, reader: &mut TopicReader) -> Result<()> {
        if let Change::Refused(error) = self.contract.refresh() {
            tracing::error!("{error}\nthe contract of before stays in use");
        }
        let mut rows = TopicRows::new(Form::Checked, Arc::clone(self.contract.contract()));
        let (mut count, mut newest) = (0, None);
        let next = reader.read(LIMITS, |message| {
            count += 1;
            newest = newest.max(message.taken_at());
            if let Some(value) = message.value() {
                rows.push(message.partition(), message.offset(), value);
            }
        })?;
        if next.is_empty() {
            return Ok(());
        }
        // What cannot be read is a dead letter of those who take the topic into the lake.
        let (events, _) = rows.finish()?;
        let newest = newest.unwrap_or_else(|| Utc::now().timestamp_millis());
        let customers = self.store.track(&events, newest * 1_000 + AHEAD)?;
        if let Some(publisher) = self.publisher.as_ref().filter(|_| !customers.is_empty()) {
            publisher.changed(customers);
        }
        self.next.extend(next);
        metrics::counter!(names::TRACKED).increment(count);
        let age = (Utc::now().timestamp_millis() - newest) as f64 / 1e3;
        metrics::gauge!(names::TRACKED_LAG).set(age.max(0.0));
        Ok(())
    }
}
