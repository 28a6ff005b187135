//! What is learned about items: how often they are bought, and their factors.

use nalgebra::DMatrix;

use crate::als::{self, Csr, Factors, Objective, RowSolution};
use crate::ids::Ids;
use crate::interactions::{Event, Histories, Pair};
use crate::options::TrainOptions;

pub(crate) const MICROS_PER_DAY: f64 = 86_400e6;

/// Least number of users in a matrix product.
const MIN_WIDTH: usize = 8;
/// This share of the items is called popular.
const POPULAR_SHARE: f64 = 0.01;

/// Items with what was learned about each, by index.
#[derive(Debug, Clone)]
pub(crate) struct Catalogue {
    pub(crate) items: Ids,
    /// Baskets that held the item.
    pub(crate) purchases: Vec<f32>,
    /// The same, each halved for every half-life of its age.
    pub(crate) recent: Vec<f32>,
    /// Row of the item's factors, if it has any.
    pub(crate) factor_rows: Vec<Option<u32>>,
    pub(crate) factors: Factors,
    pub(crate) objective: Objective,
    weighted_gram: DMatrix<f64>,
    /// The factors by columns, which the matrix product reads fastest.
    by_dimension: DMatrix<f64>,
    /// Natural logarithms of 1 + `purchases` and 1 + `recent`.
    pub(crate) log_purchases: Vec<f64>,
    pub(crate) log_recent: Vec<f64>,
    /// From here on `recent` counts as popular.
    popular_from: f32,
    /// Lengths of the factor rows.
    norms: Vec<f64>,
}

impl Catalogue {
    /// Learns from events and the histories made of them.
    pub(crate) fn fit(
        items: &Ids,
        events: &[Event],
        histories: &Histories,
        options: &TrainOptions,
        mut after_sweep: impl FnMut(),
    ) -> Self {
        let count = items.len();
        let newest = events.iter().map(|event| event.at).max().unwrap_or_default();
        let mut purchases = vec![0.0; count];
        let mut recent = vec![0.0; count];
        for event in events {
            let age_days = newest.saturating_sub(event.at) as f64 / MICROS_PER_DAY;
            purchases[event.item as usize] += 1.0;
            recent[event.item as usize] += (-age_days / options.popularity_half_life_days).exp2();
        }

        let mut support = vec![0_usize; count];
        for user in 0..histories.users() {
            for pair in histories.of(user) {
                support[pair.item as usize] += 1;
            }
        }
        let mut rows = 0;
        let factor_rows: Vec<Option<u32>> = support
            .iter()
            .map(|&users| {
                (users >= options.min_support.max(1)).then(|| {
                    rows += 1;
                    rows - 1
                })
            })
            .collect();
        let by_user = Csr::new(
            (0..histories.users()).map(|user| entries(histories.of(user), &factor_rows)),
            rows as usize,
        );
        let objective = options.objective();
        let mut factors = als::factorize(&by_user, objective, options.schedule(), |_| after_sweep()).items;
        factors.round_to_single();
        Self::new(items.clone(), narrow(&purchases), narrow(&recent), factor_rows, factors, objective)
    }

    /// Puts the parts together; `factors` has one row for each `Some` of `factor_rows`.
    pub(crate) fn new(
        items: Ids,
        purchases: Vec<f32>,
        recent: Vec<f32>,
        factor_rows: Vec<Option<u32>>,
        factors: Factors,
        objective: Objective,
    ) -> Self {
        let weighted_gram = als::weighted_gram(&factors, &objective);
        let log = |values: &[f32]| values.iter().map(|&v| f64::from(v).ln_1p()).collect();
        let norms = (0..factors.rows()).map(|row| norm(factors.row(row))).collect();
        Self {
            by_dimension: DMatrix::from_row_slice(factors.rows(), factors.dims, &factors.values),
            log_purchases: log(&purchases),
            log_recent: log(&recent),
            popular_from: popular_from(&recent),
            norms,
            items,
            purchases,
            recent,
            factor_rows,
            factors,
            objective,
            weighted_gram,
        }
    }

    pub(crate) fn is_popular(&self, item: usize) -> bool {
        self.recent[item] >= self.popular_from
    }

    /// The cosine of two items' factors; `None` if one has none, or zero ones.
    pub(crate) fn cosine(&self, a: usize, b: usize) -> Option<f64> {
        let (a, b) = (self.factor_rows[a]? as usize, self.factor_rows[b]? as usize);
        let norms = self.norms[a] * self.norms[b];
        (norms > 0.0).then(|| dot(self.factors.row(a), self.factors.row(b)) / norms)
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn factors_of(&self, item: usize) -> Option<&[f64]> {
        self.factor_rows[item].map(|row| self.factors.row(row as usize))
    }

    /// A user's factors from their history: the same exact solve as in training.
    pub(crate) fn fold_in(&self, history: &[Pair]) -> RowSolution {
        let (columns, values): (Vec<u32>, Vec<f64>) = entries(history, &self.factor_rows).unzip();
        als::solve_row(
            &self.factors,
            &self.weighted_gram,
            &self.objective,
            &columns,
            &values,
            &mut Vec::new(),
        )
    }

    /// x·y of every item with each of some users; 0 for items without factors.
    pub(crate) fn als_scores(&self, users: &[&[f64]]) -> Vec<Vec<f64>> {
        // Fewer columns would go another way through the matrix product and be rounded otherwise.
        let width = users.len().max(MIN_WIDTH);
        let mut right = DMatrix::zeros(self.factors.dims, width);
        for (mut column, user) in right.column_iter_mut().zip(users) {
            column.copy_from_slice(user);
        }
        let products = &self.by_dimension * right;
        let spread = |products: &[f64]| {
            let mut scores = vec![0.0; self.len()];
            for (score, row) in scores.iter_mut().zip(&self.factor_rows) {
                if let Some(row) = row {
                    *score = products[*row as usize];
                }
            }
            scores
        };
        users.iter().zip(products.column_iter()).map(|(_, column)| spread(column.as_slice())).collect()
    }
}

/// The least value among the items that are called popular.
fn popular_from(recent: &[f32]) -> f32 {
    let mut sorted = recent.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let count = (sorted.len() as f64 * POPULAR_SHARE).ceil() as usize;
    sorted.get(count.saturating_sub(1)).copied().unwrap_or_default()
}

/// A history's entries in the matrix that is factorised.
fn entries(history: &[Pair], factor_rows: &[Option<u32>]) -> impl Iterator<Item = (u32, f64)> {
    history
        .iter()
        .filter_map(|pair| factor_rows[pair.item as usize].map(|row| (row, als::confidence(pair.weight))))
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

fn norm(row: &[f64]) -> f64 {
    dot(row, row).sqrt()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::als::RowSolver;

    fn fitted(bought: &[(u32, u32)], dims: usize) -> (Catalogue, Histories) {
        let mut events: Vec<Event> = bought
            .iter()
            .map(|&(user, item)| Event { user, item, basket: item, at: 0, weight: f64::from(item + 1) })
            .collect();
        events.sort_unstable_by_key(|event| (event.user, event.basket));
        let names: Vec<String> = (0..20).map(|item| item.to_string()).collect();
        let items = Ids::new(names.iter().map(String::as_str));
        let histories = Histories::new(&events, 8, false);
        let options =
            TrainOptions { factors: dims, iterations: 2, min_support: 2, ..TrainOptions::default() };
        (Catalogue::fit(&items, &events, &histories, &options, || ()), histories)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn fold_in_is_the_rows_own_solve(
            bought in prop::collection::vec((0_u32..8, 0_u32..20), 1..90),
            dims in 1_usize..9,
        ) {
            let (catalogue, histories) = fitted(&bought, dims);
            let rows = catalogue.factors.rows();
            let by_user = (0..8).map(|user| entries(histories.of(user), &catalogue.factor_rows));
            let swept = RowSolver::new(&catalogue.factors, catalogue.objective)
                .sweep(&Csr::new(by_user, rows));
            for user in 0..8 {
                let folded = catalogue.fold_in(histories.of(user)).0;
                prop_assert_eq!(folded.as_slice(), swept.row(user));
            }
        }

        #[test]
        fn scores_do_not_depend_on_who_else_is_scored(
            bought in prop::collection::vec((0_u32..8, 0_u32..20), 1..90),
            dims in 1_usize..9,
        ) {
            let (catalogue, histories) = fitted(&bought, dims);
            let users: Vec<_> = (0..8).map(|user| catalogue.fold_in(histories.of(user)).0).collect();
            let many: Vec<&[f64]> = users.iter().chain(&users).map(|user| user.as_slice()).collect();
            for (user, scores) in many.iter().zip(catalogue.als_scores(&many)) {
                prop_assert_eq!(&catalogue.als_scores(&[*user])[0], &scores);
                for (item, score) in scores.iter().enumerate() {
                    let want = catalogue.factors_of(item).map_or(0.0, |row| dot(user, row));
                    prop_assert!((score - want).abs() < 1e-12);
                }
            }
        }
    }
}
