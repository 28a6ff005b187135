//! L2-regularised logistic regression by Newton's method (iteratively reweighted least squares: Hastie, Tibshirani,
//! Friedman, "The Elements of Statistical Learning", 4.4.1) with step halving.
//!
//! The problem is small (tens of features) and strictly convex, so exact Newton steps reach the one optimum to
//! machine precision in about ten passes, or say that they did not.

use nalgebra::{Cholesky, DMatrix, DVector};

use crate::{Error, Result};

const MAX_ITERATIONS: usize = 100;

/// 1 / (1 + e^-z)
pub(crate) fn sigmoid(z: f64) -> f64 {
    if z >= 0.0 {
        1.0 / (1.0 + (-z).exp())
    } else {
        let e = z.exp();
        e / (1.0 + e)
    }
}

/// Minimises Σ log-loss + l2/2·‖w‖² over weights and a free intercept, which is the last of the returned values.
/// `x` holds rows × `width` numbers, row by row; `l2` > 0 makes the optimum unique.
pub(crate) fn fit(x: &[f64], y: &[bool], width: usize, l2: f64) -> Result<Vec<f64>> {
    let positives = y.iter().filter(|&&y| y).count();
    if positives == 0 || positives == y.len() {
        return Err(Error::SingleClass { rows: y.len() });
    }
    let mut w = DVector::zeros(width + 1);
    w[width] = (positives as f64 / (y.len() - positives) as f64).ln();
    let mut loss = objective(x, y, l2, &w);
    for _ in 0..MAX_ITERATIONS {
        let (gradient, hessian) = derivatives(x, y, l2, &w);
        let Some(factor) = Cholesky::new(hessian) else { break };
        let step = factor.solve(&gradient);
        // Half of it is how far the quadratic model still goes down. Well before rounding hides that, the last step
        // lands on the optimum, because the error is squared by each.
        let decrement = gradient.dot(&step);
        if decrement <= 1e-10 * (1.0 + loss) {
            return Ok((w - step).as_slice().to_vec());
        }
        let halved = (0..40).map(|halvings| 0.5_f64.powi(halvings)).find_map(|length| {
            let next = &w - &step * length;
            let next_loss = objective(x, y, l2, &next);
            (next_loss <= loss - 1e-4 * length * decrement).then_some((next, next_loss))
        });
        let Some((next, next_loss)) = halved else { break };
        (w, loss) = (next, next_loss);
    }
    Err(Error::NotConverged)
}

pub(crate) fn score(row: &[f64], w: &[f64]) -> f64 {
    row.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() + w[row.len()]
}

fn objective(x: &[f64], y: &[bool], l2: f64, w: &DVector<f64>) -> f64 {
    let width = w.len() - 1;
    let penalty = 0.5 * l2 * w.rows(0, width).norm_squared();
    let rows = x.chunks_exact(width).zip(y);
    rows.map(|(row, &y)| log_loss(score(row, w.as_slice()), y)).sum::<f64>() + penalty
}

/// -ln of the probability given to what happened, from the log-odds.
fn log_loss(z: f64, y: bool) -> f64 {
    let wrong = if y { -z } else { z };
    wrong.max(0.0) + (-wrong.abs()).exp().ln_1p()
}

/// Plain loops rather than a matrix product: the order of additions is then ours, not the processor's.
fn derivatives(x: &[f64], y: &[bool], l2: f64, w: &DVector<f64>) -> (DVector<f64>, DMatrix<f64>) {
    let width = w.len() - 1;
    let mut gradient = w * l2;
    gradient[width] = 0.0;
    let mut hessian = DMatrix::identity(width + 1, width + 1) * l2;
    hessian[(width, width)] = 0.0;
    let mut row = vec![1.0; width + 1];
    for (values, &y) in x.chunks_exact(width).zip(y) {
        row[..width].copy_from_slice(values);
        let p = sigmoid(score(values, w.as_slice()));
        let residual = p - f64::from(u8::from(y));
        let curvature = p * (1.0 - p);
        for (i, &a) in row.iter().enumerate() {
            gradient[i] += residual * a;
            // Cholesky reads the lower triangle only; columns lie in one piece.
            for (h, &b) in hessian.column_mut(i).iter_mut().zip(&row).skip(i) {
                *h += curvature * a * b;
            }
        }
    }
    (gradient, hessian)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_a_telling_feature_the_base_rate_remains() {
        let y = [true, false, false, false];
        let w = fit(&[0.0; 4], &y, 1, 1.0).unwrap();
        assert_eq!(w[0], 0.0);
        assert!((sigmoid(w[1]) - 0.25).abs() < 1e-12);
    }

    /// A 2×2 table has a closed form: the weight is the log odds ratio.
    #[test]
    fn one_binary_feature_gives_the_log_odds_ratio() {
        let counts = [(1.0, true, 30), (1.0, false, 10), (0.0, true, 5), (0.0, false, 20)];
        let rows = || counts.iter().flat_map(|&(x, y, count)| std::iter::repeat_n((x, y), count));
        let x: Vec<f64> = rows().map(|(x, _)| x).collect();
        let y: Vec<bool> = rows().map(|(_, y)| y).collect();
        let w = fit(&x, &y, 1, 1e-9).unwrap();
        assert!((w[0] - (30.0_f64 * 20.0 / (10.0 * 5.0)).ln()).abs() < 1e-6);
        assert!((w[1] - (5.0_f64 / 20.0).ln()).abs() < 1e-6);
    }

    #[test]
    fn the_penalty_keeps_separable_rows_finite_and_shares_between_copies() {
        let x = [-1.0, -1.0, -2.0, -2.0, 1.0, 1.0, 3.0, 3.0];
        let w = fit(&x, &[false, false, true, true], 2, 1e-3).unwrap();
        assert!(w[0] > 1.0 && w[0].is_finite());
        assert!((w[0] - w[1]).abs() < 1e-9);
    }

    #[test]
    fn one_outcome_is_refused() {
        assert!(matches!(fit(&[1.0, 2.0], &[true, true], 1, 1.0), Err(Error::SingleClass { rows: 2 })));
        assert!(matches!(fit(&[], &[], 1, 1.0), Err(Error::SingleClass { rows: 0 })));
    }

    fn rows() -> impl Strategy<Value = (usize, Vec<f64>, Vec<bool>)> {
        (1_usize..5, 2_usize..40).prop_flat_map(|(width, rows)| {
            let x = prop::collection::vec(-1e3_f64..1e3, width * rows);
            (Just(width), x, prop::collection::vec(any::<bool>(), rows))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// The optimum of a strictly convex function is where its gradient vanishes, worked out here afresh.
        #[test]
        fn the_gradient_vanishes(
            (width, x, mut y) in rows(),
            l2 in prop::sample::select(vec![1e-3, 1.0, 10.0, 1e4]),
        ) {
            (y[0], y[1]) = (false, true);
            let w = fit(&x, &y, width, l2).unwrap();
            let residuals: Vec<f64> = x
                .chunks(width)
                .zip(&y)
                .map(|(row, &y)| sigmoid(score(row, &w)) - f64::from(u8::from(y)))
                .collect();
            prop_assert!(residuals.iter().sum::<f64>().abs() < 1e-4);
            for column in 0..width {
                let slope: f64 = x.chunks(width).zip(&residuals).map(|(row, r)| row[column] * r).sum();
                prop_assert!((slope + l2 * w[column]).abs() < 1e-2 * (1.0 + l2), "column {column}: {slope}");
            }
        }
    }
}
