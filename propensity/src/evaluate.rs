//! Temporal evaluation: learn from windows that end before a date, test on the one that starts there.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::model::fit;
use crate::{Error, Metrics, Params, ReliabilityBin, Result, Table, Window};

const RECENCY: &str = "recency_days";

/// The figures of one scorer on the test window. `default` in [`Evaluation`] is the model that is served.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    pub auc: Option<f64>,
    pub pr_auc: Option<f64>,
    pub brier: f64,
    pub ece: f64,
    pub log_loss: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Windows {
    /// Window starts, RFC 3339, oldest first.
    pub train: Vec<String>,
    pub test: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rows {
    pub train: usize,
    pub test: usize,
    /// Churned among `test`.
    pub test_churned: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    pub default: Scores,
    /// `logistic` is the model on all features, `recency` the same on days since the last order alone.
    pub scorers: BTreeMap<String, Scores>,
    pub windows: Windows,
    pub rows: Rows,
    pub horizon_days: u32,
    /// The served model's ten-bin reliability on the test window.
    pub reliability: Vec<ReliabilityBin>,
    /// What a reader should know before believing the figures.
    pub notes: Vec<String>,
}

/// Trains on the newest windows that end at or before `as_of` (µs UTC) and tests on the window that starts there.
/// The `recency` scorer is left out where no feature is called `recency_days`.
///
/// # Errors
/// No training or no test window, an empty test window, and whatever training refuses.
pub fn evaluate(windows: &[Window], as_of: i64, params: &Params) -> Result<Evaluation> {
    let test = windows.iter().find(|window| window.t0() == as_of).ok_or(Error::NoTestWindow)?;
    let model = fit(windows, as_of, params, Value::Null)?;
    let metrics = Metrics::of(&model.predict_table(test.table())?, test.churned())?;
    let mut scorers = BTreeMap::from([("logistic".to_owned(), Scores::from(&metrics))]);
    if test.table().names().iter().any(|name| name == RECENCY) {
        let narrow = windows.iter().map(recency_only).collect::<Result<Vec<_>>>()?;
        let model = fit(&narrow, as_of, params, Value::Null)?;
        let recency = Metrics::of(&model.predict_table(test.table())?, test.churned())?;
        scorers.insert("recency".to_owned(), Scores::from(&recency));
    }
    Ok(Evaluation {
        default: Scores::from(&metrics),
        scorers,
        windows: Windows {
            train: model.training().windows.iter().copied().map(rfc3339).collect(),
            test: rfc3339(as_of),
        },
        rows: Rows { train: model.training().rows, test: metrics.rows, test_churned: metrics.churned },
        horizon_days: params.horizon_days,
        reliability: metrics.reliability,
        notes: Vec::new(),
    })
}

fn recency_only(window: &Window) -> Result<Window> {
    let table: Table = window.table().select(&[RECENCY.to_owned()])?;
    Window::new(window.t0(), &table, window.churned())
}

impl From<&Metrics> for Scores {
    fn from(metrics: &Metrics) -> Self {
        let &Metrics { auc, pr_auc, brier, ece, log_loss, .. } = metrics;
        Self { auc, pr_auc, brier, ece, log_loss }
    }
}

fn rfc3339(micros: i64) -> String {
    DateTime::<Utc>::from_timestamp_micros(micros)
        .map_or_else(|| micros.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}
