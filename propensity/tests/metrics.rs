use lakeward_propensity::{Error, Metrics};
use proptest::prelude::*;

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6
}

/// By definition: over all pairs of a churned and a staying customer.
fn naive_auc(scores: &[f64], churned: &[bool]) -> Option<f64> {
    let of = |outcome| scores.iter().zip(churned).filter(move |(_, y)| **y == outcome).map(|(s, _)| *s);
    let (mut won, mut pairs) = (0.0, 0.0);
    for a in of(true) {
        for b in of(false) {
            pairs += 1.0;
            won += if a > b {
                1.0
            } else if a == b {
                0.5
            } else {
                0.0
            };
        }
    }
    (pairs > 0.0).then(|| won / pairs)
}

/// By definition: the mean, over the churned, of the precision at their own score.
fn naive_average_precision(scores: &[f64], churned: &[bool]) -> Option<f64> {
    let positives: Vec<f64> = scores.iter().zip(churned).filter(|(_, y)| **y).map(|(s, _)| *s).collect();
    if positives.is_empty() || positives.len() == churned.len() {
        return None;
    }
    let precision = |at: f64| {
        let above = scores.iter().filter(|s| **s >= at).count() as f64;
        positives.iter().filter(|s| **s >= at).count() as f64 / above
    };
    Some(positives.iter().map(|&at| precision(at)).sum::<f64>() / positives.len() as f64)
}

#[test]
fn a_known_case() {
    let metrics = Metrics::of(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true]).unwrap();
    assert_eq!((metrics.rows, metrics.churned), (4, 2));
    assert_eq!(metrics.auc, Some(0.75));
    assert_eq!(metrics.pr_auc, Some(0.833333));
    assert!(close(metrics.brier, (0.01 + 0.16 + 0.4225 + 0.04) / 4.0));
    // Four bins of one row each: |.1 − 0| + |.4 − 0| + |.35 − 1| + |.8 − 1|, a quarter each.
    assert!(close(metrics.ece, (0.1 + 0.4 + 0.65 + 0.2) / 4.0));
    let log_loss = -(0.9_f64.ln() + 0.6_f64.ln() + 0.35_f64.ln() + 0.8_f64.ln()) / 4.0;
    assert!(close(metrics.log_loss, log_loss));
}

#[test]
fn ties_count_half() {
    let metrics = Metrics::of(&[0.5; 5], &[true, false, false, true, false]).unwrap();
    assert_eq!((metrics.auc, metrics.pr_auc), (Some(0.5), Some(0.4)));
    assert!(close(metrics.ece, 0.1));
}

#[test]
fn the_last_bin_holds_one() {
    let metrics = Metrics::of(&[0.95, 1.0, 0.0], &[true, true, false]).unwrap();
    let bins: Vec<_> =
        metrics.reliability.iter().map(|bin| (bin.from, bin.rows, bin.predicted, bin.observed)).collect();
    assert_eq!(bins, [(0.0, 1, 0.0, 0.0), (0.9, 2, 0.975, 1.0)]);
}

#[test]
fn one_outcome_has_no_ranking_but_is_still_measured() {
    let metrics = Metrics::of(&[0.0, 1.0], &[true, true]).unwrap();
    assert_eq!((metrics.auc, metrics.pr_auc), (None, None));
    assert_eq!(metrics.brier, 0.5);
    assert!(metrics.log_loss.is_finite());
}

#[test]
fn what_is_no_probability_is_refused() {
    assert!(matches!(Metrics::of(&[], &[]), Err(Error::Empty)));
    assert!(matches!(Metrics::of(&[0.5], &[]), Err(Error::LabelCount { rows: 1, labels: 0 })));
    for wrong in [f64::NAN, -0.1, 1.1, f64::INFINITY] {
        assert!(matches!(
            Metrics::of(&[0.5, wrong], &[true, false]),
            Err(Error::NotProbability { count: 1 })
        ));
    }
}

proptest! {
    /// Few distinct scores, so that ties are common.
    #[test]
    fn rankings_agree_with_their_definitions(rows in prop::collection::vec((0_u8..12, any::<bool>()), 1..60)) {
        let scores: Vec<f64> = rows.iter().map(|(score, _)| f64::from(*score) / 11.0).collect();
        let churned: Vec<bool> = rows.iter().map(|(_, churned)| *churned).collect();
        let metrics = Metrics::of(&scores, &churned).unwrap();
        for (ours, naive) in [
            (metrics.auc, naive_auc(&scores, &churned)),
            (metrics.pr_auc, naive_average_precision(&scores, &churned)),
        ] {
            prop_assert_eq!(ours.is_some(), naive.is_some());
            prop_assert!(close(ours.unwrap_or(0.0), naive.unwrap_or(0.0)), "{:?} {:?}", ours, naive);
        }
        let binned: usize = metrics.reliability.iter().map(|bin| bin.rows).sum();
        prop_assert_eq!(binned, scores.len());
    }
}
