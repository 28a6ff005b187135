//! One customer: who they are, what they like, what they buy again and again, when they come and when they leave.

use fake::Fake;
use fake::faker::address::en::{BuildingNumber, CityName, StreetName};
use fake::faker::name::en::Name;
use rand::RngExt;

use super::taste::{ARCHETYPES, Tastes};
use super::{DAY, Draw, exponential, normal, stream};

pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) address: String,
}

impl Identity {
    /// The e-mail address holds the user's number and is unique by that; its domain is reserved and never delivers.
    pub(crate) fn new(seed: u64, user_id: i64) -> Self {
        let mut rng = stream(seed, Draw::Identity, user_id as u64);
        let name: String = Name().fake_with_rng(&mut rng);
        let number: String = BuildingNumber().fake_with_rng(&mut rng);
        let street: String = StreetName().fake_with_rng(&mut rng);
        let city: String = CityName().fake_with_rng(&mut rng);
        let local: String = name
            .split_whitespace()
            .map(|word| word.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase())
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(".");
        Self {
            email: format!("{local}.{user_id}@example.com"),
            name,
            address: format!("{number} {street}, {city}"),
        }
    }
}

/// A product bought again about every `period` microseconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Staple {
    pub(crate) product: usize,
    pub(crate) period: i64,
}

/// What a customer likes; a function of seed and user alone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Taste {
    /// Shares of the archetypes, each of them at least 0, 1 in all.
    pub(crate) shares: [f32; ARCHETYPES],
    pub(crate) staples: Vec<Staple>,
    /// Mean time between orders, microseconds.
    pub(crate) mean_gap: f64,
    /// Mean number of lines an order beyond the staples that are due.
    pub(crate) whims: f64,
}

impl Taste {
    pub(crate) fn new(
        seed: u64,
        user_id: i64,
        tastes: &Tastes,
        is_consumable: &dyn Fn(usize) -> bool,
    ) -> Self {
        let mut rng = stream(seed, Draw::Taste, user_id as u64);
        // Log-normal with a wide spread: most customers have one archetype that dominates.
        let weights: [f64; ARCHETYPES] = std::array::from_fn(|_| (2.0 * normal(&mut rng)).exp());
        let total: f64 = weights.iter().sum();
        let shares = weights.map(|weight| (weight / total) as f32);
        let mean_gap = (12.0 * (0.6 * normal(&mut rng)).exp()).clamp(2.0, 90.0) * DAY as f64;
        let cumulative = cumulative(&shares);
        let wanted = rng.random_range(2..=7);
        let mut staples: Vec<Staple> = Vec::with_capacity(wanted);
        for _ in 0..wanted * 4 {
            let product = tastes.choose(&mut rng, &cumulative);
            if staples.len() < wanted
                && is_consumable(product)
                && staples.iter().all(|s| s.product != product)
            {
                let days = (21.0 * (0.45 * normal(&mut rng)).exp()).clamp(6.0, 70.0);
                staples.push(Staple { product, period: ((days * DAY as f64) as i64).max(mean_gap as i64) });
            }
        }
        Self { shares, staples, mean_gap, whims: 0.6 + exponential(&mut rng, 1.2).min(4.0) }
    }

    pub(crate) fn cumulative_shares(&self) -> [f32; ARCHETYPES] {
        cumulative(&self.shares)
    }
}

fn cumulative(shares: &[f32; ARCHETYPES]) -> [f32; ARCHETYPES] {
    let mut sum = 0.0;
    shares.map(|share| {
        sum += share;
        sum
    })
}

/// From sign-up to drop-out, microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Membership {
    pub(crate) signed_up: i64,
    /// Drawn with a constant hazard of the customer's own; may lie beyond the end of history.
    pub(crate) dropped_out: i64,
}

impl Membership {
    pub(crate) fn new(seed: u64, user_id: i64, start: i64, end: i64) -> Self {
        let mut rng = stream(seed, Draw::Life, user_id as u64);
        let window = end - start;
        // Half were customers before history begins; the others join over time, up to a week before its end.
        let signed_up = if rng.random::<f64>() < 0.5 {
            start - rng.random_range(0..365 * DAY)
        } else {
            start + (rng.random::<f64>() * (window - 7 * DAY).max(DAY) as f64) as i64
        };
        let mean_stay = 420.0 * (0.8 * normal(&mut rng)).exp() * DAY as f64;
        // Those who joined earlier are known to have stayed until history begins.
        let dropped_out = signed_up.max(start) + exponential(&mut rng, mean_stay) as i64 + DAY;
        Self { signed_up, dropped_out }
    }
}
