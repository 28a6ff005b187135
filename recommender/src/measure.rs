//! Measuring scorers on cases: full rankings, or rankings of given candidates.

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;

use crate::catalogue::Catalogue;
use crate::interactions::Pair;
use crate::metrics::Means;
use crate::options::RepeatPolicy;
use crate::scorers::{BATCH, Customer, Features, Scorer};
use crate::top_k::top_k;

/// A user to rank items for.
pub(crate) struct Question<'a> {
    pub(crate) history: &'a [Pair],
    pub(crate) now: Option<i64>,
    /// Indices past the catalogue are items that cannot be found.
    pub(crate) target: HashSet<u32>,
    /// If given, only these are ranked.
    pub(crate) candidates: Option<HashSet<u32>>,
}

/// One scorer's means: over all of the target, and over its bought and its new items apart.
pub(crate) struct Measured {
    pub(crate) all: Means,
    pub(crate) repeat: Means,
    pub(crate) explore: Means,
}

/// Ranks for every question by every scorer. A user without history gets popularity from each.
pub(crate) fn measure(
    catalogue: &Catalogue,
    weights: &Features,
    questions: &[Question<'_>],
    ks: &[usize],
    repeat: RepeatPolicy,
) -> BTreeMap<Scorer, Measured> {
    let k = ks.iter().copied().max().unwrap_or_default();
    let lists: Vec<Vec<Vec<u32>>> = questions
        .par_chunks(BATCH)
        .flat_map_iter(|questions| {
            let asked = questions.iter().map(|question| (question.history, question.now));
            let customers = Customer::batch(catalogue, asked);
            questions
                .iter()
                .zip(customers)
                .map(|(question, customer)| rank(catalogue, weights, question, &customer, k, repeat))
        })
        .collect();

    let mut measured: BTreeMap<Scorer, Measured> = BTreeMap::new();
    for (place, scorer) in Scorer::ALL.into_iter().enumerate() {
        let mut means = Measured { all: Means::new(ks), repeat: Means::new(ks), explore: Means::new(ks) };
        for (question, lists) in questions.iter().zip(&lists) {
            let bought: HashSet<u32> = question.history.iter().map(|pair| pair.item).collect();
            let list = &lists[place];
            means.all.add(list, &question.target);
            means.repeat.add(list, &(&question.target & &bought));
            means.explore.add(list, &(&question.target - &bought));
        }
        measured.insert(scorer, means);
    }
    measured
}

/// The best `k` by every scorer.
fn rank(
    catalogue: &Catalogue,
    weights: &Features,
    question: &Question<'_>,
    customer: &Customer<'_>,
    k: usize,
    repeat: RepeatPolicy,
) -> Vec<Vec<u32>> {
    let allowed = |item: usize| {
        let item = item as u32;
        let candidates = question.candidates.as_ref();
        candidates.is_none_or(|candidates| candidates.contains(&item))
            && (repeat == RepeatPolicy::Allow || customer.pair_of(item).is_none())
    };
    let list = |scorer: Scorer| {
        let scorer = if question.history.is_empty() { Scorer::Popularity } else { scorer };
        let scores = customer.scores(catalogue, scorer, weights);
        top_k(&scores, k, allowed).into_iter().map(|(item, _)| item as u32).collect()
    };
    Scorer::ALL.into_iter().map(list).collect()
}
