//! Evaluation on anyone's data: train on one file, rank for the users of another.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow::array::RecordBatch;
use serde::Serialize;

use crate::columns::Table;
use crate::error::{RecommenderError, Result};
use crate::interactions::{Interactions, distinct};
use crate::measure::{Question, measure};
use crate::metrics::Metrics;
use crate::model::ModelInfo;
use crate::options::{RepeatPolicy, TrainOptions};
use crate::train::train_with_histories;

/// How to evaluate.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluateOptions {
    /// List lengths, each at least 1.
    pub ks: Vec<usize>,
    /// `Exclude`: what a user has in the training data is neither ranked nor counted as a target.
    pub repeat: RepeatPolicy,
    /// How to train; its own `repeat` is set to the one above.
    pub train: TrainOptions,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        Self { ks: vec![10, 20], repeat: RepeatPolicy::Allow, train: TrainOptions::default() }
    }
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub train_rows: usize,
    pub train_users: usize,
    pub train_items: usize,
    pub test_rows: usize,
    pub test_users: usize,
    /// Users with a target: the means are over these.
    pub evaluated_users: usize,
    /// Evaluated users who are not in the training data; they get popular items.
    pub unknown_users: usize,
    /// Target items that nobody has in the training data; they count in recall and cannot be found.
    pub unknown_targets: usize,
    /// Test pairs left out because the user had the item already (only with repeats excluded).
    pub excluded_targets: usize,
    /// Users with a target they had bought before, and with one that is new to them.
    pub repeat_users: usize,
    pub explore_users: usize,
    /// Ranked pairs, where candidates were given.
    pub candidate_pairs: Option<usize>,
}

/// Metrics are means over users: `recall@k` over |target|, `ndcg@k` with an ideal list of min(k, |target|)
/// hits, `hit_rate@k`. Lists are full rankings of all items, ties by item id, unless candidates were given.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvaluationReport {
    /// The scorer that would serve.
    pub default: Metrics,
    /// Each scorer alone.
    pub scorers: BTreeMap<String, Metrics>,
    /// The default's lists, against target items the user had bought before.
    pub repeat: Metrics,
    /// The default's lists, against target items that are new to the user.
    pub explore: Metrics,
    pub counts: Counts,
    /// The model that was evaluated.
    pub model: ModelInfo,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Trains on `train` and ranks for each user of `test`, whose items there are the target.
///
/// `train` and `test` have `user_id, item_id[, timestamp][, weight][, basket_id]`, `candidates` has `user_id,
/// item_id`: if given, only these pairs are ranked. Nothing is learned from `test`; its timestamps only say
/// when each list is asked for.
///
/// # Errors
/// A table that cannot be read (the error names column and row), an option out of range.
pub fn evaluate(
    train: &[RecordBatch],
    test: &[RecordBatch],
    candidates: Option<&[RecordBatch]>,
    options: &EvaluateOptions,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<EvaluationReport> {
    if options.ks.is_empty() || options.ks.contains(&0) {
        return Err(RecommenderError::InvalidOption {
            option: "k",
            problem: "give one or more list lengths of at least 1",
        });
    }
    let mut data = Interactions::from_batches("train", train)?;
    let test = Interactions::from_batches("test", test)?;
    let mut counts = Counts {
        train_rows: data.rows(),
        train_users: data.users().len(),
        train_items: data.items().len(),
        test_rows: test.rows(),
        test_users: test.users().len(),
        ..Counts::default()
    };
    let pairs = candidates.map(candidate_pairs).transpose()?;
    if let Some((_, items)) = &pairs {
        // Candidates that nobody bought are ranked too, below all others.
        data = data.with_items(items.names());
    }
    let train_options = TrainOptions { repeat: options.repeat, ..options.train.clone() };
    let (model, histories) = train_with_histories(&data, &train_options, "train", progress)?;
    let catalogue = &model.catalogue;

    let mut candidates: Option<HashMap<String, HashSet<u32>>> = pairs.map(|(pairs, _)| {
        let mut by_user: HashMap<String, HashSet<u32>> = HashMap::new();
        for (user, item) in pairs {
            by_user.entry(user).or_default().extend(data.items.get(&item));
        }
        by_user
    });
    counts.candidate_pairs = candidates.as_ref().map(|by_user| by_user.values().map(HashSet::len).sum());
    let mut questions = Vec::new();
    for (user, id) in test.users().iter().enumerate() {
        let events = test.events_of(user as u32);
        let known = data.users.get(id);
        let history = known.map_or(&[][..], |user| histories.of(user as usize));
        let bought = |item: u32| history.binary_search_by_key(&item, |pair| pair.item).is_ok();
        let wanted: HashSet<u32> = events.iter().map(|event| event.item).collect();
        let mut target = HashSet::with_capacity(wanted.len());
        for item in wanted {
            match data.items.get(&test.items()[item as usize]) {
                Some(item) if options.repeat == RepeatPolicy::Exclude && bought(item) => {
                    counts.excluded_targets += 1;
                }
                Some(item) => {
                    counts.unknown_targets += usize::from(catalogue.purchases[item as usize] == 0.0);
                    target.insert(item);
                }
                None => {
                    counts.unknown_targets += 1;
                    target.insert(catalogue.len() as u32 + item);
                }
            }
        }
        if target.is_empty() {
            continue;
        }
        counts.unknown_users += usize::from(known.is_none());
        let asked = match (data.timed, test.timed) {
            (true, true) => events.iter().map(|event| event.at).min(),
            _ => history.iter().filter_map(|pair| pair.last_at).max(),
        };
        questions.push(Question {
            history,
            now: asked,
            target,
            candidates: candidates.as_mut().map(|by_user| by_user.remove(id).unwrap_or_default()),
        });
    }
    counts.evaluated_users = questions.len();

    let mut notes = model.info.notes.clone();
    notes.push(format!(
        "the default is the scorer `{}`, chosen on data held out of the training data",
        model.info.scorer.name()
    ));
    if counts.evaluated_users == 0 {
        return Err(RecommenderError::Mismatch {
            table: "test".to_owned(),
            problem: "every item was bought before in the training data and repeats are excluded, so nothing is left to rank; allow repeats",
        });
    }
    if candidates.is_some() {
        let without =
            questions.iter().filter(|question| question.candidates.as_ref().is_some_and(HashSet::is_empty));
        notes.push(format!(
            "only the given candidates were ranked; {} users have none and count as misses",
            without.count()
        ));
    }
    let measured = measure(catalogue, &model.weights, &questions, &options.ks, options.repeat);
    let default = &measured[&model.info.scorer];
    counts.repeat_users = default.repeat.users;
    counts.explore_users = default.explore.users;
    Ok(EvaluationReport {
        default: default.all.metrics(),
        scorers: measured
            .iter()
            .map(|(scorer, means)| (scorer.name().to_owned(), means.all.metrics()))
            .collect(),
        repeat: default.repeat.metrics(),
        explore: default.explore.metrics(),
        counts,
        model: model.info,
        notes,
    })
}

/// The candidates' pairs and their distinct items.
fn candidate_pairs(batches: &[RecordBatch]) -> Result<(Vec<(String, String)>, crate::ids::Ids)> {
    let table = Table { name: "candidates", batches };
    table.require_rows()?;
    let users = table.ids("user_id")?;
    let items = table.ids("item_id")?;
    let text = |columns: &[arrow::array::StringArray]| -> Vec<String> {
        let values = columns.iter().flat_map(|column| column.iter());
        values.flatten().map(str::to_owned).collect()
    };
    let pairs = text(&users).into_iter().zip(text(&items)).collect();
    Ok((pairs, distinct(&items)))
}
