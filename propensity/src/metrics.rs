//! How good predicted probabilities are, by ranking and by calibration.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

const BINS: usize = 10;

/// All values are rounded to six decimals; `churned` is the positive class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    pub rows: usize,
    pub churned: usize,
    /// Probability that a churned customer is scored above a staying one, ties counting half. None if only one
    /// outcome is there.
    pub auc: Option<f64>,
    /// Average precision: Σ (recallₖ − recallₖ₋₁)·precisionₖ over distinct scores, without interpolation. None if
    /// only one outcome is there.
    pub pr_auc: Option<f64>,
    /// Mean squared difference between probability and outcome.
    pub brier: f64,
    /// Expected calibration error: |mean probability − observed share| over ten bins of equal width on [0, 1],
    /// weighted by their rows.
    pub ece: f64,
    /// Mean negative log-likelihood in nats, probabilities cut to [1e-15, 1 − 1e-15].
    pub log_loss: f64,
    /// The bins behind `ece` that hold rows, lowest first.
    pub reliability: Vec<ReliabilityBin>,
}

/// Customers whose predicted probability lies in `[from, from + 0.1)`; the last bin holds 1 too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReliabilityBin {
    pub from: f64,
    pub rows: usize,
    /// Mean predicted probability.
    pub predicted: f64,
    /// Share that did churn.
    pub observed: f64,
}

impl Metrics {
    /// # Errors
    /// No rows, another number of outcomes than of probabilities, or a probability outside [0, 1].
    pub fn of(probabilities: &[f64], churned: &[bool]) -> Result<Self> {
        if probabilities.is_empty() {
            return Err(Error::Empty);
        }
        if probabilities.len() != churned.len() {
            return Err(Error::LabelCount { rows: probabilities.len(), labels: churned.len() });
        }
        let outside = probabilities.iter().filter(|p| !(0.0..=1.0).contains(*p)).count();
        if outside > 0 {
            return Err(Error::NotProbability { count: outside });
        }
        let rows = probabilities.len() as f64;
        let pairs = || probabilities.iter().copied().zip(churned.iter().map(|&y| f64::from(u8::from(y))));
        let brier = pairs().map(|(p, y)| (p - y).powi(2)).sum::<f64>() / rows;
        let log_loss = pairs().map(|(p, y)| -(1.0 - (p - y).abs()).max(1e-15).ln()).sum::<f64>() / rows;
        let (auc, pr_auc) = ranking(probabilities, churned).unzip();
        let (reliability, ece) = calibration(probabilities, churned);
        Ok(Self {
            rows: probabilities.len(),
            churned: churned.iter().filter(|&&y| y).count(),
            auc: auc.map(rounded),
            pr_auc: pr_auc.map(rounded),
            brier: rounded(brier),
            ece: rounded(ece),
            log_loss: rounded(log_loss),
            reliability,
        })
    }
}

/// Area under the ROC curve (by trapezoids, which gives ties their half) and average precision, in one walk down
/// the distinct scores.
fn ranking(scores: &[f64], churned: &[bool]) -> Option<(f64, f64)> {
    let positives = churned.iter().filter(|&&y| y).count() as f64;
    let negatives = churned.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return None;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_unstable_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let (mut hits, mut misses, mut area, mut precision) = (0.0, 0.0, 0.0, 0.0);
    for ties in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let new_hits = ties.iter().filter(|&&row| churned[row]).count() as f64;
        let new_misses = ties.len() as f64 - new_hits;
        area += new_misses * (hits + new_hits / 2.0);
        hits += new_hits;
        misses += new_misses;
        precision += new_hits * hits / (hits + misses);
    }
    Some((area / (positives * negatives), precision / positives))
}

fn calibration(probabilities: &[f64], churned: &[bool]) -> (Vec<ReliabilityBin>, f64) {
    let mut sums = [(0_usize, 0.0, 0_usize); BINS];
    for (&p, &y) in probabilities.iter().zip(churned) {
        let (rows, predicted, observed) = &mut sums[((p * BINS as f64) as usize).min(BINS - 1)];
        *rows += 1;
        *predicted += p;
        *observed += usize::from(y);
    }
    let total = probabilities.len() as f64;
    let filled = sums.iter().enumerate().filter(|(_, sum)| sum.0 > 0);
    let ece = filled
        .clone()
        .map(|(_, &(_, predicted, observed))| (predicted - observed as f64).abs() / total)
        .sum();
    let bins = filled.map(|(bin, &(rows, predicted, observed))| ReliabilityBin {
        from: bin as f64 / BINS as f64,
        rows,
        predicted: rounded(predicted / rows as f64),
        observed: rounded(observed as f64 / rows as f64),
    });
    (bins.collect(), ece)
}

fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}
