//! Why an item is recommended.

use std::fmt;

use nalgebra::{Cholesky, DVector, Dyn};
use serde::{Deserialize, Serialize};

use crate::als;
use crate::catalogue::Catalogue;
use crate::interactions::Pair;
use crate::scorers::{Customer, days_between};

/// Why an item is recommended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// The customer bought it before.
    Bought { times: u64, days_ago: Option<u64> },
    /// Customers who buy `item`, as this one does, buy it.
    Because { item: String },
    /// Many baskets held it.
    Popular { purchases: u64 },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bought { times, days_ago } => {
                match times {
                    1 => write!(f, "bought once")?,
                    times => write!(f, "bought {times} times")?,
                }
                match (times, days_ago) {
                    (_, None) => Ok(()),
                    (1, Some(0)) => write!(f, ", today"),
                    (_, Some(0)) => write!(f, ", last today"),
                    (1, Some(1)) => write!(f, ", 1 day ago"),
                    (_, Some(1)) => write!(f, ", last 1 day ago"),
                    (1, Some(days)) => write!(f, ", {days} days ago"),
                    (_, Some(days)) => write!(f, ", last {days} days ago"),
                }
            }
            Self::Because { item } => write!(f, "because you bought {item}"),
            Self::Popular { purchases: 1 } => write!(f, "in 1 order so far"),
            Self::Popular { purchases } => write!(f, "in {purchases} orders so far"),
        }
    }
}

impl Reason {
    pub(crate) fn bought(pair: &Pair, now: Option<i64>) -> Self {
        Self::Bought {
            times: pair.purchases.round().max(1.0) as u64,
            days_ago: days_between(pair.last_at, now).map(|days| days as u64),
        }
    }
}

/// The reasons that hold for an item, the customer's own purchases first. At least one.
pub(crate) fn of_item(
    catalogue: &Catalogue,
    customer: &Customer<'_>,
    cholesky: Option<&Cholesky<f64, Dyn>>,
    item: usize,
) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if let Some(pair) = customer.pair_of(item as u32) {
        reasons.push(Reason::bought(pair, customer.now));
    }
    if let Some(other) = cholesky.and_then(|c| strongest(catalogue, customer, c, item)) {
        reasons.push(Reason::Because { item: catalogue.items.names()[other as usize].clone() });
    }
    if reasons.is_empty() || catalogue.is_popular(item) {
        reasons.push(Reason::Popular { purchases: catalogue.purchases[item] as u64 });
    }
    reasons
}

/// The other item of the history that adds most to this one's ALS score. The score is a sum over the
/// history, Σ c y_otherᵀ A⁻¹ y_item (Hu, Koren & Volinsky 2008, §5), so the share of each is exact.
fn strongest(
    catalogue: &Catalogue,
    customer: &Customer<'_>,
    cholesky: &Cholesky<f64, Dyn>,
    item: usize,
) -> Option<u32> {
    let row = catalogue.factors_of(item)?;
    let mut solved = DVector::from_column_slice(row);
    cholesky.solve_mut(&mut solved);
    let mut best: Option<(f64, u32)> = None;
    for pair in customer.history {
        let other = pair.item;
        if other as usize == item {
            continue;
        }
        if let Some(factors) = catalogue.factors_of(other as usize) {
            let product: f64 = factors.iter().zip(solved.iter()).map(|(a, b)| a * b).sum();
            let share = als::confidence(pair.weight) * product;
            if share > best.map_or(0.0, |(most, _)| most) {
                best = Some((share, other));
            }
        }
    }
    best.map(|(_, other)| other)
}
