//! Scores of all items for one customer, by each scorer.

use serde::{Deserialize, Serialize};

use crate::catalogue::{Catalogue, MICROS_PER_DAY};
use crate::interactions::Pair;

/// Customers scored at once.
pub(crate) const BATCH: usize = 16;

/// A way to score items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scorer {
    /// How many baskets of all customers held the item.
    Popularity,
    /// How many of the customer's own baskets held it.
    Frequency,
    /// The product of the customer's and the item's factors.
    Als,
    /// All of them and recency, weighted as learned.
    Blend,
}

impl Scorer {
    pub(crate) const ALL: [Self; 4] = [Self::Popularity, Self::Frequency, Self::Als, Self::Blend];

    /// The name in reports and model files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Popularity => "popularity",
            Self::Frequency => "frequency",
            Self::Als => "als",
            Self::Blend => "blend",
        }
    }
}

/// The blend's features; all but the first three of a pair are zero for an item not bought before.
pub(crate) const FEATURES: [&str; 10] = [
    "intercept",
    "popularity",
    "recent_popularity",
    "als",
    "bought",
    "bought_times",
    "bought_share",
    "bought_days_ago",
    "bought_als",
    "bought_popularity",
];

/// One value a feature.
pub(crate) type Features = [f64; FEATURES.len()];

/// The blend before it has learned anything: popularity, raised by likeness and own purchases.
pub(crate) const PRIOR: Features = [0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0];

/// A customer's history with what follows from it.
pub(crate) struct Customer<'a> {
    /// By item.
    pub(crate) history: &'a [Pair],
    /// µs since the epoch; `None` where time is unknown.
    pub(crate) now: Option<i64>,
    /// The ALS score of every item.
    pub(crate) als: Vec<f64>,
    purchases: f64,
}

impl<'a> Customer<'a> {
    /// Some customers at once: one matrix product gives the ALS scores of all.
    pub(crate) fn batch(
        catalogue: &Catalogue,
        customers: impl IntoIterator<Item = (&'a [Pair], Option<i64>)>,
    ) -> Vec<Self> {
        let (customers, factors): (Vec<_>, Vec<_>) = customers
            .into_iter()
            .map(|(history, now)| ((history, now), catalogue.fold_in(history).0))
            .unzip();
        let factors: Vec<&[f64]> = factors.iter().map(|factors| factors.as_slice()).collect();
        let als = catalogue.als_scores(&factors);
        customers
            .into_iter()
            .zip(als)
            .map(|((history, now), als)| Self::with_als(history, history, now, als))
            .collect()
    }

    /// `all` is the history with the items that are not in the catalogue.
    pub(crate) fn with_als(history: &'a [Pair], all: &[Pair], now: Option<i64>, als: Vec<f64>) -> Self {
        Self { history, now, als, purchases: all.iter().map(|pair| pair.purchases).sum() }
    }

    pub(crate) fn pair_of(&self, item: u32) -> Option<&Pair> {
        let place = self.history.binary_search_by_key(&item, |pair| pair.item);
        place.ok().map(|place| &self.history[place])
    }

    /// The blend's features of an item that is not in the history.
    pub(crate) fn unseen_features(&self, catalogue: &Catalogue, item: usize) -> Features {
        let mut features = [0.0; FEATURES.len()];
        features[0] = 1.0;
        features[1] = catalogue.log_purchases[item];
        features[2] = catalogue.log_recent[item];
        features[3] = self.als[item];
        features
    }

    /// The blend's features of an item in the history.
    pub(crate) fn seen_features(&self, catalogue: &Catalogue, pair: &Pair) -> Features {
        let item = pair.item as usize;
        self.bought_features(pair, catalogue.log_purchases[item], catalogue.log_recent[item], self.als[item])
    }

    /// The same for an item with the given logarithms of popularity and the given ALS score.
    pub(crate) fn bought_features(
        &self,
        pair: &Pair,
        log_purchases: f64,
        log_recent: f64,
        als: f64,
    ) -> Features {
        let days = days_between(pair.last_at, self.now).unwrap_or_default();
        [
            1.0,
            log_purchases,
            log_recent,
            0.0,
            1.0,
            pair.purchases.ln(),
            (pair.purchases / self.purchases.max(pair.purchases)).ln(),
            days.ln_1p(),
            als,
            log_purchases,
        ]
    }

    /// Scores of all items by index. The blend's are log-odds of being in the next basket.
    pub(crate) fn scores(&self, catalogue: &Catalogue, scorer: Scorer, weights: &Features) -> Vec<f64> {
        match scorer {
            Scorer::Popularity => catalogue.purchases.iter().copied().map(f64::from).collect(),
            Scorer::Frequency => {
                let mut scores = vec![0.0; catalogue.len()];
                for pair in self.history {
                    scores[pair.item as usize] = pair.purchases;
                }
                scores
            }
            Scorer::Als => self.als.clone(),
            Scorer::Blend => {
                // `weigh(unseen_features)` for all items, without the features that are zero.
                let popularity = catalogue.log_purchases.iter().zip(&catalogue.log_recent);
                let mut scores: Vec<f64> = popularity
                    .zip(&self.als)
                    .map(|((purchases, recent), als)| {
                        weights[0] + weights[1] * purchases + weights[2] * recent + weights[3] * als
                    })
                    .collect();
                for pair in self.history {
                    scores[pair.item as usize] = weigh(weights, &self.seen_features(catalogue, pair));
                }
                scores
            }
        }
    }
}

pub(crate) fn weigh(weights: &Features, features: &Features) -> f64 {
    weights.iter().zip(features).map(|(w, f)| w * f).sum()
}

/// Days from `then` to `now`, never negative.
pub(crate) fn days_between(then: Option<i64>, now: Option<i64>) -> Option<f64> {
    Some((now?.saturating_sub(then?) as f64 / MICROS_PER_DAY).max(0.0))
}
