//! Training: weights from held-out baskets, then everything else from all data.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::blend;
use crate::catalogue::Catalogue;
use crate::error::Result;
use crate::format::FORMAT_VERSION;
use crate::hold_out::hold_out;
use crate::interactions::{Histories, Interactions};
use crate::measure::{Question, measure};
use crate::metrics::Metrics;
use crate::model::{Model, ModelInfo};
use crate::options::TrainOptions;
use crate::scorers::{FEATURES, Features, PRIOR, Scorer};

/// The scorers that may serve. Frequency alone says nothing about new items and is part of the blend.
const SERVING: [Scorer; 3] = [Scorer::Blend, Scorer::Als, Scorer::Popularity];
const VALIDATION_KS: [usize; 2] = [10, 20];

/// Trains a model.
///
/// First the last basket of each user (or of a sample of `validation_users`) is held out, the parts are
/// trained on the rest, and the held-out baskets choose the blend's weights and the scorer that serves. Then
/// the parts are trained on all data. Without timestamps a random basket takes the last one's place.
///
/// `watermark` is any text that names the data; the model keeps it. `progress` is told (done, total) steps.
/// The same data, options and seed give the same model on any number of threads.
///
/// # Errors
/// An option out of range.
pub fn train(
    data: &Interactions,
    options: &TrainOptions,
    watermark: &str,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Model> {
    Ok(train_with_histories(data, options, watermark, progress)?.0)
}

/// Also gives the users' histories that the model was trained on.
pub(crate) fn train_with_histories(
    data: &Interactions,
    options: &TrainOptions,
    watermark: &str,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<(Model, Histories)> {
    options.check()?;
    let total = 2 * options.iterations as u64 + 1;
    let done = AtomicU64::new(0);
    let step = || progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
    progress(0, total);

    let choice = choose(data, options, step);
    step();
    let histories = Histories::new(&data.events, data.users.len(), data.timed);
    let catalogue = Catalogue::fit(&data.items, &data.events, &histories, options, step);
    progress(total, total);
    let mut notes = choice.notes;
    if catalogue.factors.rows() == 0 {
        notes.push(format!(
            "no item was bought by {} users or more, so none has factors and ALS says nothing",
            options.min_support
        ));
    }
    let info = ModelInfo {
        format_version: FORMAT_VERSION,
        parameters: options.clone(),
        watermark: watermark.to_owned(),
        users: data.users.len(),
        items: data.items.len(),
        items_with_factors: catalogue.factors.rows(),
        pairs: histories.len(),
        last_at: data.last_at(),
        scorer: choice.scorer,
        blend: FEATURES
            .iter()
            .zip(choice.weights)
            .map(|(name, weight)| ((*name).to_owned(), weight))
            .collect(),
        validation: choice.validation,
        notes,
    };
    let model = Model { catalogue, weights: choice.weights, info };
    Ok((model, histories))
}

/// Short decimals survive printing and reading unchanged.
fn six_decimals(metrics: Metrics) -> Metrics {
    let round = |value: f64| (value * 1e6).round() / 1e6;
    metrics.into_iter().map(|(name, value)| (name, round(value))).collect()
}

/// What the held-out baskets decide.
struct Choice {
    weights: Features,
    scorer: Scorer,
    validation: BTreeMap<String, Metrics>,
    notes: Vec<String>,
}

fn choose(data: &Interactions, options: &TrainOptions, step: impl FnMut()) -> Choice {
    let held_out = hold_out(data, options.validation_users, options.seed);
    if held_out.cases.is_empty() {
        return Choice {
            weights: PRIOR,
            scorer: Scorer::Blend,
            validation: BTreeMap::new(),
            notes: vec![
                "no user has two baskets to hold one out, so the blend's weights are the built-in ones"
                    .to_owned(),
            ],
        };
    }
    let mut notes = Vec::new();
    if !data.timed {
        notes.push(format!(
            "the data has no timestamps: a random hold-out (seed {}) took the place of the last basket",
            options.seed
        ));
    }
    let events = data.without(&held_out.events);
    let histories = Histories::new(&events, data.users.len(), data.timed);
    let catalogue = Catalogue::fit(&data.items, &events, &histories, options, step);
    let rows = blend::rows(&catalogue, &histories, &held_out.cases, options.repeat, options.seed);
    let (weights, converged) = blend::fit(&rows);
    if !converged {
        notes.push("the blend's weights were taken before their optimum was reached".to_owned());
    }
    let questions: Vec<Question<'_>> = held_out
        .cases
        .into_iter()
        .map(|case| Question {
            history: histories.of(case.user as usize),
            now: case.now,
            target: case.target,
            candidates: None,
        })
        .collect();
    let measured = measure(&catalogue, &weights, &questions, &VALIDATION_KS, options.repeat);
    let validation: BTreeMap<String, Metrics> = measured
        .iter()
        .map(|(scorer, means)| (scorer.name().to_owned(), six_decimals(means.all.metrics())))
        .collect();
    let mut scorer = Scorer::Blend;
    let quality = |scorer: Scorer| {
        let metrics = validation.get(scorer.name());
        metrics.and_then(|metrics| metrics.get("ndcg@10")).copied()
    };
    for other in SERVING {
        if quality(other) > quality(scorer) {
            scorer = other;
        }
    }
    Choice { weights, scorer, validation, notes }
}
