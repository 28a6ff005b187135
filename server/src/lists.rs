//! Lists of products: asked of the model, completed from the catalogue, so that no list is short while products remain.

use std::collections::{HashMap, HashSet};

use lakeward_features::ItemHistory;
use lakeward_recommender::{HistoryItem, Reason, Recommendation, RepeatPolicy, Request};

use crate::{catalogue::Catalogue, slot::Served, state::Context};

/// What a client wants of a list.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub k: usize,
    pub exclude: Vec<i64>,
    pub category: Option<String>,
    pub repeat: RepeatPolicy,
    pub explain: bool,
}

/// Why a list is not what the model would say about this very customer, session or product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fallback {
    /// Nobody with this id is known.
    UnknownCustomer,
    /// The customer or session has nothing that says what they like.
    NoHistory,
    /// No model is in use yet.
    NoModel,
    /// The model in use was trained before this product was sold.
    UnknownToModel,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct List {
    pub ranked: Vec<Ranked>,
    pub model_version: Option<String>,
    pub fallback: Option<Fallback>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ranked {
    pub product_id: i64,
    /// The model's; of a popular list, the share of the most bought product's purchases; none where a product only
    /// completes a model's list.
    pub score: Option<f64>,
    pub reasons: Vec<Reason>,
}

/// There is no such category in the shop.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoSuchCategory;

/// The list for a customer, with everything they have bought up to this moment: `newest` if others know better.
pub(crate) fn for_customer(
    context: &Context,
    user_id: i64,
    now: i64,
    newest: Option<Vec<HistoryItem>>,
    wanted: &Wanted,
) -> Result<List, NoSuchCategory> {
    let store = &context.app.store;
    let history = newest.unwrap_or_else(|| store.history(user_id, now).iter().filter_map(bought).collect());
    let mut list = for_history(context, &history, now, wanted)?;
    // The history is looked at first: a customer who has one is known.
    if history.is_empty() && store.customer(user_id, now).is_none() {
        list.fallback = Some(Fallback::UnknownCustomer);
    }
    Ok(list)
}

fn bought(item: &ItemHistory) -> Option<HistoryItem> {
    (item.purchases > 0).then(|| HistoryItem {
        item: item.product_id.to_string(),
        purchases: item.purchases as f64,
        weight: item.quantity as f64,
        last_at: item.last_at,
    })
}

/// The list for any history, a customer's or a session's.
pub(crate) fn for_history(
    context: &Context,
    history: &[HistoryItem],
    now: i64,
    wanted: &Wanted,
) -> Result<List, NoSuchCategory> {
    let catalogue = context.catalogues.get(context.app.store.as_ref());
    let mut taken: HashSet<i64> = wanted.exclude.iter().copied().collect();
    if wanted.repeat == RepeatPolicy::Exclude {
        taken.extend(history.iter().filter_map(|item| item.item.parse::<i64>().ok()));
    }
    let Some(served) = context.app.recommender.load() else {
        let fallback = Some(Fallback::NoModel);
        return Ok(List {
            ranked: fill(Vec::new(), taken, &catalogue, wanted)?,
            model_version: None,
            fallback,
        });
    };
    let Served { version, model } = served.as_ref();
    let exclude: Vec<String> = wanted.exclude.iter().map(i64::to_string).collect();
    let ranked = sold(&catalogue, wanted.category.as_deref(), |filter| {
        model.recommend(
            history,
            now,
            &Request {
                k: wanted.k,
                exclude: &exclude,
                filter,
                repeat: wanted.repeat,
                explain: wanted.explain,
            },
        )
    })?;
    Ok(List {
        ranked: fill(ranked, taken, &catalogue, wanted)?,
        model_version: Some(version.clone()),
        fallback: model.is_fallback(history).then_some(Fallback::NoHistory),
    })
}

/// Products like this one: those that the same customers buy.
pub(crate) fn similar(context: &Context, product_id: i64, wanted: &Wanted) -> Result<List, NoSuchCategory> {
    let catalogue = context.catalogues.get(context.app.store.as_ref());
    let taken = HashSet::from([product_id]);
    let Some(served) = context.app.recommender.load() else {
        let fallback = Some(Fallback::NoModel);
        return Ok(List {
            ranked: fill(Vec::new(), taken, &catalogue, wanted)?,
            model_version: None,
            fallback,
        });
    };
    let mut unknown = false;
    let ranked = sold(&catalogue, wanted.category.as_deref(), |filter| {
        served.model.similar(&product_id.to_string(), wanted.k, filter).unwrap_or_else(|| {
            unknown = true;
            Vec::new()
        })
    })?;
    // Of a product without customers in common, its own category says most.
    let category = match (&wanted.category, unknown) {
        (None, true) => context.app.store.product(product_id).and_then(|product| product.category),
        (category, _) => category.clone(),
    };
    Ok(List {
        ranked: fill(ranked, taken, &catalogue, &Wanted { category, ..wanted.clone() })?,
        model_version: Some(served.version.clone()),
        fallback: unknown.then_some(Fallback::UnknownToModel),
    })
}

/// The most bought products.
pub(crate) fn popular(context: &Context, wanted: &Wanted) -> Result<List, NoSuchCategory> {
    let catalogue = context.catalogues.get(context.app.store.as_ref());
    let ranked = fill(Vec::new(), HashSet::new(), &catalogue, wanted)?;
    Ok(List { ranked, model_version: None, fallback: None })
}

type Filter<'a> = Option<&'a dyn Fn(&str) -> bool>;

/// Asks a model for products of the category that are still sold. Models look at the filter only for what would enter
/// the list.
fn sold(
    catalogue: &Catalogue,
    category: Option<&str>,
    ask: impl FnOnce(Filter<'_>) -> Vec<Recommendation>,
) -> Result<Vec<Ranked>, NoSuchCategory> {
    let ids = catalogue.ids(category).ok_or(NoSuchCategory)?;
    let ranked = ask(Some(&|item| ids.contains(item))).into_iter();
    Ok(ranked
        .filter_map(|Recommendation { item, score, reasons }| {
            Some(Ranked { product_id: item.parse().ok()?, score: Some(score), reasons })
        })
        .collect())
}

/// Completes a list to k with the most bought products that are not taken.
fn fill(
    mut ranked: Vec<Ranked>,
    mut taken: HashSet<i64>,
    catalogue: &Catalogue,
    wanted: &Wanted,
) -> Result<Vec<Ranked>, NoSuchCategory> {
    catalogue.ids(wanted.category.as_deref()).ok_or(NoSuchCategory)?;
    taken.extend(ranked.iter().map(|product| product.product_id));
    let from_model = !ranked.is_empty();
    let mut most = None;
    for entry in catalogue.popular(wanted.category.as_deref()) {
        if ranked.len() >= wanted.k {
            break;
        }
        if !taken.insert(entry.product_id) {
            continue;
        }
        let most = *most.get_or_insert(entry.purchases.max(1)) as f64;
        let score = (!from_model).then(|| entry.purchases as f64 / most);
        let reasons = if wanted.explain && entry.purchases > 0 {
            vec![Reason::Popular { purchases: entry.purchases }]
        } else {
            Vec::new()
        };
        ranked.push(Ranked { product_id: entry.product_id, score, reasons });
    }
    ranked.truncate(wanted.k);
    Ok(ranked)
}

/// A session's items as a history: each bought once, just now, in the quantity that lies in the cart.
pub(crate) fn session(items: &[(i64, u32)], now: i64) -> Vec<HistoryItem> {
    let mut quantities: HashMap<i64, u64> = HashMap::new();
    for &(product_id, quantity) in items {
        *quantities.entry(product_id).or_default() += u64::from(quantity);
    }
    let mut history: Vec<HistoryItem> = quantities
        .into_iter()
        .map(|(product_id, quantity)| HistoryItem {
            item: product_id.to_string(),
            purchases: 1.0,
            weight: quantity as f64,
            last_at: Some(now),
        })
        .collect();
    history.sort_unstable_by(|a, b| a.item.cmp(&b.item));
    history
}
