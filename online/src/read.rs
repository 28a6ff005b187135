//! Reading values: several entities in one round trip, none older than its view allows.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use lakeward_change::Position;
use lakeward_features::View;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    CUSTOMER_VIEWS, Online, OnlineError, Result,
    keys::{self, Held},
    value::Bought,
};

/// Whether there is a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Present,
    /// The store has no value of this entity.
    NotFound,
    /// The value is older than its view allows, and is not told.
    OutsideMaxAge,
}

/// What the store holds of an entity in one view.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ViewValue {
    pub view: View,
    pub status: Status,
    /// What it is true for, microseconds UTC.
    pub event_time: Option<i64>,
    /// The change up to which it counts.
    pub position: Option<Position>,
    /// The view's columns by name; of [`View::UserItemInteractions`] a list of `product_id` and `score`, highest first.
    pub values: Option<Value>,
}

/// What the store holds of an entity.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Features {
    /// The customer or product.
    pub entity: i64,
    pub views: Vec<ViewValue>,
}

/// A customer's purchases as of a change.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    pub position: Position,
    /// The newest purchases first.
    pub items: Vec<Bought>,
}

/// What of a session's value tells its age.
#[derive(Deserialize)]
struct LastEvent {
    last_event_at: DateTime<Utc>,
}

/// A value, its event time and its position, as the entity's hash has them.
type Fields = (Option<String>, Option<String>, Option<String>);

impl Online {
    /// The features of customers as of a moment (microseconds UTC), in the order asked for.
    ///
    /// # Errors
    /// Redis does not answer in time, or holds what is not ours.
    pub async fn customers(&self, user_ids: &[i64], as_of: i64) -> Result<Vec<Features>> {
        let mut commands = redis::pipe();
        for user_id in user_ids {
            for view in CUSTOMER_VIEWS {
                self.add_read(&mut commands, view.into(), *user_id);
            }
            commands.cmd("HGETALL").arg(keys::interactions(*user_id));
        }
        type Customer = (Fields, Fields, Fields, Fields, BTreeMap<String, String>);
        let mut answers = Vec::with_capacity(user_ids.len());
        if !user_ids.is_empty() {
            let flat: Vec<redis::Value> = self.ask(&commands).await?;
            for values in flat.chunks(CUSTOMER_VIEWS.len() + 1) {
                let customer: Customer = redis::from_redis_value(redis::Value::Array(values.to_vec()))
                    .map_err(|error| OnlineError::Redis(error.into()))?;
                answers.push(customer);
            }
        }
        let decoded =
            user_ids.iter().zip(answers).map(|(&user_id, (rfm, activity, mut touched, session, scores))| {
                touched.0 = (!scores.is_empty())
                    .then(|| format!("[{}]", Vec::from_iter(scores.into_values()).join(",")));
                let views = CUSTOMER_VIEWS.into_iter().zip([rfm, activity, touched, session]);
                let views = views.map(|(view, held)| self.decode(view, user_id, held, as_of));
                Ok(Features { entity: user_id, views: views.collect::<Result<_>>()? })
            });
        decoded.collect()
    }

    /// The features of products, as [`Self::customers`].
    ///
    /// # Errors
    /// As [`Self::customers`].
    pub async fn products(&self, product_ids: &[i64], as_of: i64) -> Result<Vec<Features>> {
        if product_ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = redis::pipe();
        let view = View::ProductPopularity;
        for product_id in product_ids {
            self.add_read(&mut commands, view.into(), *product_id);
        }
        let answers: Vec<Fields> = self.ask(&commands).await?;
        let decoded = product_ids.iter().zip(answers).map(|(&entity, held)| {
            Ok(Features { entity, views: vec![self.decode(view, entity, held, as_of)?] })
        });
        decoded.collect()
    }

    /// What a customer has bought, if a [`Publisher`](crate::Publisher) has said so.
    ///
    /// # Errors
    /// As [`Self::customers`].
    pub async fn history(&self, user_id: i64) -> Result<Option<History>> {
        let mut commands = redis::pipe();
        self.add_read(&mut commands, Held::History, user_id);
        let ((value, _, position),): (Fields,) = self.ask(&commands).await?;
        let foreign = |problem: &str| OnlineError::Foreign {
            key: self.keys.entity(Held::History, user_id),
            problem: format!("history: {problem}"),
        };
        let Some(position) = position else { return Ok(None) };
        let position = keys::parse_place(&position).ok_or_else(|| foreign("its position"))?;
        let items = match value {
            Some(text) => serde_json::from_str(&text).map_err(|_| foreign("its value"))?,
            None => Vec::new(),
        };
        Ok(Some(History { position, items }))
    }

    fn add_read(&self, commands: &mut redis::Pipeline, held: Held, id: i64) {
        commands.cmd("HMGET").arg(self.keys.entity(held, id)).arg(&keys::fields(held));
    }

    fn decode(&self, view: View, id: i64, held: Fields, as_of: i64) -> Result<ViewValue> {
        let (value, event_time, position) = held;
        let foreign = |problem: &str| OnlineError::Foreign {
            key: self.keys.entity(view.into(), id),
            problem: format!("{view}: {problem}"),
        };
        let event_time = event_time.map(|text| text.parse::<i64>());
        let event_time = event_time.transpose().map_err(|_| foreign("its time is no number"))?;
        // A session's age is counted from its last event, not from when it was written.
        let event_time = match &value {
            Some(text) if view == View::Session => {
                let last = serde_json::from_str::<LastEvent>(text).map_err(|_| foreign("its value"))?;
                Some(last.last_event_at.timestamp_micros())
            }
            _ => event_time,
        };
        let position = position.map(|text| keys::parse_place(&text).ok_or_else(|| foreign("its position")));
        let position = position.transpose()?;
        let ttl = i64::try_from(self.ttl.of(view).as_micros()).unwrap_or(i64::MAX);
        let (status, value) = match (value, event_time) {
            (Some(_), Some(event_time)) if as_of.saturating_sub(event_time) > ttl => {
                (Status::OutsideMaxAge, None)
            }
            (Some(value), Some(_)) => (Status::Present, Some(value)),
            _ => (Status::NotFound, None),
        };
        let values = value.map(|text| serde_json::from_str::<Value>(&text)).transpose();
        let mut values = values.map_err(|_| foreign("its value is no JSON"))?;
        if let Some(Value::Array(scores)) = &mut values {
            let rank = |one: &Value| (one["score"].as_f64().unwrap_or(0.0), one["product_id"].as_i64());
            scores.sort_by(|a, b| {
                let ((a, a_id), (b, b_id)) = (rank(a), rank(b));
                b.total_cmp(&a).then(a_id.cmp(&b_id))
            });
        }
        Ok(ViewValue { view, status, event_time, position, values })
    }
}
