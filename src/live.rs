//! Serving on live data: the online store kept by the stream, the models kept by the registry.

#[cfg(feature = "kafka")]
pub mod tracked;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use lakeward_cdc::Boundary;
use lakeward_change::{StopCause, StoppedTable, TableId};
use lakeward_features::{FeatureError, MemoryStore, ShopNames};
use lakeward_lakehouse::{Lake, Registry, Watermark, WatermarkTable};
use lakeward_online::{Online, Publisher};
use lakeward_pipeline::{Handle, Subscription};
use lakeward_server::{AppState, Champion, Clock, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::models;

/// Customers are scored against all others as of a moment, which moves on this often.
const SCORES_EVERY: Duration = Duration::from_secs(60);
/// How often a cut is asked for that has all of the shop's tables.
const WHOLE_CUT: Duration = Duration::from_millis(500);

/// A store that is kept true.
pub struct Following {
    pub store: Arc<MemoryStore>,
    /// Where the features of its source are that all processes share.
    pub online: Option<Online>,
    /// What brings them there, if it is this process.
    pub publisher: Option<Arc<Publisher>>,
    pub task: JoinHandle<Result<()>>,
}

/// A store that holds everything up to now and is kept true by the running pipeline. The task ends with the pipeline.
/// What changes of customers' features goes on to the source's online store in Redis, if `online` finds one, as of the
/// clock's time.
pub async fn follow_pipeline(
    handle: Handle,
    lake: Arc<Lake>,
    names: &ShopNames,
    online: impl FnOnce(&str) -> Result<Option<Online>>,
    clock: Clock,
) -> Result<Following> {
    // First the subscription, then a watermark beyond its start: no change lies between base and stream.
    let mut subscription = handle.subscribe().await?;
    let watermark = handle.cut().await?;
    let store = Arc::new(MemoryStore::load(&lake, &watermark, names).await?);
    let online = online(&watermark.source)?;
    let mut publishing = JoinSet::new();
    let publisher = online.clone().map(|online| {
        let publisher = Arc::new(Publisher::new(online, Arc::clone(&store)));
        let running = Arc::clone(&publisher);
        publishing.spawn(async move { running.run(|stream| clock.now(stream)).await });
        publisher
    });
    let task = tokio::spawn({
        let (store, names, publisher) = (Arc::clone(&store), names.clone(), publisher.clone());
        async move {
            // Ends with this task.
            let _publishing = publishing;
            loop {
                if let Err(error) = apply(&store, &mut subscription, publisher.as_deref()).await {
                    tracing::warn!("{error:#}: the online store is loaded anew");
                } else {
                    // The pipeline has ended, or this task was too slow for it.
                    let Ok(anew) = handle.subscribe().await else { return Ok(()) };
                    subscription = anew;
                }
                let Some(watermark) = whole_cut(&handle, &names).await else { return Ok(()) };
                store.reload(&lake, &watermark).await.context("the online store cannot be loaded anew")?;
                if let Some(publisher) = &publisher {
                    publisher.changed_all();
                }
            }
        }
    });
    Ok(Following { store, online, publisher, task })
}

/// A cut with all of the shop's tables: while one of them is copied anew, the store keeps what it has. `None` once the
/// pipeline has ended.
async fn whole_cut(handle: &Handle, names: &ShopNames) -> Option<Arc<Watermark>> {
    loop {
        let watermark = handle.cut().await.ok()?;
        let copied =
            |table: &StoppedTable| table.cause == StopCause::Copying && names.table(&table.id).is_some();
        if !watermark.stopped.iter().any(copied) {
            return Some(watermark);
        }
        tokio::time::sleep(WHOLE_CUT).await;
    }
}

/// Applies the stream until it ends. A transaction waits in memory for its end: readers see it whole or not at all.
async fn apply(
    store: &MemoryStore,
    chunks: &mut Subscription,
    publisher: Option<&Publisher>,
) -> Result<(), FeatureError> {
    let mut batches = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        batches.extend_from_slice(&chunk.batches);
        if matches!(chunk.boundary, Boundary::Closed { .. }) {
            let applied = store.follow_chunk(&batches)?;
            batches.clear();
            if let Some(publisher) = publisher.filter(|_| !applied.customers.is_empty()) {
                publisher.changed(applied.customers);
            }
        }
    }
    Ok(())
}

/// A store that follows the lake's tables, watermark by watermark, as another process writes them.
pub async fn follow_lake(
    lake: Arc<Lake>,
    names: &ShopNames,
    source: Option<String>,
    every: Duration,
    online: impl FnOnce(&str) -> Result<Option<Online>>,
    shutdown: CancellationToken,
) -> Result<Following> {
    let mut seen = lake
        .latest_watermark(source.as_deref())
        .await?
        .context("the lake holds nothing yet: run `lakeward ingest` first, or serve with --ingest")?;
    let store = Arc::new(MemoryStore::load(&lake, &seen, names).await?);
    let online = online(&seen.source)?;
    let task = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            while shutdown.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
                match step(&store, &lake, &mut seen, source.as_deref()).await {
                    Ok(()) => {}
                    Err(error) if error.is_retryable() => {
                        tracing::warn!("cannot read the lake's newest rows: {:#}", anyhow::Error::new(error));
                    }
                    Err(error) => return Err(error).context("the online store no longer follows the lake"),
                }
            }
            Ok(())
        }
    });
    Ok(Following { store, online, publisher: None, task })
}

/// Applies what came since the watermark `seen`, which moves on.
async fn step(
    store: &MemoryStore,
    lake: &Lake,
    seen: &mut Watermark,
    source: Option<&str>,
) -> Result<(), FeatureError> {
    let Some(newest) = lake.latest_watermark(source).await? else { return Ok(()) };
    if newest == *seen {
        return Ok(());
    }
    let known = |(id, entry): (&TableId, &WatermarkTable)| {
        seen.tables.get(id).is_some_and(|seen| seen.epoch == entry.epoch)
    };
    let followed = if newest.source == seen.source && newest.tables.iter().all(known) {
        store.follow(lake, seen, &newest).await.map(drop)
    } else {
        store.reload(lake, &newest).await
    };
    match followed {
        // A copy has landed that is in no cut yet, or another one runs: the state as of before stays.
        Err(FeatureError::NewEpoch { .. })
            if newest.stopped.iter().any(|table| table.cause == StopCause::Copying) =>
        {
            return Ok(());
        }
        Err(FeatureError::NewEpoch { .. } | FeatureError::PartitionEmptied { .. }) => {
            store.reload(lake, &newest).await?;
        }
        followed => followed?,
    }
    *seen = newest;
    Ok(())
}

/// Scores customers as of now, again and again until `shutdown`.
pub fn keep_scores(state: &AppState, shutdown: &CancellationToken) {
    let (state, shutdown) = (state.clone(), shutdown.clone());
    tokio::spawn(async move {
        loop {
            state.store.refresh_scores(state.clock.now(state.store.status().as_of));
            if shutdown.run_until_cancelled(tokio::time::sleep(SCORES_EVERY)).await.is_none() {
                return;
            }
        }
    });
}

/// Keeps the models in use loaded until `shutdown`.
pub fn follow_models(
    lake: &Lake,
    state: &AppState,
    every: Duration,
    shutdown: &CancellationToken,
) -> Result<()> {
    let registry = Registry::open(lake)?;
    let recommender = Arc::clone(&state.recommender);
    let churn = Arc::clone(&state.churn);
    tokio::spawn({
        let (registry, shutdown) = (registry.clone(), shutdown.clone());
        async move {
            let etag = || registry.champion_etag(models::RECOMMENDER);
            let load = || champion(&registry, models::RECOMMENDER, lakeward_recommender::Model::from_bytes);
            watch(&recommender, every, shutdown, async || Ok(etag().await?), load).await;
        }
    });
    tokio::spawn({
        let shutdown = shutdown.clone();
        async move {
            let etag = || registry.champion_etag(models::CHURN);
            let load = || champion(&registry, models::CHURN, lakeward_propensity::Model::from_bytes);
            watch(&churn, every, shutdown, async || Ok(etag().await?), load).await;
        }
    });
    Ok(())
}

async fn champion<M, E>(
    registry: &Registry,
    kind: &str,
    decode: impl Fn(&[u8]) -> Result<M, E>,
) -> Result<Option<Champion<M>>>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let Some(champion) = registry.champion(kind).await? else { return Ok(None) };
    let model = decode(&champion.bytes)?;
    Ok(Some(Champion { etag: champion.etag, version: champion.manifest.version, model }))
}

/// There is no Kafka in this build.
#[cfg(not(feature = "kafka"))]
pub mod tracked {
    use super::{Arc, CancellationToken, MemoryStore, Publisher, Result};
    use crate::config::Config;

    pub fn follow(
        _: &Config,
        _: &Arc<MemoryStore>,
        _: Option<Arc<Publisher>>,
        _: &CancellationToken,
    ) -> Result<()> {
        Ok(())
    }
}
