//! Evaluation against definitions worked out by hand, and on shops with and without repeats.

use arrow::array::RecordBatch;
use lakeward_recommender::{
    EvaluateOptions, EvaluationReport, Interactions, RecommenderError, RepeatPolicy, evaluate,
};

use crate::support::{DAY, batch, pairs, shop, small_options};

fn options() -> EvaluateOptions {
    EvaluateOptions { train: small_options(), ..EvaluateOptions::default() }
}

fn run(train: RecordBatch, test: RecordBatch, options: &EvaluateOptions) -> EvaluationReport {
    evaluate(&[train], &[test], None, options, &|_, _| ()).expect("evaluated")
}

fn split(rows: &[crate::support::Row]) -> (RecordBatch, RecordBatch) {
    let data = Interactions::from_batches("shop", &[batch(rows)]).expect("readable");
    data.split_last_basket(0)
}

#[test]
fn popularity_by_hand() {
    // Popularity: b 3, a 2, then c and d with 1 each (c first by id).
    let train = pairs(&[("1", "b"), ("2", "b"), ("3", "b"), ("1", "a"), ("2", "a"), ("1", "d"), ("3", "c")]);
    let test = pairs(&[("2", "c"), ("2", "b"), ("3", "d"), ("9", "a"), ("9", "z")]);
    let mut options = options();
    options.ks = vec![1, 3];
    let report = run(train.clone(), test.clone(), &options);
    let popularity = &report.scorers["popularity"];
    // Lists b a c. User 2 finds b and c, user 3 nothing, user 9 finds a of {a, z}.
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
    close(popularity["recall@1"], 0.5 / 3.0);
    close(popularity["recall@3"], (1.0 + 0.0 + 0.5) / 3.0);
    close(popularity["hit_rate@3"], 2.0 / 3.0);
    let d = |rank: f64| 1.0 / (rank + 1.0).log2();
    close(popularity["ndcg@3"], ((d(1.0) + d(3.0)) / (d(1.0) + d(2.0)) + d(2.0) / (d(1.0) + d(2.0))) / 3.0);
    assert_eq!(report.counts.unknown_users, 1);
    assert_eq!(report.counts.unknown_targets, 1);

    // Without repeats user 2 is shown c d and looks for c only; b is dropped.
    options.repeat = RepeatPolicy::Exclude;
    let report = run(train, test, &options);
    close(report.scorers["popularity"]["recall@1"], 1.0 / 3.0);
    close(report.scorers["popularity"]["recall@3"], (1.0 + 1.0 + 0.5) / 3.0);
    assert_eq!(report.counts.excluded_targets, 1);
    assert!(report.repeat.is_empty());
}

#[test]
fn only_candidates_are_ranked() {
    let train = pairs(&[("1", "b"), ("2", "b"), ("3", "b"), ("1", "a"), ("2", "a"), ("3", "c")]);
    let test = pairs(&[("1", "c"), ("2", "y"), ("3", "a")]);
    let candidates = pairs(&[("1", "c"), ("1", "x"), ("2", "y"), ("2", "x"), ("2", "a")]);
    let mut options = options();
    options.ks = vec![1, 2];
    let report = evaluate(&[train], &[test], Some(&[candidates]), &options, &|_, _| ()).expect("evaluated");
    let popularity = &report.scorers["popularity"];
    // User 1: c x. User 2: a, then x before y, both of which nobody bought. User 3 has no candidates.
    assert_eq!(popularity["recall@1"], 1.0 / 3.0);
    assert_eq!(popularity["recall@2"], 1.0 / 3.0);
    assert_eq!(report.counts.candidate_pairs, Some(5));
    assert!(report.notes.iter().any(|note| note.contains("1 users have none")), "{:?}", report.notes);
}

#[test]
fn report_has_the_documented_shape() {
    let (train, test) = split(&shop(60, 5, 2, 3));
    let report = run(train, test, &options());
    let json = serde_json::to_value(&report).expect("serialises");
    for place in [
        "/default",
        "/scorers/popularity",
        "/scorers/frequency",
        "/scorers/als",
        "/scorers/blend",
        "/repeat",
        "/explore",
    ] {
        let metrics = json.pointer(place).and_then(|v| v.as_object()).expect(place);
        for metric in ["recall@10", "ndcg@10", "hit_rate@10", "recall@20", "ndcg@20", "hit_rate@20"] {
            let value = metrics[metric].as_f64().expect("a number");
            assert!((0.0..=1.0).contains(&value), "{place} {metric} {value}");
        }
    }
    assert_eq!(json["counts"]["evaluated_users"], 60);
}

#[test]
fn with_repeats_own_purchases_lead_and_without_them_als_does() {
    let ndcg = |report: &EvaluationReport, scorer: &str| report.scorers[scorer]["ndcg@10"];

    let (train, test) = split(&shop(300, 10, 3, 5));
    let report = run(train, test, &options());
    let others = ndcg(&report, "als").max(ndcg(&report, "popularity"));
    assert!(ndcg(&report, "frequency") > 1.1 * others, "{report:?}");
    assert!(ndcg(&report, "blend") >= 0.95 * ndcg(&report, "frequency"));

    // Nobody buys twice: repeats are allowed, but the blend learns that they do not happen.
    let (train, test) = split(&shop(300, 5, 0, 5));
    let report = run(train.clone(), test.clone(), &options());
    assert_eq!(report.counts.repeat_users, 0);
    assert!(ndcg(&report, "frequency") < 0.05);
    assert!(report.default["ndcg@10"] > 2.0 * ndcg(&report, "popularity"), "{report:?}");

    let exclude = EvaluateOptions { repeat: RepeatPolicy::Exclude, ..options() };
    let report = run(train, test, &exclude);
    assert!(ndcg(&report, "als") > 2.0 * ndcg(&report, "popularity"));
    assert!(ndcg(&report, "blend") >= 0.95 * ndcg(&report, "als"));
}

#[test]
fn without_times_a_random_hold_out_is_used_and_named() {
    let rows = shop(80, 6, 0, 6);
    let names: Vec<(String, String)> =
        rows.iter().map(|(user, item, _)| (user.to_string(), item.to_string())).collect();
    let (test, train): (Vec<_>, Vec<_>) = names.iter().enumerate().partition(|(index, _)| index % 5 == 0);
    let table = |rows: &[(usize, &(String, String))]| {
        let rows: Vec<(&str, &str)> =
            rows.iter().map(|(_, (user, item))| (user.as_str(), item.as_str())).collect();
        pairs(&rows)
    };
    let report = run(table(&train), table(&test), &options());
    assert!(report.notes.iter().any(|note| note.contains("random hold-out (seed 42)")), "{:?}", report.notes);
    assert!(report.default["ndcg@10"] > 1.5 * report.scorers["popularity"]["ndcg@10"], "{report:?}");
}

#[test]
fn the_test_set_teaches_nothing() {
    let rows = shop(100, 6, 2, 8);
    let (train, test) = split(&rows);
    let other = batch(&[(0, 119, 900 * DAY), (1, 118, 900 * DAY)]);
    let one = run(train.clone(), test, &options());
    let two = run(train, other, &options());
    assert_eq!(one.model, two.model);
}

#[test]
fn bad_input_is_named() {
    let good = || pairs(&[("1", "a"), ("2", "b")]);
    let error = evaluate(&[good()], &[pairs(&[])], None, &options(), &|_, _| ()).expect_err("refused");
    assert_eq!(error, RecommenderError::Empty { table: "test".to_owned() });
    let none = EvaluateOptions { ks: vec![], ..options() };
    let error = evaluate(&[good()], &[good()], None, &none, &|_, _| ()).expect_err("refused");
    assert!(matches!(error, RecommenderError::InvalidOption { option: "k", .. }));
    let exclude = EvaluateOptions { repeat: RepeatPolicy::Exclude, ..options() };
    let error = evaluate(&[good()], &[good()], None, &exclude, &|_, _| ()).expect_err("refused");
    assert!(matches!(error, RecommenderError::Mismatch { .. }));
}
