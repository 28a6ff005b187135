//! Models between the lake and the registry: train, publish, promote, load.

use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::{
    array::RecordBatch,
    datatypes::{Field, Schema},
};
use lakeward_features::ShopTables;
use lakeward_lakehouse::{Draft, Lake, Manifest, Registry, Watermark};
use lakeward_propensity as churn;
use lakeward_recommender as recommender;
use serde_json::{Value, json};

use crate::config::Config;

pub const RECOMMENDER: &str = "recommender";
pub const CHURN: &str = "churn";

/// What was trained and put in use.
pub struct Trained<M> {
    pub model: M,
    pub manifest: Manifest,
}

pub fn train_options(config: &Config) -> recommender::TrainOptions {
    recommender::TrainOptions {
        factors: config.recommender.factors,
        iterations: config.recommender.iterations,
        regularization: config.recommender.regularization,
        seed: config.recommender.seed,
        ..recommender::TrainOptions::default()
    }
}

pub fn churn_params(config: &Config) -> churn::Params {
    churn::Params {
        horizon_days: config.churn.horizon_days,
        max_windows: config.churn.windows,
        ..churn::Params::default()
    }
}

/// Trains on the kept orders up to `as_of` (µs UTC) and makes the model the one in use.
pub async fn train_recommender(
    lake: &Lake,
    watermark: &Watermark,
    shop: &ShopTables,
    options: recommender::TrainOptions,
    as_of: i64,
    progress: impl Fn(u64, u64) + Send + Sync + 'static,
) -> Result<Trained<recommender::Model>> {
    let interactions = shop.interactions(as_of).await?;
    let seen = watermark_json(watermark);
    let text = seen.to_string();
    let model = tokio::task::spawn_blocking(move || {
        let data = recommender::Interactions::from_batches("the shop's orders", &[interactions])?;
        recommender::train(&data, &options, &text, &progress)
    })
    .await
    .context("training was cut short")??;
    let info = model.info();
    let draft = Draft {
        as_of,
        parameters: serde_json::to_value(&info.parameters)?,
        metrics: serde_json::to_value(&info.validation)?,
        watermark: seen,
        bytes: model.to_bytes(),
    };
    let manifest = publish(lake, RECOMMENDER, draft).await?;
    Ok(Trained { model, manifest })
}

/// Trains on windows whose horizon ends by `as_of` and makes the model the one in use.
pub async fn train_churn(
    lake: &Lake,
    watermark: &Watermark,
    shop: &ShopTables,
    params: &churn::Params,
    as_of: i64,
) -> Result<Trained<churn::Model>> {
    let (earliest, _) = order_period(shop).await?;
    // One window more than is trained on, for the test of the model one window earlier.
    let times = churn::training_times(as_of, params.horizon_days, params.max_windows + 1, earliest);
    let rows = shop.churn_training(&times, params.horizon_days).await?;
    let seen = watermark_json(watermark);
    let model = churn::train(&churn_windows(&rows)?, as_of, params, seen.clone())?;
    let draft = Draft {
        as_of,
        parameters: serde_json::to_value(model.params())?,
        metrics: serde_json::to_value(model.backtest())?,
        watermark: seen,
        bytes: model.to_bytes()?,
    };
    let manifest = publish(lake, CHURN, draft).await?;
    Ok(Trained { model, manifest })
}

/// Every customer's risk as of `as_of`, written to `features/customer_churn`. Gives the number of customers.
pub async fn score_churn(
    lake: &Lake,
    shop: &ShopTables,
    trained: &Trained<churn::Model>,
    as_of: i64,
) -> Result<u64> {
    let activity = shop.activity(&[as_of]).await?;
    let risks = trained.model.predict_table(&churn::Table::from_batches(&[features_of(&activity)?])?)?;
    Ok(lakeward_features::write_churn(lake, &activity, &risks, &trained.manifest.version, as_of).await?)
}

/// The labelled rows of several moments as windows: there the moment is called `t0`.
pub fn churn_windows(rows: &RecordBatch) -> Result<Vec<churn::Window>> {
    let renamed = |field: &Arc<Field>| match field.name().as_str() {
        "event_time" => Arc::new(field.as_ref().clone().with_name("t0")),
        _ => Arc::clone(field),
    };
    let schema = Schema::new(rows.schema().fields().iter().map(renamed).collect::<Vec<_>>());
    let rows = RecordBatch::try_new(Arc::new(schema), rows.columns().to_vec())?;
    Ok(churn::windows(&[rows])?)
}

/// The activity without its time column: what a model may look at.
fn features_of(activity: &RecordBatch) -> Result<RecordBatch> {
    let columns: Vec<usize> = (0..activity.num_columns())
        .filter(|&index| activity.schema().field(index).name() != "event_time")
        .collect();
    Ok(activity.project(&columns)?)
}

/// Each customer's last order as the test, the earlier ones for training.
pub fn split_last_basket(interactions: RecordBatch, seed: u64) -> Result<(RecordBatch, RecordBatch)> {
    let data = recommender::Interactions::from_batches("the shop's orders", &[interactions])?;
    Ok(data.split_last_basket(seed))
}

async fn publish(lake: &Lake, kind: &str, draft: Draft) -> Result<Manifest> {
    let registry = Registry::open(lake)?;
    let seen = registry.champion_etag(kind).await?;
    let manifest = registry.publish(kind, draft).await?;
    registry.promote(kind, &manifest.version, seen.as_deref()).await.with_context(|| {
        format!("the {kind} model {} is stored, but was not put in use", manifest.version)
    })?;
    Ok(manifest)
}

/// The time that a shop's data stands at by default, µs UTC.
pub fn known_at(shop: &ShopTables) -> Result<i64> {
    shop.known_at().context("the shop has no order yet: there is nothing to learn from")
}

/// When the first and the newest order were placed, in µs UTC.
pub async fn order_period(shop: &ShopTables) -> Result<(i64, i64)> {
    shop.order_period().await?.context("the shop has no order yet: there is nothing to learn from")
}

fn watermark_json(watermark: &Watermark) -> Value {
    json!({ "source": watermark.source, "epoch": watermark.epoch, "lsn": watermark.lsn.to_string() })
}
