//! Implicit alternating least squares (Hu, Koren & Volinsky 2008; objective and regularisation of Rendle,
//! Krichene, Zhang & Koren 2021, "Revisiting the Performance of iALS"):
//!
//! Σ_observed c (x·y − 1)² + a0 Σ_all (x·y)² + Σ reg_u ‖x_u‖² + Σ reg_i ‖y_i‖²,
//! with reg_u = reg (n_u + a0 · items)^nu, n_u the entries of the row, and the same for items.
//!
//! Each row is solved exactly: (a0 YᵀY + Σ c y yᵀ + reg_u I) x = Σ c y, by Cholesky in f64.
//! A row depends on nothing but the opposite side, and sums run in a fixed order, so the result does not
//! depend on the number of threads.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Rows gathered at a time when a row's matrix is put together.
const GATHER: usize = 256;
/// Rows summed in one piece of a Gramian.
const GRAM_ROWS: usize = 1024;

/// What the objective needs besides data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Objective {
    pub(crate) regularization: f64,
    pub(crate) unobserved_weight: f64,
    pub(crate) frequency_exponent: f64,
}

impl Objective {
    /// The regularisation of a row with `entries` entries, where the opposite side has `opposite` rows.
    fn row_regularization(&self, entries: usize, opposite: usize) -> f64 {
        let frequency = entries as f64 + self.unobserved_weight * opposite as f64;
        self.regularization * frequency.powf(self.frequency_exponent)
    }
}

/// Confidence in an interaction: it grows with the logarithm of its weight; a single purchase has 1.
pub(crate) fn confidence(weight: f64) -> f64 {
    (1.0 + weight).log2()
}

/// A sparse matrix of confidences by rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Csr {
    offsets: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f64>,
    column_count: usize,
}

impl Csr {
    pub(crate) fn new<R>(rows: impl Iterator<Item = R>, column_count: usize) -> Self
    where
        R: IntoIterator<Item = (u32, f64)>,
    {
        let mut csr = Self { offsets: vec![0], column_count, ..Self::default() };
        for row in rows {
            for (column, value) in row {
                csr.columns.push(column);
                csr.values.push(value);
            }
            csr.offsets.push(csr.columns.len());
        }
        csr
    }

    pub(crate) fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(crate) fn row(&self, row: usize) -> (&[u32], &[f64]) {
        let range = self.offsets[row]..self.offsets[row + 1];
        (&self.columns[range.clone()], &self.values[range])
    }

    pub(crate) fn transpose(&self) -> Self {
        let mut offsets = vec![0; self.column_count + 1];
        for &column in &self.columns {
            offsets[column as usize + 1] += 1;
        }
        for column in 0..self.column_count {
            offsets[column + 1] += offsets[column];
        }
        let mut next = offsets.clone();
        let mut columns = vec![0; self.columns.len()];
        let mut values = vec![0.0; self.values.len()];
        for row in 0..self.rows() {
            let (row_columns, row_values) = self.row(row);
            for (&column, &value) in row_columns.iter().zip(row_values) {
                let place = &mut next[column as usize];
                columns[*place] = row as u32;
                values[*place] = value;
                *place += 1;
            }
        }
        Self { offsets, columns, values, column_count: self.rows() }
    }
}

/// Factor vectors, one row each.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Factors {
    pub(crate) dims: usize,
    pub(crate) values: Vec<f64>,
}

impl Factors {
    /// Draws from N(0, (stddev / √dims)²).
    fn random(rows: usize, dims: usize, stddev: f64, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let scale = stddev / (dims as f64).sqrt();
        // Box and Muller's transform: two uniform draws make two normal ones.
        let values = (0..(rows * dims).div_ceil(2))
            .flat_map(|_| {
                let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt() * scale;
                let angle = std::f64::consts::TAU * rng.random::<f64>();
                [radius * angle.cos(), radius * angle.sin()]
            })
            .take(rows * dims)
            .collect();
        Self { dims, values }
    }

    pub(crate) fn rows(&self) -> usize {
        self.values.len().checked_div(self.dims).unwrap_or(0)
    }

    pub(crate) fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.dims..(row + 1) * self.dims]
    }

    /// Rounds to what a model file holds.
    pub(crate) fn round_to_single(&mut self) {
        for value in &mut self.values {
            *value = f64::from(*value as f32);
        }
    }

    /// YᵀY, its pieces summed in order.
    fn gram(&self) -> DMatrix<f64> {
        let dims = self.dims;
        let pieces: Vec<DMatrix<f64>> = self
            .values
            .par_chunks(GRAM_ROWS * dims)
            .map(|piece| {
                let mut gram = DMatrix::zeros(dims, dims);
                add_squares(&mut gram, piece, dims);
                gram
            })
            .collect();
        pieces.into_iter().fold(DMatrix::zeros(dims, dims), |sum, piece| sum + piece)
    }
}

/// Adds Σ r rᵀ over the rows of a row-major matrix (a rank-k update by one matrix product). nalgebra's own
/// product would need a transposed copy: with a transposed view, version 0.35 reads out of bounds.
fn add_squares(sum: &mut DMatrix<f64>, rows: &[f64], dims: usize) {
    assert!(sum.shape() == (dims, dims) && rows.len().is_multiple_of(dims), "shapes do not fit");
    let count = rows.len() / dims;
    let stride = dims as isize;
    // SAFETY: the left factor is `rows` seen as dims × count with strides (1, dims), the right one the same
    // seen as count × dims with strides (dims, 1): both stay within its count · dims values. The sum is
    // dims × dims by columns, so strides (1, dims) stay within it, and it does not overlap `rows`.
    unsafe {
        matrixmultiply::dgemm(
            dims,
            count,
            dims,
            1.0,
            rows.as_ptr(),
            1,
            stride,
            rows.as_ptr(),
            stride,
            1,
            1.0,
            sum.as_mut_ptr(),
            1,
            stride,
        );
    }
}

/// Solves rows of one side, given the other.
pub(crate) struct RowSolver<'a> {
    opposite: &'a Factors,
    weighted_gram: DMatrix<f64>,
    objective: Objective,
}

impl<'a> RowSolver<'a> {
    pub(crate) fn new(opposite: &'a Factors, objective: Objective) -> Self {
        let weighted_gram = weighted_gram(opposite, &objective);
        Self { opposite, weighted_gram, objective }
    }

    fn solve(&self, columns: &[u32], values: &[f64], scratch: &mut Vec<f64>) -> DVector<f64> {
        solve_row(self.opposite, &self.weighted_gram, &self.objective, columns, values, scratch).0
    }

    /// One half-sweep: all rows of `entries`.
    pub(crate) fn sweep(&self, entries: &Csr) -> Factors {
        let dims = self.opposite.dims;
        let mut values = vec![0.0; entries.rows() * dims];
        values.par_chunks_mut(dims).enumerate().with_min_len(16).for_each_init(
            Vec::new,
            |scratch, (row, out)| {
                let (columns, values) = entries.row(row);
                let solution = self.solve(columns, values, scratch);
                out.copy_from_slice(solution.as_slice());
            },
        );
        Factors { dims, values }
    }
}

/// a0 YᵀY.
pub(crate) fn weighted_gram(factors: &Factors, objective: &Objective) -> DMatrix<f64> {
    factors.gram() * objective.unobserved_weight
}

/// A row's factors and the Cholesky decomposition of its matrix (`None` if the row is empty).
pub(crate) type RowSolution = (DVector<f64>, Option<Cholesky<f64, Dyn>>);

/// Solves one row exactly; `scratch` is memory to use again. The matrix is positive definite because every row's regularisation is positive;
/// if rounding of extreme confidences makes it fail all the same, the row is zero, which scores nothing.
pub(crate) fn solve_row(
    opposite: &Factors,
    weighted_gram: &DMatrix<f64>,
    objective: &Objective,
    columns: &[u32],
    values: &[f64],
    scratch: &mut Vec<f64>,
) -> RowSolution {
    let dims = opposite.dims;
    let mut right = DVector::zeros(dims);
    if columns.is_empty() {
        return (right, None);
    }
    let mut matrix = weighted_gram.clone();
    for (columns, values) in columns.chunks(GATHER).zip(values.chunks(GATHER)) {
        scratch.clear();
        for (&column, &value) in columns.iter().zip(values) {
            let start = scratch.len();
            scratch.extend_from_slice(opposite.row(column as usize));
            let root = value.sqrt();
            for (factor, sum) in scratch[start..].iter_mut().zip(right.as_mut_slice()) {
                *sum += value * *factor;
                *factor *= root;
            }
        }
        add_squares(&mut matrix, scratch, dims);
    }
    let regularization = objective.row_regularization(columns.len(), opposite.rows());
    for place in 0..dims {
        matrix[(place, place)] += regularization;
    }
    match Cholesky::new(matrix) {
        Some(cholesky) => {
            cholesky.solve_mut(&mut right);
            (right, Some(cholesky))
        }
        None => (DVector::zeros(dims), None),
    }
}

/// Both sides' factors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Factorization {
    pub(crate) users: Factors,
    pub(crate) items: Factors,
}

/// How to start and how long to go on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    pub(crate) dims: usize,
    pub(crate) iterations: usize,
    pub(crate) init_stddev: f64,
    pub(crate) seed: u64,
}

/// Factorises users × items; `after_sweep` is called once an iteration.
pub(crate) fn factorize(
    by_user: &Csr,
    objective: Objective,
    schedule: Schedule,
    mut after_sweep: impl FnMut(&Factorization),
) -> Factorization {
    let by_item = by_user.transpose();
    let items = Factors::random(by_item.rows(), schedule.dims, schedule.init_stddev, schedule.seed);
    let mut result = Factorization {
        users: Factors { dims: schedule.dims, values: vec![0.0; by_user.rows() * schedule.dims] },
        items,
    };
    for _ in 0..schedule.iterations {
        result.users = RowSolver::new(&result.items, objective).sweep(by_user);
        result.items = RowSolver::new(&result.users, objective).sweep(&by_item);
        after_sweep(&result);
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OBJECTIVE: Objective =
        Objective { regularization: 0.05, unobserved_weight: 0.2, frequency_exponent: 0.7 };

    fn matrix() -> impl Strategy<Value = Csr> {
        (2_usize..9, 7_usize..20).prop_flat_map(|(rows, columns)| {
            let row = prop::collection::btree_map(0..columns as u32, 0.1_f64..9.0, 0..columns);
            prop::collection::vec(row, rows).prop_map(move |rows| Csr::new(rows.into_iter(), columns))
        })
    }

    /// The objective, term by term over the dense matrix.
    fn loss(by_user: &Csr, factors: &Factorization, objective: &Objective) -> f64 {
        let dot = |user: usize, item: usize| -> f64 {
            let (x, y) = (factors.users.row(user), factors.items.row(item));
            x.iter().zip(y).map(|(x, y)| x * y).sum()
        };
        let norm = |row: &[f64]| -> f64 { row.iter().map(|v| v.powi(2)).sum() };
        let (users, items) = (by_user.rows(), by_user.column_count);
        let mut loss = 0.0;
        for user in 0..users {
            let (columns, values) = by_user.row(user);
            for item in 0..items {
                loss += objective.unobserved_weight * dot(user, item).powi(2);
            }
            for (&item, &value) in columns.iter().zip(values) {
                loss += value * (dot(user, item as usize) - 1.0).powi(2);
            }
            loss += objective.row_regularization(columns.len(), items) * norm(factors.users.row(user));
        }
        let by_item = by_user.transpose();
        for item in 0..items {
            let entries = by_item.row(item).0.len();
            loss += objective.row_regularization(entries, users) * norm(factors.items.row(item));
        }
        loss
    }

    fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a thread pool starts").install(work)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn half_sweep_is_the_dense_solution(entries in matrix(), dims in 1_usize..9, seed: u64) {
            let items = Factors::random(entries.column_count, dims, 1.0, seed);
            let swept = RowSolver::new(&items, OBJECTIVE).sweep(&entries);
            let y = DMatrix::from_row_iterator(
                items.rows(), dims, items.values.iter().copied());
            for user in 0..entries.rows() {
                // The dense form: Yᵀ (a0 I + C) Y + reg I, with C and the targets over all items.
                let (columns, values) = entries.row(user);
                let mut confidences = DVector::zeros(items.rows());
                for (&column, &value) in columns.iter().zip(values) {
                    confidences[column as usize] = value;
                }
                let reg = OBJECTIVE.row_regularization(columns.len(), items.rows());
                let weights = confidences.add_scalar(OBJECTIVE.unobserved_weight);
                let left = y.transpose() * DMatrix::from_diagonal(&weights) * &y
                    + DMatrix::identity(dims, dims) * reg;
                let x = left.lu().solve(&(y.transpose() * confidences)).expect("invertible");
                for (got, want) in swept.row(user).iter().zip(x.iter()) {
                    prop_assert!((got - want).abs() <= 1e-8 * (1.0 + want.abs()));
                }
            }
        }

        #[test]
        fn loss_never_rises(entries in matrix(), dims in 1_usize..7, seed: u64) {
            let mut losses = Vec::new();
            let schedule = Schedule { dims, iterations: 6, init_stddev: 0.5, seed };
            factorize(&entries, OBJECTIVE, schedule, |now| losses.push(loss(&entries, now, &OBJECTIVE)));
            for pair in losses.windows(2) {
                prop_assert!(pair[1] <= pair[0] * (1.0 + 1e-12), "{losses:?}");
            }
        }

        #[test]
        fn transpose_twice_is_the_same(entries in matrix()) {
            prop_assert_eq!(entries.transpose().transpose(), entries);
        }

        #[test]
        fn threads_change_no_bit(entries in matrix(), seed: u64) {
            let schedule = Schedule { dims: 6, iterations: 3, init_stddev: 0.1, seed };
            let run = |threads| on_threads(threads, || factorize(&entries, OBJECTIVE, schedule, |_| ()));
            let one = run(1);
            prop_assert_eq!(&run(2), &one);
            prop_assert_eq!(&run(4), &one);
        }
    }

    #[test]
    fn a_long_row_and_a_large_gramian_are_summed_alike_on_any_thread_count() {
        let columns = 3 * GRAM_ROWS as u32 + 5;
        let rows = (0..40).map(|row| (0..columns).filter(move |c| c % (row + 1) == 0).map(|c| (c, 1.0)));
        let entries = Csr::new(rows, columns as usize);
        let schedule = Schedule { dims: 9, iterations: 2, init_stddev: 0.1, seed: 3 };
        let run = |threads| on_threads(threads, || factorize(&entries, OBJECTIVE, schedule, |_| ()));
        assert_eq!(run(1), run(4));
    }

    #[test]
    fn draws_are_normal() {
        let factors = Factors::random(20_000, 4, 0.6, 7);
        let count = factors.values.len() as f64;
        let mean = factors.values.iter().sum::<f64>() / count;
        let variance = factors.values.iter().map(|v| v.powi(2)).sum::<f64>() / count;
        assert!(mean.abs() < 0.005 && (variance.sqrt() - 0.3).abs() < 0.005);
    }
}
