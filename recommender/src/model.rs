//! A trained model and the questions it answers.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::catalogue::Catalogue;
use crate::ids::Ids;
use crate::interactions::Pair;
use crate::metrics::Metrics;
use crate::options::{RepeatPolicy, TrainOptions};
use crate::reasons::{self, Reason};
use crate::scorers::{Customer, Features, Scorer, weigh};
use crate::top_k::top_k;

/// A customer's dealings with one item.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryItem {
    /// The item's id.
    pub item: String,
    /// The number of baskets that held it. Items with none (only looked at, say) are passed over.
    pub purchases: f64,
    /// The sum of the interactions' weights; the same as `purchases` where the data has no weights.
    pub weight: f64,
    /// The last purchase, µs since the epoch; without it the purchase counts as one of today.
    pub last_at: Option<i64>,
}

/// What is asked for.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// How many items. The answer is shorter only if fewer are left after `exclude`, `filter` and `repeat`.
    pub k: usize,
    /// Ids that must not be in the answer.
    pub exclude: &'a [String],
    /// Says for an item's id whether it may be in the answer (category, stock, a candidate list).
    pub filter: Option<&'a dyn Fn(&str) -> bool>,
    /// Whether items of the history may be in the answer.
    pub repeat: RepeatPolicy,
    /// Whether to give reasons.
    pub explain: bool,
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self { k: 10, exclude: &[], filter: None, repeat: RepeatPolicy::Allow, explain: false }
    }
}

/// A recommended item.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recommendation {
    /// The item's id.
    pub item: String,
    /// Higher is better; comparable within one answer only.
    pub score: f64,
    /// The strongest first; empty unless asked for.
    pub reasons: Vec<Reason>,
}

/// What a model says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Version of the file format.
    pub format_version: u32,
    /// What it was trained with.
    pub parameters: TrainOptions,
    /// Names the data it was trained on, as the caller gave it.
    pub watermark: String,
    /// Users in the training data.
    pub users: usize,
    /// Items in the training data.
    pub items: usize,
    /// Items that have factors.
    pub items_with_factors: usize,
    /// Distinct user-item pairs in the training data.
    pub pairs: usize,
    /// The newest interaction, µs since the epoch.
    pub last_at: Option<i64>,
    /// The scorer in use: the one with the best NDCG@10 on the held-out baskets.
    pub scorer: Scorer,
    /// The blend's weights by feature.
    pub blend: BTreeMap<String, f64>,
    /// Each scorer's metrics on the baskets held out of the training data. The blend's few weights were
    /// fitted on the same baskets, so [`crate::evaluate()`] is the fair measure.
    pub validation: BTreeMap<String, Metrics>,
    /// What a reader of the metrics should know.
    pub notes: Vec<String>,
}

/// A trained recommender. Holds items only, nothing of any customer: a customer's history comes with the
/// question, so the newest purchase always counts.
#[derive(Debug, Clone)]
pub struct Model {
    pub(crate) catalogue: Catalogue,
    pub(crate) weights: Features,
    pub(crate) info: ModelInfo,
}

/// A history sorted into items the model knows and items it does not.
struct Known {
    pairs: Vec<Pair>,
    unknown: Vec<(String, Pair)>,
}

impl Model {
    /// The item ids, in order.
    pub fn items(&self) -> &[String] {
        self.catalogue.items.names()
    }

    /// What the model says about itself.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Whether a history says nothing, so that `recommend` answers with what is popular.
    pub fn is_fallback(&self, history: &[HistoryItem]) -> bool {
        history.iter().all(|item| purchases(item).is_none())
    }

    /// The best items for a customer with this history at the time `now` (µs since the epoch).
    ///
    /// The customer's factors are solved from the history as it is given. Items of the history that the
    /// model does not know can be recommended too. A history without purchases gets popular items.
    pub fn recommend(&self, history: &[HistoryItem], now: i64, request: &Request<'_>) -> Vec<Recommendation> {
        let known = self.known(history);
        let (factors, cholesky) = self.catalogue.fold_in(&known.pairs);
        let als = self.catalogue.als_scores(&[factors.as_slice()]).pop().unwrap_or_default();
        let mut all_pairs = known.pairs.clone();
        all_pairs.extend(known.unknown.iter().map(|(_, pair)| *pair));
        let customer = Customer::with_als(&known.pairs, &all_pairs, Some(now), als);
        let scorer = match all_pairs.is_empty() {
            true => Scorer::Popularity,
            false => self.info.scorer,
        };
        let mut scores = customer.scores(&self.catalogue, scorer, &self.weights);
        scores.extend(known.unknown.iter().map(|(_, pair)| match scorer {
            Scorer::Blend => weigh(&self.weights, &customer.bought_features(pair, 0.0, 0.0, 0.0)),
            _ => 0.0,
        }));

        let excluded: HashSet<&str> = request.exclude.iter().map(String::as_str).collect();
        let id = |index: usize| -> &str {
            match index.checked_sub(self.catalogue.len()) {
                None => &self.items()[index],
                Some(unknown) => &known.unknown[unknown].0,
            }
        };
        let bought = |index: usize| index >= self.catalogue.len() || customer.pair_of(index as u32).is_some();
        let best = top_k(&scores, request.k, |index| {
            !(excluded.contains(id(index)) || request.repeat == RepeatPolicy::Exclude && bought(index))
                && request.filter.is_none_or(|filter| filter(id(index)))
        });
        best.into_iter()
            .map(|(index, score)| Recommendation {
                item: id(index).to_owned(),
                score,
                reasons: match (request.explain, index.checked_sub(self.catalogue.len())) {
                    (false, _) => Vec::new(),
                    (true, None) => reasons::of_item(&self.catalogue, &customer, cholesky.as_ref(), index),
                    (true, Some(unknown)) => {
                        vec![Reason::bought(&known.unknown[unknown].1, Some(now))]
                    }
                },
            })
            .collect()
    }

    /// Items that the same customers buy, by the cosine of the factors; items without factors come last, by
    /// popularity. `None` if the model does not know the item.
    pub fn similar(
        &self,
        item: &str,
        k: usize,
        filter: Option<&dyn Fn(&str) -> bool>,
    ) -> Option<Vec<Recommendation>> {
        let item = self.catalogue.items.get(item)? as usize;
        let most = self.most_purchases() + 1.0;
        let score = |other: usize| {
            // Below every cosine: from -2 for what nobody buys to nearly -1 for what most buy.
            let popularity = f64::from(self.catalogue.purchases[other]) / most - 2.0;
            self.catalogue.cosine(item, other).unwrap_or(popularity)
        };
        let scores: Vec<f64> = (0..self.catalogue.len()).map(score).collect();
        let best = top_k(&scores, k, |other| {
            other != item && filter.is_none_or(|filter| filter(&self.items()[other]))
        });
        Some(self.without_reasons(best))
    }

    fn most_purchases(&self) -> f64 {
        let most = self.catalogue.purchases.iter().copied().fold(0.0, f32::max);
        f64::from(most)
    }

    fn without_reasons(&self, best: Vec<(usize, f64)>) -> Vec<Recommendation> {
        best.into_iter()
            .map(|(item, score)| Recommendation {
                item: self.items()[item].clone(),
                score,
                reasons: Vec::new(),
            })
            .collect()
    }

    /// One pair an item, known ones by index; doubles are added up, items without purchases left out.
    fn known(&self, history: &[HistoryItem]) -> Known {
        let mut by_id: BTreeMap<&str, Pair> = BTreeMap::new();
        for item in history {
            let Some((purchases, weight)) = purchases(item) else {
                continue;
            };
            let pair = by_id.entry(&item.item).or_insert(Pair {
                item: u32::MAX,
                purchases: 0.0,
                weight: 0.0,
                last_at: None,
            });
            pair.purchases += purchases;
            pair.weight += weight;
            pair.last_at = pair.last_at.max(item.last_at);
        }
        let items: &Ids = &self.catalogue.items;
        let mut known = Known { pairs: Vec::new(), unknown: Vec::new() };
        for (id, pair) in by_id {
            match items.get(id) {
                Some(item) => known.pairs.push(Pair { item, ..pair }),
                None => known.unknown.push((id.to_owned(), pair)),
            }
        }
        known.pairs.sort_unstable_by_key(|pair| pair.item);
        known
    }
}

/// Purchases and weight of an item that was bought.
fn purchases(item: &HistoryItem) -> Option<(f64, f64)> {
    let positive = |value: f64| value.is_finite() && value > 0.0;
    positive(item.purchases).then(|| match positive(item.weight) {
        true => (item.purchases, item.weight),
        false => (item.purchases, item.purchases),
    })
}
