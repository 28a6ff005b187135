//! The best k of many scores.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// A scored index; greater is better: by score, ties to the smaller index (so by item id).
#[derive(Debug, Clone, Copy)]
struct Scored {
    score: f64,
    index: usize,
}

impl Ord for Scored {
    fn cmp(&self, other: &Self) -> Ordering {
        // Adding zero makes -0.0 tie with 0.0.
        (self.score + 0.0).total_cmp(&(other.score + 0.0)).then_with(|| other.index.cmp(&self.index))
    }
}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scored {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scored {}

/// The best `k` allowed indices, best first. `allowed` is asked only for scores that would enter the list,
/// so a costly filter is cheap, and the list is short only if fewer than `k` are allowed.
pub(crate) fn top_k(scores: &[f64], k: usize, mut allowed: impl FnMut(usize) -> bool) -> Vec<(usize, f64)> {
    let mut best: BinaryHeap<Reverse<Scored>> = BinaryHeap::new();
    if k == 0 {
        return Vec::new();
    }
    // Below this score nothing enters; an equal one does not either, since its index is greater.
    let mut entry = f64::NEG_INFINITY;
    for (index, &score) in scores.iter().enumerate() {
        let full = best.len() == k;
        if full && score <= entry || !allowed(index) {
            continue;
        }
        if full {
            best.pop();
        }
        best.push(Reverse(Scored { score, index }));
        if let Some(Reverse(worst)) = best.peek() {
            entry = worst.score;
        }
    }
    best.into_sorted_vec().into_iter().map(|Reverse(scored)| (scored.index, scored.score)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_filter_then_sort(
            scores in prop::collection::vec((-4_i8..4, any::<bool>()), 0..80),
            k in 0_usize..100,
        ) {
            let score = |index: usize| f64::from(scores[index].0) / 2.0;
            let values: Vec<f64> = (0..scores.len()).map(score).collect();
            let got = top_k(&values, k, |index| scores[index].1);
            let mut all: Vec<usize> = (0..scores.len()).filter(|&index| scores[index].1).collect();
            all.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
            all.truncate(k);
            let want: Vec<(usize, f64)> = all.into_iter().map(|index| (index, score(index))).collect();
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn signed_zeros_tie() {
        assert_eq!(top_k(&[-0.0, 0.0], 1, |_| true)[0].0, 0);
    }
}
