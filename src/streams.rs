//! What an ingester computes beside capturing, watermark by watermark: revenue per minute.

#[cfg(feature = "kafka")]
mod topic;

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use lakeward_change::Position;
use lakeward_features::{FeatureError, RevenueMinute, RevenueTable, ShopNames};
use lakeward_lakehouse::{Lake, LakeError, Watermark};
use lakeward_pipeline::{Event, Observer};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{config::Config, session::shop_names};

/// After a failure.
const PAUSE: Duration = Duration::from_secs(2);
/// At the end of an ingester that is told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Follows the watermarks of a pipeline in this process, of which there is one at work a source.
pub struct Streams {
    newest: watch::Sender<Newest>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Newest {
    watermark: Option<Arc<Watermark>>,
    /// No other one will come.
    ended: bool,
}

/// Minutes that changed with a commit to the table, as they are then.
#[cfg_attr(not(feature = "kafka"), expect(dead_code, reason = "the topic alone reads them"))]
struct Changed {
    /// Counts up by one, unless changes went before that nobody was told of.
    number: u64,
    position: Position,
    minutes: Vec<RevenueMinute>,
}

impl Streams {
    /// Does nothing if that is switched off.
    pub fn start(config: &Config, lake: &Arc<Lake>) -> Self {
        let (newest, watermarks) = watch::channel(Newest::default());
        let (changed, changes) = watch::channel(None);
        let mut tasks = Vec::new();
        if config.streams.revenue {
            let (lake, names) = (Arc::clone(lake), shop_names(config));
            tasks.extend(topic::start(config, &lake, &names, changes));
            tasks.push(tokio::spawn(revenue(lake, names, watermarks, changed)));
        }
        Self { newest, tasks }
    }

    /// Passes events on, and takes watermarks from them.
    pub fn observer(&self, inner: Observer) -> Observer {
        let newest = self.newest.clone();
        Arc::new(move |event| {
            if let Event::Committed(watermark) = &event {
                newest.send_modify(|newest| newest.watermark = Some(Arc::clone(watermark)));
            }
            inner(event);
        })
    }

    /// Once the pipeline has ended: what its last watermark brought is taken in. After `shutdown` that has a few seconds;
    /// what is not done then is done by the next start.
    pub async fn finish(self, shutdown: &CancellationToken) {
        self.newest.send_modify(|newest| newest.ended = true);
        let stop: Vec<_> = self.tasks.iter().map(JoinHandle::abort_handle).collect();
        let late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            _ = futures::future::join_all(self.tasks) => {}
            () = late => stop.iter().for_each(|task| task.abort()),
        }
    }
}

/// Keeps the table until there are no more watermarks.
async fn revenue(
    lake: Arc<Lake>,
    names: ShopNames,
    mut watermarks: watch::Receiver<Newest>,
    changed: watch::Sender<Option<Arc<Changed>>>,
) {
    let mut table = None;
    // Whoever hears of changes has heard of all up to this number.
    let (mut number, mut heard) = (0, false);
    loop {
        if watermarks.changed().await.is_err() {
            return;
        }
        let (watermark, ended) = {
            let newest = watermarks.borrow_and_update();
            (newest.watermark.clone(), newest.ended)
        };
        let Some(watermark) = watermark else { if ended { return } else { continue } };
        match step(&mut table, &lake, &names, &watermark).await {
            Ok(None) => {}
            Ok(Some((position, minutes))) => {
                if !heard || !minutes.is_empty() {
                    // A number left out tells that changes were, too.
                    number += if heard { 1 } else { 2 };
                    heard = true;
                    changed.send_replace(Some(Arc::new(Changed { number, position, minutes })));
                }
            }
            Err(error) if !is_lasting(&error) => {
                tracing::warn!("revenue per minute waits: {:#}", anyhow::Error::new(error));
                // A commit may have landed all the same.
                heard = false;
                watermarks.mark_changed();
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::warn!("there is no revenue per minute ([streams] revenue): {error:#}");
                return;
            }
        }
        if ended {
            return;
        }
    }
}

/// Brings the table to a watermark. `None` if there are no orders.
async fn step(
    table: &mut Option<RevenueTable>,
    lake: &Lake,
    names: &ShopNames,
    watermark: &Watermark,
) -> Result<Option<(Position, Vec<RevenueMinute>)>, FeatureError> {
    if !RevenueTable::is_fed_by(watermark, names) {
        return Ok(None);
    }
    let table = match table {
        Some(table) => table,
        none => none.insert(RevenueTable::open(lake, names).await?),
    };
    let minutes = table.follow(watermark).await?;
    // The clock is for the age of files alone.
    if let Err(error) = table.tidy(Utc::now().timestamp_micros()).await {
        tracing::warn!("old files of realtime_revenue stay: {:#}", anyhow::Error::new(error));
    }
    Ok(table.position().map(|position| (position, minutes)))
}

/// Whether it is the tables' shape that somebody must change.
fn is_lasting(error: &FeatureError) -> bool {
    use FeatureError::{ColumnType, Lake, MissingColumns};
    matches!(error, MissingColumns { .. } | ColumnType { .. } | Lake(LakeError::Features { .. }))
}

/// There is no Kafka in this build.
#[cfg(not(feature = "kafka"))]
mod topic {
    use super::{Arc, Changed, Config, JoinHandle, Lake, ShopNames, watch};

    pub(super) fn start(
        _: &Config,
        _: &Arc<Lake>,
        _: &ShopNames,
        _: watch::Receiver<Option<Arc<Changed>>>,
    ) -> Option<JoinHandle<()>> {
        None
    }
}
