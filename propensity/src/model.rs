//! The churn model: logistic regression over log-scaled, standardised activity.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::logistic::{self, score, sigmoid};
use crate::{Error, Metrics, Result, Table, Window};

/// How to train. There is no seed: nothing is random.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Days without a kept order that count as churn.
    pub horizon_days: u32,
    /// Ridge penalty on the standardised weights, in units of one row's log-loss.
    pub l2: f64,
    /// Newest windows to learn from. More windows are more rows but older habits, and worse calibration.
    pub max_windows: usize,
}

impl Default for Params {
    fn default() -> Self {
        Self { horizon_days: 30, l2: 10.0, max_windows: 2 }
    }
}

/// One input with what was learned about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    pub name: String,
    /// Mean and standard deviation on the log scale, over the training rows.
    pub mean: f64,
    pub scale: f64,
    /// Change of the log-odds of churn by one standard deviation; 0 where other features say the same better.
    pub coefficient: f64,
}

impl Feature {
    fn standardised(&self, value: f64) -> f64 {
        (log_scaled(value) - self.mean) / self.scale
    }
}

/// What the model was trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Nothing after this (µs UTC) was seen.
    pub as_of: i64,
    /// Window starts, µs UTC, oldest first.
    pub windows: Vec<i64>,
    pub rows: usize,
    pub churned: usize,
    /// The state of the data, as its reader named it.
    pub watermark: Value,
}

/// The same recipe one window earlier, tested on the newest window it has not seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backtest {
    /// Start of the tested window, µs UTC.
    pub t0: i64,
    pub metrics: Metrics,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    params: Params,
    intercept: f64,
    features: Vec<Feature>,
    training: Training,
    /// None where the history has room for one window only.
    backtest: Option<Backtest>,
}

/// Whether a customer's value makes churn more or less likely than the average customer's does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Raises,
    Lowers,
}

/// One feature's part in a prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    pub feature: String,
    pub value: f64,
    /// The average customer's value, on the scale of `value` (the mean is taken on the log scale).
    pub typical: f64,
    pub direction: Direction,
    /// Change of the log-odds of churn against the average customer.
    pub contribution: f64,
}

/// Trains on the newest windows whose horizon has ended by `as_of` (µs UTC), and tests the same recipe one window
/// earlier. Features are those of the newest window.
///
/// # Errors
/// No usable window, windows that lack a feature, one outcome only, bad parameters.
pub fn train(windows: &[Window], as_of: i64, params: &Params, watermark: Value) -> Result<Model> {
    let backtest = match usable(windows, as_of, params).last() {
        None => return Err(Error::NoTrainingWindow),
        Some(&newest) => match fit(windows, newest.t0(), params, Value::Null) {
            Ok(earlier) => {
                let probabilities = earlier.predict_table(newest.table())?;
                Some(Backtest { t0: newest.t0(), metrics: Metrics::of(&probabilities, newest.churned())? })
            }
            Err(Error::NoTrainingWindow | Error::SingleClass { .. } | Error::Empty) => None,
            Err(error) => return Err(error),
        },
    };
    let model = fit(windows, as_of, params, watermark)?;
    Ok(Model { backtest, ..model })
}

/// The windows to learn from, oldest first.
fn usable<'a>(windows: &'a [Window], as_of: i64, params: &Params) -> Vec<&'a Window> {
    let ended = windows
        .iter()
        .filter(|window| !window.table().is_empty() && window.ends_by(as_of, params.horizon_days));
    let mut ended: Vec<&Window> = ended.collect();
    ended.sort_by_key(|window| window.t0());
    ended.split_off(ended.len().saturating_sub(params.max_windows))
}

pub(crate) fn fit(windows: &[Window], as_of: i64, params: &Params, watermark: Value) -> Result<Model> {
    if !(params.l2.is_finite() && params.l2 > 0.0) {
        return Err(Error::Parameter("l2"));
    }
    if params.horizon_days == 0 {
        return Err(Error::Parameter("horizon_days"));
    }
    if params.max_windows == 0 {
        return Err(Error::Parameter("max_windows"));
    }
    let windows = usable(windows, as_of, params);
    let names = windows.last().ok_or(Error::NoTrainingWindow)?.table().names().to_vec();
    let mut x = Vec::new();
    let mut churned = Vec::new();
    for window in &windows {
        let table = window.table().select(&names)?;
        x.extend(table.rows().flatten().map(|&value| log_scaled(value)));
        churned.extend_from_slice(window.churned());
    }
    let mut features = standardise(&names, &mut x);
    let weights = agreeing_weights(&x, &churned, features.len(), params.l2)?;
    for (feature, &weight) in features.iter_mut().zip(&weights) {
        feature.coefficient = weight;
    }
    Ok(Model {
        params: params.clone(),
        intercept: weights[features.len()],
        features,
        training: Training {
            as_of,
            windows: windows.iter().map(|window| window.t0()).collect(),
            rows: churned.len(),
            churned: churned.iter().filter(|&&y| y).count(),
            watermark,
        },
        backtest: None,
    })
}

/// Weights and the intercept, as [`logistic::fit`], with weight 0 for features whose weight would contradict their
/// own relation to churn. Such a weight comes of features that tell nearly the same (orders in 7 and in 14 days);
/// it gains nothing, and a reason made of it reads upside down ("ordered today" as a risk). The largest one goes
/// first, then the rest is fitted again.
fn agreeing_weights(x: &[f64], churned: &[bool], width: usize, l2: f64) -> Result<Vec<f64>> {
    let share = churned.iter().filter(|&&y| y).count() as f64 / churned.len() as f64;
    let mut covariance = vec![0.0; width];
    for (row, &y) in x.chunks_exact(width).zip(churned) {
        let excess = f64::from(u8::from(y)) - share;
        covariance.iter_mut().zip(row).for_each(|(sum, value)| *sum += value * excess);
    }
    let mut kept: Vec<usize> = (0..width).collect();
    loop {
        let columns = x.chunks_exact(width).flat_map(|row| kept.iter().map(|&column| row[column]));
        let fitted = logistic::fit(&columns.collect::<Vec<_>>(), churned, kept.len(), l2)?;
        let contradicts = |place: &usize| fitted[*place] * covariance[kept[*place]] < 0.0;
        let worst = (0..kept.len())
            .filter(contradicts)
            .max_by(|&a, &b| fitted[a].abs().total_cmp(&fitted[b].abs()))
            // Alone, a feature cannot contradict itself but by rounding.
            .filter(|_| kept.len() > 1);
        let Some(worst) = worst else {
            let mut weights = vec![0.0; width + 1];
            kept.iter().chain([&width]).zip(fitted).for_each(|(&column, weight)| weights[column] = weight);
            return Ok(weights);
        };
        kept.remove(worst);
    }
}

/// Counts, money and days are skewed: a step from 1 to 2 orders says more than one from 51 to 52. Odd, so that
/// negative values keep their sign.
fn log_scaled(value: f64) -> f64 {
    value.abs().ln_1p().copysign(value)
}

fn unscaled(log: f64) -> f64 {
    log.abs().exp_m1().copysign(log)
}

/// Brings columns to mean 0 and standard deviation 1, in place. A constant column becomes 0, and so does its weight.
fn standardise(names: &[String], x: &mut [f64]) -> Vec<Feature> {
    let width = names.len();
    let rows = (x.len() / width) as f64;
    let mut features = Vec::with_capacity(width);
    for (column, name) in names.iter().enumerate() {
        let values = || x.iter().skip(column).step_by(width);
        let mean = values().sum::<f64>() / rows;
        let deviation = (values().map(|value| (value - mean).powi(2)).sum::<f64>() / rows).sqrt();
        let constant = deviation <= 1e-9 * (1.0 + mean.abs());
        let scale = if constant { 1.0 } else { deviation };
        for value in x.iter_mut().skip(column).step_by(width) {
            *value = if constant { 0.0 } else { (*value - mean) / scale };
        }
        features.push(Feature { name: name.clone(), mean, scale, coefficient: 0.0 });
    }
    features
}

impl Model {
    pub fn params(&self) -> &Params {
        &self.params
    }

    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    pub fn intercept(&self) -> f64 {
        self.intercept
    }

    pub fn training(&self) -> &Training {
        &self.training
    }

    pub fn backtest(&self) -> Option<&Backtest> {
        self.backtest.as_ref()
    }

    /// A customer's values in the model's order, looked up by feature name.
    ///
    /// # Errors
    /// A feature that `value_of` does not know.
    pub fn row(&self, value_of: impl Fn(&str) -> Option<f64>) -> Result<Vec<f64>> {
        let values = self
            .features
            .iter()
            .map(|feature| value_of(&feature.name).ok_or_else(|| Error::MissingColumn(feature.name.clone())));
        values.collect()
    }

    /// Probability of churn, from values in the order of [`Model::features`].
    ///
    /// # Errors
    /// Another number of values, NaN or infinities.
    pub fn predict(&self, row: &[f64]) -> Result<f64> {
        Ok(sigmoid(score(&self.standardised(row)?, &self.weights())))
    }

    /// One probability a row, in row order. Columns are found by name; others are ignored.
    ///
    /// # Errors
    /// A feature that the table does not have.
    pub fn predict_table(&self, table: &Table) -> Result<Vec<f64>> {
        let names: Vec<String> = self.features.iter().map(|feature| feature.name.clone()).collect();
        let weights = self.weights();
        let table = table.select(&names)?;
        table.rows().map(|row| Ok(sigmoid(score(&self.standardised(row)?, &weights)))).collect()
    }

    /// The features that move this customer's risk furthest from the average customer's, strongest first, at most
    /// `limit`. All contributions and the intercept add up to the log-odds of [`Model::predict`].
    ///
    /// # Errors
    /// As [`Model::predict`].
    pub fn reasons(&self, row: &[f64], limit: usize) -> Result<Vec<Reason>> {
        let standardised = self.standardised(row)?;
        let mut reasons: Vec<Reason> = self
            .features
            .iter()
            .zip(standardised.iter().zip(row))
            .map(|(feature, (z, &value))| {
                let contribution = feature.coefficient * z;
                Reason {
                    feature: feature.name.clone(),
                    value,
                    typical: unscaled(feature.mean),
                    direction: if contribution > 0.0 { Direction::Raises } else { Direction::Lowers },
                    contribution,
                }
            })
            .filter(|reason| reason.contribution != 0.0)
            .collect();
        reasons.sort_by(|a, b| b.contribution.abs().total_cmp(&a.contribution.abs()));
        reasons.truncate(limit);
        Ok(reasons)
    }

    fn weights(&self) -> Vec<f64> {
        self.features.iter().map(|feature| feature.coefficient).chain([self.intercept]).collect()
    }

    fn standardised(&self, row: &[f64]) -> Result<Vec<f64>> {
        if row.len() != self.features.len() {
            return Err(Error::ValueCount { found: row.len(), expected: self.features.len() });
        }
        let values = self.features.iter().zip(row).map(|(feature, &value)| {
            if value.is_finite() {
                Ok(feature.standardised(value))
            } else {
                Err(Error::NotFinite { column: feature.name.clone(), count: 1 })
            }
        });
        values.collect()
    }
}
