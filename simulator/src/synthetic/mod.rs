//! The synthetic shop: latent tastes, repeat cycles, seasons, price changes and drop-out, all drawn from one seed.
//!
//! Every draw comes from a stream of its own, named by what it is for and for whom, so that the result does not
//! depend on the order of work or the number of threads.

mod browse;
mod calendar;
mod catalogue;
mod customer;
mod history;
mod seed;
mod taste;
#[cfg(test)]
mod tests;
mod truth;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) use browse::{Visit, category_code, category_id};
pub(crate) use catalogue::is_consumable;
pub(crate) use customer::{Identity, Staple, Taste};
pub(crate) use history::quantity;
pub use seed::{SeedOptions, seed};
pub(crate) use taste::Tastes;

pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const MINUTE: i64 = 60 * SECOND;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// What a stream of random numbers is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Draw {
    Catalogue,
    Prices,
    Ranks,
    Affinities,
    Identity,
    Taste,
    Life,
    Orders,
    Browsing,
    Live,
}

/// The stream of `seed` for one purpose and one subject (a user, a category, …).
pub(crate) fn stream(seed: u64, purpose: Draw, subject: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((subject << 4) | purpose as u64);
    rng
}

/// Standard normal, by Box and Muller.
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Exponential with the given mean.
pub(crate) fn exponential(rng: &mut ChaCha8Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.random::<f64>()).ln()
}

/// An index drawn from cumulative weights, which need not end at 1.
pub(crate) fn pick(rng: &mut ChaCha8Rng, cumulative: &[f32]) -> usize {
    let total = cumulative.last().copied().unwrap_or(0.0);
    let point = rng.random::<f32>() * total;
    cumulative.partition_point(|weight| *weight <= point).min(cumulative.len() - 1)
}
