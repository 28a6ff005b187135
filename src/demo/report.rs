//! What the demo found out, for people and, as its last line, for machines.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

/// What the product promises: a committed order shows within this time.
const PROMISED_FRESHNESS_MS: f64 = 1000.0;

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub shop: String,
    /// Seconds of each step, in order.
    pub steps: Vec<StepTime>,
    pub orders: u64,
    pub order_lines: u64,
    pub recommender: BTreeMap<String, BTreeMap<String, f64>>,
    pub churn: Option<serde_json::Value>,
    pub story: Vec<String>,
    pub freshness: Option<Freshness>,
    pub reconciled_tables: usize,
    pub reconcile_differences: u64,
    pub url: String,
    /// What turned out not to be true; empty if all is well.
    pub untrue: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct StepTime {
    pub step: &'static str,
    pub seconds: f64,
}

/// From COMMIT's return to the first HTTP answer that holds the order, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Freshness {
    pub orders: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
    /// p99 is within the promised second. Not among what is untrue: it tells of the machine's load, too.
    pub within_promise: bool,
}

impl Freshness {
    /// `None` without a single measurement.
    pub fn of(mut waits: Vec<Duration>) -> Option<Self> {
        waits.sort_unstable();
        // The nearest rank.
        let at = |share: f64| {
            let rank = (share * waits.len() as f64).ceil() as usize;
            waits.get(rank.clamp(1, waits.len().max(1)) - 1).map(|wait| wait.as_secs_f64() * 1000.0)
        };
        let p99_ms = at(0.99)?;
        Some(Self {
            orders: waits.len(),
            p50_ms: at(0.5)?,
            p99_ms,
            max_ms: at(1.0)?,
            within_promise: p99_ms <= PROMISED_FRESHNESS_MS,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let waits = (1..=200).rev().map(Duration::from_millis).collect();
        let freshness = Freshness::of(waits).expect("there are measurements");
        assert_eq!((freshness.p50_ms, freshness.p99_ms, freshness.max_ms), (100.0, 198.0, 200.0));
        assert!(Freshness::of(Vec::new()).is_none());
    }
}
