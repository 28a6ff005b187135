//! Trained models: answers, bytes, determinism.

use std::collections::HashSet;
use std::sync::OnceLock;

use lakeward_recommender::{
    HistoryItem, Interactions, Model, Reason, RecommenderError, RepeatPolicy, Request, TrainOptions, train,
};
use proptest::prelude::*;

use crate::support::{DAY, batch, shop, small_options, trained};

fn fixture() -> &'static (Interactions, Model) {
    static FIXTURE: OnceLock<(Interactions, Model)> = OnceLock::new();
    FIXTURE.get_or_init(|| trained(&shop(120, 8, 2, 1), &small_options()))
}

const NOW: i64 = 60 * DAY;

fn item(id: &str, purchases: f64, days_ago: i64) -> HistoryItem {
    HistoryItem { item: id.to_owned(), purchases, weight: purchases, last_at: Some(NOW - days_ago * DAY) }
}

#[test]
fn same_bytes_on_any_number_of_threads() {
    let rows = shop(150, 6, 2, 9);
    let bytes = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a pool").install(|| trained(&rows, &small_options()).1.to_bytes())
    };
    let one = bytes(1);
    assert!(one == bytes(2) && one == bytes(4));
    let other = trained(&rows, &TrainOptions { seed: 43, ..small_options() }).1.to_bytes();
    assert!(one != other, "the seed is used");
}

#[test]
fn bytes_make_the_same_model_again() {
    let (data, model) = fixture();
    let bytes = model.to_bytes();
    let again = Model::from_bytes(&bytes).expect("whole");
    assert!(again.to_bytes() == bytes);
    assert_eq!(again.info(), model.info());
    assert_eq!(again.info().watermark, "test");
    for user in data.users() {
        let history = data.history(user);
        let request = Request { explain: true, ..Request::default() };
        assert_eq!(again.recommend(&history, NOW, &request), model.recommend(&history, NOW, &request));
    }
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let mut bytes = fixture().1.to_bytes();
    bytes[8] = 2;
    let error = Model::from_bytes(&bytes).expect_err("refused");
    assert_eq!(error, RecommenderError::NewerModel { found: 2, supported: 1 });
}

/// Puts a right checksum under altered bytes, so that the reading behind it is tried.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let body = bytes.len().saturating_sub(32);
    bytes.truncate(body);
    let checksum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&checksum);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damage_is_found(place in any::<prop::sample::Index>(), bit in 0_u32..8, cut in any::<prop::sample::Index>()) {
        let bytes = fixture().1.to_bytes();
        let mut flipped = bytes.clone();
        let place = place.index(bytes.len());
        flipped[place] ^= 1 << bit;
        prop_assert!(Model::from_bytes(&flipped).is_err());
        prop_assert!(Model::from_bytes(&bytes[..cut.index(bytes.len())]).is_err());
        // Behind a right checksum it may read or not, but never panics, and what reads answers.
        if let Ok(model) = Model::from_bytes(&resealed(flipped)) {
            model.recommend(&[item("3", 2.0, 1)], NOW, &Request { explain: true, ..Request::default() });
        }
    }

    #[test]
    fn lists_are_never_short_and_hold_nothing_forbidden(
        user in 0_usize..120,
        excluded in prop::collection::hash_set(0_i64..120, 0..100),
        modulus in 1_i64..9,
        k in 0_usize..150,
        exclude_bought: bool,
    ) {
        let (data, model) = fixture();
        let history = data.history(&data.users()[user]);
        let exclude: Vec<String> = excluded.iter().map(i64::to_string).collect();
        let filter = |id: &str| id.parse::<i64>().is_ok_and(|id| id % modulus == 0);
        let repeat = if exclude_bought { RepeatPolicy::Exclude } else { RepeatPolicy::Allow };
        let request = Request { k, exclude: &exclude, filter: Some(&filter), repeat, explain: false };
        let list = model.recommend(&history, NOW, &request);
        let bought: HashSet<&str> = history.iter().map(|item| item.item.as_str()).collect();
        let allowed = |id: &str| filter(id)
            && !exclude.iter().any(|other| other == id)
            && !(exclude_bought && bought.contains(id));
        let left = model.items().iter().filter(|id| allowed(id)).count();
        prop_assert_eq!(list.len(), k.min(left));
        prop_assert!(list.iter().all(|entry| allowed(&entry.item)));
        prop_assert!(list.windows(2).all(|pair| pair[0].score >= pair[1].score));
        let distinct: HashSet<&str> = list.iter().map(|entry| entry.item.as_str()).collect();
        prop_assert_eq!(distinct.len(), list.len());
        // The list is the head of the unrestricted ranking, filtered.
        let all = model.recommend(&history, NOW, &Request { k: usize::MAX, ..Request::default() });
        let head: Vec<_> = all.into_iter().filter(|entry| allowed(&entry.item)).take(k).collect();
        prop_assert_eq!(list, head);
    }
}

#[test]
fn the_newest_purchase_counts_at_once() {
    let (_, model) = fixture();
    let request = Request { k: 5, explain: true, ..Request::default() };
    // Items 0..30 are one taste, 60..90 another.
    let of_taste = |history: &[HistoryItem], taste: std::ops::Range<i64>| {
        let new = Request { repeat: RepeatPolicy::Exclude, ..request };
        let list = model.recommend(history, NOW, &new);
        list.iter().filter(|r| r.item.parse().is_ok_and(|id: i64| taste.contains(&id))).count()
    };
    let first = [item("1", 1.0, 20), item("2", 1.0, 20), item("4", 1.0, 20)];
    assert_eq!(of_taste(&first, 0..30), 5);
    let other = [item("61", 1.0, 0), item("62", 1.0, 0), item("64", 1.0, 0)];
    assert_eq!(of_taste(&other, 60..90), 5);
    let staple = model.recommend(&[item("25", 7.0, 12)], NOW, &request);
    assert_eq!(staple[0].item, "25");
    assert_eq!(staple[0].reasons[0], Reason::Bought { times: 7, days_ago: Some(12) });
    assert_eq!(staple[0].reasons[0].to_string(), "bought 7 times, last 12 days ago");
}

#[test]
fn reasons_name_what_was_bought() {
    let (_, model) = fixture();
    let history = [item("1", 2.0, 3), item("2", 1.0, 30)];
    let request = Request { k: 40, explain: true, repeat: RepeatPolicy::Exclude, ..Request::default() };
    let list = model.recommend(&history, NOW, &request);
    assert!(list.iter().all(|entry| !entry.reasons.is_empty()));
    for entry in &list {
        for reason in &entry.reasons {
            match reason {
                Reason::Because { item } => assert!(item == "1" || item == "2"),
                Reason::Popular { purchases } => assert!(*purchases > 0),
                Reason::Bought { .. } => panic!("{entry:?} was not bought"),
            }
        }
    }
    assert!(matches!(list[0].reasons[0], Reason::Because { .. }));
}

#[test]
fn no_history_gets_what_is_popular() {
    let (_, model) = fixture();
    let looked_at = [item("5", 0.0, 1), item("6", f64::NAN, 1)];
    assert!(model.is_fallback(&[]) && model.is_fallback(&looked_at));
    assert!(!model.is_fallback(&[item("5", 1.0, 1)]));
    let popular = model.recommend(&[], NOW, &Request::default());
    assert!(popular.len() == 10 && popular.is_sorted_by(|a, b| a.score >= b.score));
    assert_eq!(model.recommend(&looked_at, NOW, &Request::default()), popular);
}

#[test]
fn items_that_the_model_does_not_know_can_come_back() {
    let (_, model) = fixture();
    let history = [item("new", 6.0, 1), item("1", 1.0, 50)];
    let request = Request { explain: true, ..Request::default() };
    let list = model.recommend(&history, NOW, &request);
    let new = list.iter().find(|entry| entry.item == "new").expect("in the list");
    assert_eq!(new.reasons, [Reason::Bought { times: 6, days_ago: Some(1) }]);
    let without = Request { repeat: RepeatPolicy::Exclude, k: 1000, ..request };
    let list = model.recommend(&history, NOW, &without);
    assert!(list.iter().all(|entry| entry.item != "new" && entry.item != "1"));
}

#[test]
fn similar_items_share_customers() {
    let (_, model) = fixture();
    let list = model.similar("31", 8, None).expect("known");
    assert_eq!(list.len(), 8);
    assert!(list.iter().all(|entry| entry.item != "31"));
    let same = list.iter().filter(|e| e.item.parse().is_ok_and(|id: i64| (30..60).contains(&id)));
    assert!(same.count() >= 7, "{list:?}");
    assert!(model.similar("nothing", 8, None).is_none());
    let all = model.similar("31", 1000, None).expect("known");
    assert_eq!(all.len(), model.items().len() - 1);
}

#[test]
fn options_out_of_range_are_refused() {
    let data = Interactions::from_batches("t", &[batch(&[(1, 1, 0)])]).expect("readable");
    let bad = [
        TrainOptions { factors: 0, ..TrainOptions::default() },
        TrainOptions { iterations: 0, ..TrainOptions::default() },
        TrainOptions { regularization: 0.0, ..TrainOptions::default() },
        TrainOptions { unobserved_weight: f64::NAN, ..TrainOptions::default() },
    ];
    for options in bad {
        let error = train(&data, &options, "", &|_, _| ()).expect_err("refused");
        assert!(matches!(error, RecommenderError::InvalidOption { .. }));
    }
}

#[test]
fn a_single_purchase_makes_a_model() {
    let (data, model) = trained(&[(1, 1, 0)], &TrainOptions::default());
    assert_eq!(model.recommend(&data.history("1"), DAY, &Request::default()).len(), 1);
    assert!(!model.info().notes.is_empty());
    assert!(Model::from_bytes(&model.to_bytes()).is_ok());
}
