//! What there is to find: a few latent archetypes, each a distribution over all products.
//!
//! P(product | customer) = Σ over archetypes of share × P(product | archetype): a non-negative matrix of low rank.
//! P(product | archetype) ∝ archetype's weight of the category × Zipf weight of the product's rank within its category
//! × archetype's liking of the product (log-normal).

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Draw, normal, pick, stream};

pub(crate) const ARCHETYPES: usize = 6;
/// Exponent of popularity by rank within a category.
pub(crate) const ZIPF: f64 = 0.9;
/// Standard deviations of the logarithms.
const CATEGORY_SPREAD: f64 = 1.3;
const PRODUCT_SPREAD: f64 = 0.8;

pub(crate) struct Tastes {
    /// One cumulative distribution over product indices for each archetype.
    cumulative: Vec<Vec<f32>>,
}

impl Tastes {
    /// `categories[i]` is product i's category.
    pub(crate) fn new(seed: u64, categories: &[u32]) -> Self {
        let category_count = categories.iter().max().map_or(0, |last| *last as usize + 1);
        let popularity = zipf_weights(seed, categories, category_count);
        let cumulative = (0..ARCHETYPES)
            .map(|archetype| {
                let mut rng = stream(seed, Draw::Affinities, archetype as u64);
                let category_weights: Vec<f64> =
                    (0..category_count).map(|_| (CATEGORY_SPREAD * normal(&mut rng)).exp()).collect();
                let mut sum = 0.0;
                categories
                    .iter()
                    .zip(&popularity)
                    .map(|(category, popularity)| {
                        let liking = (PRODUCT_SPREAD * normal(&mut rng)).exp();
                        sum += category_weights[*category as usize] * popularity * liking;
                        sum as f32
                    })
                    .collect()
            })
            .collect();
        Self { cumulative }
    }

    /// A product index after the taste of a customer whose cumulative shares of the archetypes these are.
    pub(crate) fn choose(&self, rng: &mut ChaCha8Rng, shares: &[f32]) -> usize {
        let archetype = pick(rng, shares);
        pick(rng, &self.cumulative[archetype])
    }
}

/// Weight of each product: 1/rank^[`ZIPF`] over the sum in its category, ranks shuffled.
fn zipf_weights(seed: u64, categories: &[u32], category_count: usize) -> Vec<f64> {
    let mut members = vec![Vec::new(); category_count];
    for (product, category) in categories.iter().enumerate() {
        members[*category as usize].push(product);
    }
    let mut weights = vec![0.0; categories.len()];
    for (category, mut products) in members.into_iter().enumerate() {
        products.shuffle(&mut stream(seed, Draw::Ranks, category as u64));
        let total: f64 = (1..=products.len()).map(|rank| (rank as f64).powf(-ZIPF)).sum();
        for (index, product) in products.into_iter().enumerate() {
            weights[product] = (index as f64 + 1.0).powf(-ZIPF) / total;
        }
    }
    weights
}
