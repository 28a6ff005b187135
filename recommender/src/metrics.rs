//! Ranking metrics with binary relevance, for one user and as means over users.

use std::collections::{BTreeMap, HashSet};

/// Metric name (`recall@10`) to value.
pub type Metrics = BTreeMap<String, f64>;

/// Recall@k = hits in the first k / |target|.
pub(crate) fn recall(ranked: &[u32], target: &HashSet<u32>, k: usize) -> f64 {
    let hits = ranked.iter().take(k).filter(|item| target.contains(item));
    hits.count() as f64 / target.len() as f64
}

/// NDCG@k: gain 1 / log2(1 + rank), over the best list's gain, which has min(k, |target|) hits.
pub(crate) fn ndcg(ranked: &[u32], target: &HashSet<u32>, k: usize) -> f64 {
    let discount = |place: usize| 1.0 / ((place + 2) as f64).log2();
    let gain: f64 = ranked
        .iter()
        .take(k)
        .enumerate()
        .filter(|(_, item)| target.contains(item))
        .map(|(place, _)| discount(place))
        .sum();
    let ideal: f64 = (0..k.min(target.len())).map(discount).sum();
    gain / ideal
}

/// 1 if any of the first k is a hit.
pub(crate) fn hit(ranked: &[u32], target: &HashSet<u32>, k: usize) -> f64 {
    let any = ranked.iter().take(k).any(|item| target.contains(item));
    f64::from(u8::from(any))
}

/// Means over the users that were added.
#[derive(Debug, Clone)]
pub(crate) struct Means {
    ks: Vec<usize>,
    sums: Vec<[f64; 3]>,
    pub(crate) users: usize,
}

impl Means {
    pub(crate) fn new(ks: &[usize]) -> Self {
        Self { ks: ks.to_vec(), sums: vec![[0.0; 3]; ks.len()], users: 0 }
    }

    /// Adds a user; one without a target has nothing to find and does not count.
    pub(crate) fn add(&mut self, ranked: &[u32], target: &HashSet<u32>) {
        if target.is_empty() {
            return;
        }
        self.users += 1;
        for (sums, &k) in self.sums.iter_mut().zip(&self.ks) {
            sums[0] += recall(ranked, target, k);
            sums[1] += ndcg(ranked, target, k);
            sums[2] += hit(ranked, target, k);
        }
    }

    /// The means; empty if no user counts.
    pub(crate) fn metrics(&self) -> Metrics {
        let names = ["recall", "ndcg", "hit_rate"];
        let mut metrics = Metrics::new();
        if self.users > 0 {
            for (sums, k) in self.sums.iter().zip(&self.ks) {
                for (name, sum) in names.iter().zip(sums) {
                    metrics.insert(format!("{name}@{k}"), sum / self.users as f64);
                }
            }
        }
        metrics
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn worked_example() {
        let ranked = [5, 1, 9, 2];
        let target = HashSet::from([1, 2, 7]);
        assert_eq!(recall(&ranked, &target, 2), 1.0 / 3.0);
        assert_eq!(recall(&ranked, &target, 4), 2.0 / 3.0);
        assert_eq!(hit(&ranked, &target, 1), 0.0);
        assert_eq!(hit(&ranked, &target, 2), 1.0);
        // Hits at ranks 2 and 4; the ideal list hits at 1, 2 and 3.
        let want = (0.630_929_753_571 + 0.430_676_558_073) / (1.0 + 0.630_929_753_571 + 0.5);
        assert!((ndcg(&ranked, &target, 4) - want).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn equal_the_definitions(
            order in Just((0_u32..12).collect::<Vec<_>>()).prop_shuffle(),
            target in prop::collection::hash_set(0_u32..16, 1..9),
            k in 1_usize..15,
        ) {
            let top: Vec<u32> = order.iter().copied().take(k).collect();
            let hits = target.iter().filter(|item| top.contains(item)).count() as f64;
            prop_assert_eq!(recall(&order, &target, k), hits / target.len() as f64);
            prop_assert_eq!(hit(&order, &target, k), if hits > 0.0 { 1.0 } else { 0.0 });
            let mut dcg = 0.0;
            let mut ideal = 0.0;
            for rank in 1..=k {
                let gain = (2_f64).ln() / ((rank + 1) as f64).ln();
                if order.get(rank - 1).is_some_and(|item| target.contains(item)) { dcg += gain; }
                if rank <= target.len() { ideal += gain; }
            }
            prop_assert!((ndcg(&order, &target, k) - dcg / ideal).abs() < 1e-12);
        }
    }

    #[test]
    fn means_skip_users_without_target() {
        let mut means = Means::new(&[1]);
        means.add(&[3], &HashSet::from([3]));
        means.add(&[3], &HashSet::new());
        assert_eq!(means.users, 1);
        assert_eq!(means.metrics()["ndcg@1"], 1.0);
    }
}
