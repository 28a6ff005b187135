//! Features for answers: the online store's, or while it is away what this process computes itself.

use lakeward_features::{OnlineStore, View};
use lakeward_online::{Bought, Features, OnlineError, Status, ViewValue, customer_values};
use lakeward_recommender::HistoryItem;
use serde_json::Value;

use crate::{state::Context, telemetry};

/// Who had the features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Store {
    /// The online store that all processes share.
    Redis,
    /// The shop's rows in this process.
    Memory,
}

/// Features of customers and of products, in the order asked for.
pub(crate) struct Found {
    pub customers: Vec<Features>,
    /// `None` where only the online store has any, and it is away or there is none.
    pub products: Option<Vec<Features>>,
    pub store: Store,
    /// The online store should have been asked, and did not answer.
    pub degraded: bool,
}

/// A customer's purchases by the online store, where those are newer than this process's own. The second says that it
/// should have been asked and did not answer.
pub(crate) async fn newest_history(context: &Context, user_id: i64) -> (Option<Vec<HistoryItem>>, bool) {
    let Some(online) = context.app.online.as_ref().filter(|_| context.app.behind) else {
        return (None, false);
    };
    let item = |bought: &Bought| HistoryItem {
        item: bought.product_id.to_string(),
        purchases: bought.purchases as f64,
        weight: bought.quantity as f64,
        last_at: bought.last_at,
    };
    match online.history(user_id).await {
        Ok(Some(history)) if history.position > context.app.store.status().position() => {
            (Some(history.items.iter().map(item).collect()), false)
        }
        Ok(_) => (None, false),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "a history comes from memory");
            (None, true)
        }
    }
}

pub(crate) async fn find(context: &Context, customers: &[i64], products: &[i64], as_of: i64) -> Found {
    let found = match asked(context, customers, products, as_of).await {
        Ok(Some((customers, products))) => {
            Found { customers, products: Some(products), store: Store::Redis, degraded: false }
        }
        absent => {
            if let Err(error) = &absent {
                tracing::debug!(error = error as &dyn std::error::Error, "features come from memory");
            }
            let store = context.app.store.as_ref();
            let customers = customers.iter().map(|user_id| computed(store, *user_id, as_of)).collect();
            Found { customers, products: None, store: Store::Memory, degraded: absent.is_err() }
        }
    };
    let store = if found.store == Store::Redis { "redis" } else { "memory" };
    let entities = (customers.len() + products.len()) as u64;
    metrics::counter!(telemetry::FEATURES, "store" => store).increment(entities);
    found
}

/// What the online store has, if there is one.
async fn asked(
    context: &Context,
    customers: &[i64],
    products: &[i64],
    as_of: i64,
) -> Result<Option<(Vec<Features>, Vec<Features>)>, OnlineError> {
    let Some(online) = &context.app.online else { return Ok(None) };
    Ok(Some((online.customers(customers, as_of).await?, online.products(products, as_of).await?)))
}

fn computed(store: &dyn OnlineStore, user_id: i64, as_of: i64) -> Features {
    let position = store.status().position();
    let views = customer_values(store, user_id, as_of).map(|(view, texts)| {
        let values = match view {
            View::UserItemInteractions => (!texts.is_empty()).then(|| {
                let scored = texts.iter().skip(1).step_by(2);
                Value::Array(scored.filter_map(|text| serde_json::from_str(text).ok()).collect())
            }),
            _ => texts.first().and_then(|text| serde_json::from_str(text).ok()),
        };
        let status = if values.is_some() { Status::Present } else { Status::NotFound };
        let held = values.is_some();
        ViewValue {
            view,
            status,
            event_time: held.then_some(as_of),
            position: held.then_some(position),
            values,
        }
    });
    Features { entity: user_id, views: views.into() }
}
