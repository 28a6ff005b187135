//! The blend's weights: a logistic regression of "is in the held-out basket" on the scorers' features.

use std::collections::HashSet;

use nalgebra::{Cholesky, SMatrix, SVector};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::catalogue::Catalogue;
use crate::hold_out::Case;
use crate::interactions::Histories;
use crate::options::RepeatPolicy;
use crate::scorers::{BATCH, Customer, FEATURES, Features, PRIOR, weigh};

const N: usize = FEATURES.len();
/// Items drawn for each user from those neither bought nor in the target; each stands for many.
const NEGATIVES: usize = 200;
const NEWTON_STEPS: usize = 30;
/// Rows summed in one piece.
const ROWS: usize = 4096;

/// A row of the regression.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) features: Features,
    pub(crate) hit: bool,
    /// How many items the row stands for.
    pub(crate) weight: f64,
}

/// The rows of all held-out cases: every item bought before (unless repeats are excluded), every target,
/// and a sample of the rest.
pub(crate) fn rows(
    catalogue: &Catalogue,
    histories: &Histories,
    cases: &[Case],
    repeat: RepeatPolicy,
    seed: u64,
) -> Vec<Row> {
    let by_case: Vec<Vec<Row>> = cases
        .par_chunks(BATCH)
        .map(|cases| {
            let histories = cases.iter().map(|case| (histories.of(case.user as usize), case.now));
            let customers = Customer::batch(catalogue, histories);
            cases
                .iter()
                .zip(&customers)
                .flat_map(|(case, customer)| case_rows(catalogue, customer, case, repeat, seed))
                .collect()
        })
        .collect();
    by_case.into_iter().flatten().collect()
}

fn case_rows(
    catalogue: &Catalogue,
    customer: &Customer<'_>,
    case: &Case,
    repeat: RepeatPolicy,
    seed: u64,
) -> Vec<Row> {
    let bought: HashSet<u32> = customer.history.iter().map(|pair| pair.item).collect();
    // An item that nobody had bought yet could not have been recommended.
    let known = |item: u32| catalogue.purchases[item as usize] > 0.0;
    let mut rows = Vec::new();
    if repeat == RepeatPolicy::Allow {
        rows.extend(customer.history.iter().map(|pair| Row {
            features: customer.seen_features(catalogue, pair),
            hit: case.target.contains(&pair.item),
            weight: 1.0,
        }));
    }
    let mut new: Vec<u32> = case.target.difference(&bought).copied().collect();
    new.sort_unstable();
    rows.extend(new.into_iter().filter(|&item| known(item)).map(|item| Row {
        features: customer.unseen_features(catalogue, item as usize),
        hit: true,
        weight: 1.0,
    }));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(case.user) + 1);
    let others: Vec<usize> = (0..NEGATIVES)
        .map(|_| rng.random_range(0..catalogue.len()))
        .filter(|&item| {
            let item = item as u32;
            known(item) && !bought.contains(&item) && !case.target.contains(&item)
        })
        .collect();
    rows.extend(others.into_iter().map(|item| Row {
        features: customer.unseen_features(catalogue, item),
        hit: false,
        weight: catalogue.len() as f64 / NEGATIVES as f64,
    }));
    rows
}

/// Maximises the weighted likelihood by Newton's method, with a penalty that counts as one row towards the
/// prior, so that a feature without evidence keeps its prior weight.
/// `false` beside them if the optimum was not reached.
pub(crate) fn fit(rows: &[Row]) -> (Features, bool) {
    let penalty = penalty(rows);
    let prior = SVector::<f64, N>::from(PRIOR);
    let mut weights = prior;
    let mut loss = objective(rows, &weights, &penalty);
    let mut converged = false;
    for _ in 0..NEWTON_STEPS {
        let (gradient, hessian) = derivatives(rows, &weights, &penalty);
        let Some(cholesky) = Cholesky::new(hessian) else {
            break;
        };
        let step = cholesky.solve(&gradient);
        // The full step, or the first of its halves that does not make things worse.
        let better = (0..20)
            .map(|halvings| weights - step * 0.5_f64.powi(halvings))
            .map(|tried| (objective(rows, &tried, &penalty), tried))
            .find(|(tried, _)| *tried <= loss);
        let Some((new_loss, new_weights)) = better else {
            break;
        };
        converged = loss - new_loss <= 1e-10 * loss.abs();
        (loss, weights) = (new_loss, new_weights);
        if converged {
            break;
        }
    }
    // Six decimals survive any printing of the model unchanged.
    (weights.map(|weight| (weight * 1e6).round() / 1e6).into(), converged)
}

/// Each feature's penalty: its variance, so that the scale of a feature does not matter, and a little for
/// features that do not vary.
fn penalty(rows: &[Row]) -> SVector<f64, N> {
    let total: f64 = rows.iter().map(|row| row.weight).sum::<f64>().max(1.0);
    SVector::from_fn(|feature, _| {
        let moment = |power: i32| -> f64 {
            let sum: f64 = rows.iter().map(|row| row.weight * row.features[feature].powi(power)).sum();
            sum / total
        };
        (moment(2) - moment(1).powi(2)).max(1e-6)
    })
}

/// ln(1 + e^z) without overflow.
fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

/// The negative penalised log-likelihood.
fn objective(rows: &[Row], weights: &SVector<f64, N>, penalty: &SVector<f64, N>) -> f64 {
    let weights_array: Features = (*weights).into();
    let pieces: Vec<f64> = rows
        .par_chunks(ROWS)
        .map(|rows| {
            rows.iter()
                .map(|row| {
                    let z = weigh(&weights_array, &row.features);
                    row.weight * softplus(if row.hit { -z } else { z })
                })
                .sum()
        })
        .collect();
    let distance = weights - SVector::from(PRIOR);
    pieces.into_iter().sum::<f64>() + 0.5 * distance.component_mul(&distance).dot(penalty)
}

fn derivatives(
    rows: &[Row],
    weights: &SVector<f64, N>,
    penalty: &SVector<f64, N>,
) -> (SVector<f64, N>, SMatrix<f64, N, N>) {
    let weights_array: Features = (*weights).into();
    let pieces: Vec<(SVector<f64, N>, SMatrix<f64, N, N>)> = rows
        .par_chunks(ROWS)
        .map(|rows| {
            let mut gradient = [0.0; N];
            let mut hessian = [[0.0; N]; N];
            for row in rows {
                let z = weigh(&weights_array, &row.features);
                let p = 1.0 / (1.0 + (-z).exp());
                let error = row.weight * (p - f64::from(u8::from(row.hit)));
                let curvature = row.weight * p * (1.0 - p);
                for (a, &fa) in row.features.iter().enumerate() {
                    gradient[a] += error * fa;
                    for (sum, &fb) in hessian[a].iter_mut().zip(&row.features[..=a]) {
                        *sum += curvature * fa * fb;
                    }
                }
            }
            // Cholesky reads the lower triangle only.
            let hessian = SMatrix::from_fn(|row, column| hessian[row][column]);
            (SVector::from(gradient), hessian)
        })
        .collect();
    let distance = weights - SVector::from(PRIOR);
    let start = (distance.component_mul(penalty), SMatrix::from_diagonal(penalty));
    pieces.into_iter().fold(start, |sum, piece| (sum.0 + piece.0, sum.1 + piece.1))
}
