//! The topic `realtime_revenue`: a minute's whole figures by its start.
//!
//! It is written after the table, and from it whenever it is not known what the topic has: at the start, after a failure
//! and when changes came faster than Kafka took them. Values are whole, so what is written twice changes nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use chrono::{DateTime, SecondsFormat, Utc};
use lakeward_change::Position;
use lakeward_events::{LatestOptions, LatestTopic};
use lakeward_features::{Money, RevenueMinute, RevenueTable, ShopNames};
use lakeward_lakehouse::Lake;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
};

use super::Changed;
use crate::{config::Config, events};

/// After a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// What a message says of its minute.
#[derive(Serialize, Deserialize)]
struct Value {
    /// The minute's start, RFC 3339 in UTC; the message's key, too.
    window_start: String,
    total_revenue: String,
    orders: u64,
    /// The change up to which this counts: epoch, commit and order. Greater ones, compared from the left, are newer.
    position: [i64; 3],
}

impl Value {
    fn of(minute: &RevenueMinute, at: Position) -> Self {
        Self {
            window_start: text(minute.minute),
            total_revenue: minute.revenue.to_string(),
            orders: minute.orders,
            position: [at.epoch, at.commit, at.order],
        }
    }

    fn message(self) -> Result<(String, Vec<u8>)> {
        let value = serde_json::to_vec(&self)?;
        Ok((self.window_start, value))
    }
}

fn text(minute: i64) -> String {
    let time = DateTime::<Utc>::from_timestamp_micros(minute).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Writes what changes, if a Kafka is configured, until nothing more can.
pub(super) fn start(
    config: &Config,
    lake: &Arc<Lake>,
    names: &ShopNames,
    mut changes: watch::Receiver<Option<Arc<Changed>>>,
) -> Option<JoinHandle<()>> {
    if config.events.brokers.is_none() && config.source.kafka.prefix.is_none() {
        return None;
    }
    let (brokers, settings) = events::kafka(config);
    let topic = config.streams.revenue_topic.clone();
    let options = LatestOptions { brokers, settings, writer: format!("lakeward-{topic}"), topic };
    let (lake, names) = (Arc::clone(lake), names.clone());
    Some(tokio::spawn(async move {
        let mut written = None;
        while changes.changed().await.is_ok() {
            let Some(changed) = changes.borrow_and_update().clone() else { continue };
            written = match write(written.take(), &changed, &options, &lake, &names).await {
                Ok(topic) => Some((topic, changed.number)),
                Err(error) => {
                    tracing::warn!("topic {} is not written: {error:#}", options.topic);
                    // Without an ingester beside it, the next one does it.
                    if changes.has_changed().is_err() {
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                    changes.mark_changed();
                    None
                }
            };
        }
    }))
}

/// Writes what changed. What `written` has is known up to its number.
async fn write(
    written: Option<(LatestTopic, u64)>,
    changed: &Changed,
    options: &LatestOptions,
    lake: &Lake,
    names: &ShopNames,
) -> Result<LatestTopic> {
    let (topic, values) = match written {
        Some((topic, number)) if number + 1 == changed.number => {
            let values = changed.minutes.iter().map(|minute| Value::of(minute, changed.position).message());
            (topic, values.collect::<Result<Vec<_>>>()?)
        }
        _ => {
            let options = options.clone();
            let (topic, held) = spawn_blocking(move || LatestTopic::open(&options)).await??;
            let found = RevenueTable::open(lake, names).await?.minutes().await?;
            let (position, minutes) = found.context("the table realtime_revenue has gone")?;
            (topic, missing(&held, &minutes, position)?)
        }
    };
    spawn_blocking(move || topic.put(&values).map(|()| topic)).await?.map_err(Into::into)
}

/// What the topic lacks of the table's minutes.
fn missing(
    held: &BTreeMap<String, Vec<u8>>,
    minutes: &[RevenueMinute],
    at: Position,
) -> Result<Vec<(String, Vec<u8>)>> {
    let figures = |value: &[u8]| {
        let value: Value = serde_json::from_slice(value).ok()?;
        Some((value.total_revenue, value.orders))
    };
    let mut wanted: BTreeMap<String, Value> =
        minutes.iter().map(|minute| (text(minute.minute), Value::of(minute, at))).collect();
    for (key, value) in held {
        match wanted.get(key) {
            Some(value_now) => {
                if figures(value) == Some((value_now.total_revenue.clone(), value_now.orders)) {
                    wanted.remove(key);
                }
            }
            // All of its orders are gone.
            None => {
                if let Ok(time) = DateTime::parse_from_rfc3339(key)
                    && figures(value).is_none_or(|(_, orders)| orders != 0)
                {
                    let minute = time.timestamp_micros();
                    let none = RevenueMinute { minute, revenue: Money::ZERO, orders: 0 };
                    wanted.insert(key.clone(), Value::of(&none, at));
                }
            }
        }
    }
    wanted.into_values().map(Value::message).collect()
}
