//! Behaviour events on their way in: the server's door to Kafka.

use std::sync::Arc;
#[cfg(feature = "kafka")]
use std::{collections::BTreeMap, time::Duration};

#[cfg(feature = "kafka")]
use anyhow::Context;
use anyhow::Result;
#[cfg(feature = "kafka")]
use futures::{FutureExt, future::BoxFuture};
#[cfg(feature = "kafka")]
use lakeward_events::{Change, ContractFile, RawLog, Topics};
use lakeward_server::EventDoor;
#[cfg(feature = "kafka")]
use lakeward_server::{EventLog, KeyedEvent, NotTaken};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
#[cfg(feature = "kafka")]
use crate::config::client_settings;

/// Kafka has this long to acknowledge a request's events; the server answers within ten seconds in any case.
#[cfg(feature = "kafka")]
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether the contract's file has changed.
#[cfg(feature = "kafka")]
const LOOK: Duration = Duration::from_secs(1);

#[cfg(feature = "kafka")]
struct Door(RawLog);

#[cfg(feature = "kafka")]
impl EventLog for Door {
    fn append<'e>(&'e self, events: &'e [KeyedEvent<'e>]) -> BoxFuture<'e, Result<(), NotTaken>> {
        async move {
            self.0.append(events).await.map_err(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "events were not taken");
                NotTaken
            })
        }
        .boxed()
    }
}

/// Kafka's brokers and the clients' settings, by the configuration.
#[cfg(feature = "kafka")]
pub fn kafka(config: &Config) -> (String, BTreeMap<String, String>) {
    let (events, source) = (&config.events, &config.source.kafka);
    let own = || client_settings(&events.settings);
    let settings = if events.settings.is_empty() { source.client_settings() } else { own() };
    (events.brokers.clone().unwrap_or_else(|| source.brokers.clone()), settings)
}

/// Runs what waits for Kafka beside the tasks that do not.
#[cfg(feature = "kafka")]
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    E: Send + 'static,
    anyhow::Error: From<E>,
{
    Ok(tokio::task::spawn_blocking(work).await.context("the reader broke")??)
}

/// Where the topics are, by the configuration.
#[cfg(feature = "kafka")]
pub fn topics(config: &Config) -> Topics {
    let events = &config.events;
    let (brokers, settings) = kafka(config);
    Topics {
        brokers,
        settings,
        raw: events.raw_topic.clone(),
        validated: events.validated_topic.clone(),
        invalid: events.invalid_topic.clone(),
        group: events.group.clone(),
        instance: events.instance.clone(),
    }
}

/// The door for events, if a Kafka is configured for them; its contract follows the file until `shutdown`.
#[cfg(feature = "kafka")]
pub fn door(config: &Config, shutdown: &CancellationToken) -> Result<Option<Arc<EventDoor>>> {
    if config.events.brokers.is_none() {
        return Ok(None);
    }
    let mut file = ContractFile::open(config.events.contract.as_deref())?;
    let log = RawLog::open(&topics(config), PATIENCE)?;
    let door = Arc::new(EventDoor::new(Arc::clone(file.contract()), Box::new(Door(log))));
    let (kept, shutdown) = (Arc::clone(&door), shutdown.clone());
    tokio::spawn(async move {
        while shutdown.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            match file.refresh() {
                Change::None => {}
                Change::Taken => kept.set_contract(Arc::clone(file.contract())),
                Change::Refused(error) => tracing::error!("{error}\nthe contract of before stays in use"),
            }
        }
    });
    Ok(Some(door))
}

/// There is no Kafka in this build.
#[cfg(not(feature = "kafka"))]
pub fn door(_: &Config, _: &CancellationToken) -> Result<Option<Arc<EventDoor>>> {
    Ok(None)
}
