//! Customers whose true churn probability is known: what a trained model is measured by.

use lakeward_propensity::{Table, Window};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub const DAY: i64 = 86_400_000_000;
pub const NAMES: [&str; 3] = ["recency_days", "orders_30d", "shoe_size"];

/// Log-odds of churn: days since the last order raise it, orders lower it, shoe size says nothing.
pub fn true_log_odds(row: &[f64]) -> f64 {
    1.5 * row[0].ln_1p() - 1.0 * row[1].ln_1p() - 3.0
}

pub fn rows(customers: usize, seed: u64) -> (Vec<f64>, Vec<bool>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut values = Vec::new();
    let mut churned = Vec::new();
    for _ in 0..customers {
        let row = [
            rng.random_range(0.0..5.0_f64).exp_m1(),
            f64::from(rng.random_range(0..12_u32)),
            rng.random_range(35.0..47.0_f64).round(),
        ];
        churned.push(rng.random_bool(1.0 / (1.0 + (-true_log_odds(&row)).exp())));
        values.extend(row);
    }
    (values, churned)
}

pub fn names() -> Vec<String> {
    NAMES.map(String::from).to_vec()
}

pub fn window(day: i64, customers: usize, seed: u64) -> Window {
    let (values, churned) = rows(customers, seed);
    Window::new(day * DAY, &Table::new(names(), values, customers).unwrap(), &churned).unwrap()
}

/// A year of windows, one every 30 days, up to `last`.
pub fn history(last: i64, customers: usize) -> Vec<Window> {
    (0..4).map(|back| window(last - 30 * back, customers, back as u64)).collect()
}
