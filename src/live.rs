//! Serving on live data: the online store kept by the stream, the models kept by the registry.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use lakeward_cdc::Boundary;
use lakeward_features::{MemoryStore, ShopNames};
use lakeward_lakehouse::{Lake, Registry};
use lakeward_pipeline::Handle;
use lakeward_server::{AppState, Champion, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::models;

/// A store that holds everything up to now and is kept true by the running pipeline. The task ends with the pipeline.
pub async fn follow_pipeline(
    handle: &Handle,
    lake: &Lake,
    names: &ShopNames,
) -> Result<(Arc<MemoryStore>, JoinHandle<Result<()>>)> {
    // First the subscription, then a watermark beyond its start: no change lies between base and stream.
    let mut subscription = handle.subscribe().await?;
    let watermark = handle.cut().await?;
    let store = Arc::new(MemoryStore::load(lake, &watermark, names).await?);
    let task = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let mut batches = Vec::new();
            while let Some(chunk) = subscription.chunks.recv().await {
                batches.extend_from_slice(&chunk.batches);
                // Readers see a transaction whole or not at all.
                if matches!(chunk.boundary, Boundary::Closed { .. }) {
                    store
                        .apply(&batches)
                        .context("the online store no longer follows the source: start serving again")?;
                    batches.clear();
                }
            }
            Ok(())
        }
    });
    Ok((store, task))
}

/// A store that follows the lake's tables, as another process writes them.
pub async fn follow_lake(
    lake: Arc<Lake>,
    names: &ShopNames,
    source: Option<String>,
    every: Duration,
    shutdown: CancellationToken,
) -> Result<(Arc<MemoryStore>, JoinHandle<Result<()>>)> {
    let newest = async |lake: &Lake| {
        lake.latest_watermark(source.as_deref())
            .await?
            .context("the lake holds nothing yet: run `lakeward ingest` first, or serve with --ingest")
    };
    let store = Arc::new(MemoryStore::load(&lake, &newest(&lake).await?, names).await?);
    let task = tokio::spawn({
        let store = Arc::clone(&store);
        let source = source.clone();
        async move {
            while shutdown.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
                let newest = lake.latest_watermark(source.as_deref()).await;
                let caught_up = match newest {
                    Ok(Some(watermark)) => store.catch_up(&lake, &watermark).await.map(drop),
                    Ok(None) => Ok(()),
                    Err(error) => Err(error.into()),
                };
                match caught_up {
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
    Ok((store, task))
}

/// Keeps the models in use loaded until `shutdown`.
pub fn follow_models(
    lake: &Lake,
    state: &AppState,
    every: Duration,
    shutdown: &CancellationToken,
) -> Result<()> {
    let registry = Registry::open(lake.url())?;
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
