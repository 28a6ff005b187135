//! Answers from the mirror.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use tokio::sync::broadcast;

use crate::{
    Activity, DAY, Interaction, Money, ShopTable, interaction,
    rfm::{Boundaries, Quintiles},
    store::{
        Customer, ItemHistory, MemoryStore, OnlineStore, OrderItem, OrderSummary, Product, RevenueMinute,
        Session, StoreEvent, StoreStatus,
        mirror::{self, Map, Mirror, Order, OrderFacts},
    },
};

/// What RFM measures, over a customer's kept orders.
struct Value {
    first: i64,
    last: i64,
    frequency: u64,
    monetary: Money,
}

impl Value {
    fn of(mirror: &Mirror, user_id: i64, as_of: i64) -> Option<Self> {
        let mut value: Option<Self> = None;
        for (_, facts, _) in mirror.kept_orders(user_id, as_of) {
            let placed = facts.created_at;
            let value = value.get_or_insert(Self {
                first: placed,
                last: placed,
                frequency: 0,
                monetary: Money::ZERO,
            });
            value.last = placed;
            value.frequency += 1;
            value.monetary += facts.total_amount;
        }
        value
    }

    fn recency_days(&self, as_of: i64) -> i64 {
        as_of.saturating_sub(self.last) / DAY
    }
}

impl Mirror {
    /// A customer's kept orders in order of time.
    fn kept_orders(&self, user_id: i64, as_of: i64) -> impl Iterator<Item = (i64, &OrderFacts, &Order)> {
        let ids = self.customer_orders.get(&user_id).into_iter().flatten();
        ids.take_while(move |(placed, _)| *placed <= as_of).filter_map(move |(_, id)| {
            let order = self.orders.get(id)?;
            let facts = order.row.as_ref().filter(|facts| facts.kept_at(as_of))?;
            Some((*id, facts, order))
        })
    }

    fn product(&self, product_id: i64, product: &mirror::Product) -> Option<Product> {
        let row = product.row.as_ref()?;
        Some(Product {
            product_id,
            name: row.name.as_deref().map(Into::into),
            category: row.category.as_deref().map(Into::into),
            price: row.price,
            purchases: product.purchases,
            views: product.interest.views.into(),
            carts: product.interest.carts.into(),
        })
    }
}

pub(super) fn order(mirror: &Mirror, order_id: i64) -> Option<OrderSummary> {
    let order = mirror.orders.get(&order_id)?;
    let facts = order.row.as_ref()?;
    let items = order.items.iter().map(|item| OrderItem {
        order_item_id: item.order_item_id,
        product_id: item.product_id,
        quantity: item.quantity,
        price_per_unit: item.price,
    });
    Some(OrderSummary {
        order_id,
        user_id: facts.user_id,
        status: facts.status.to_string(),
        total_amount: facts.total_amount,
        created_at: facts.created_at,
        kept: facts.kept(),
        items: items.collect(),
    })
}

/// The fifths of all customers with a kept order; `None` if there is none.
pub(super) fn boundaries(mirror: &Mirror, as_of: i64) -> Option<Boundaries> {
    let values: Vec<_> =
        mirror.customer_orders.keys().filter_map(|user_id| Value::of(mirror, *user_id, as_of)).collect();
    (!values.is_empty()).then(|| Boundaries {
        recency: Quintiles::of(values.iter().map(|value| -value.recency_days(as_of)).collect()),
        frequency: Quintiles::of(values.iter().map(|value| value.frequency).collect()),
        monetary: Quintiles::of(values.iter().map(|value| value.monetary).collect()),
    })
}

impl OnlineStore for MemoryStore {
    fn status(&self) -> StoreStatus {
        let state = self.read();
        let mirror = &state.mirror;
        StoreStatus {
            as_of: mirror.stream_time,
            committed_at: state.committed_at,
            watermark: state.watermark,
            positions: ShopTable::ALL
                .into_iter()
                .filter_map(|table| Some((table.name(), state.positions[table as usize]?)))
                .collect(),
            users: mirror.users.len(),
            products: mirror.catalogue_size,
            orders: mirror.timeline.len(),
            order_items: mirror.item_orders.len(),
            events: mirror.event_count,
            changes: state.changes,
        }
    }

    fn customer(&self, user_id: i64, as_of: i64) -> Option<Customer> {
        let state = self.read();
        let mirror = &state.mirror;
        let row = mirror.users.get(&user_id);
        let ids = mirror.customer_orders.get(&user_id);
        if row.is_none() && ids.is_none() {
            return None;
        }
        let value = Value::of(mirror, user_id, as_of);
        let recency_days = value.as_ref().map(|value| value.recency_days(as_of));
        Some(Customer {
            user_id,
            name: row.and_then(|row| row.name.as_deref()).map(Into::into),
            created_at: row.and_then(|row| row.created_at),
            last_login: row.and_then(|row| row.last_login),
            orders: ids.map_or(0, |ids| ids.range(..=(as_of, i64::MAX)).count() as u64),
            kept_orders: value.as_ref().map_or(0, |value| value.frequency),
            monetary: value.as_ref().map_or(Money::ZERO, |value| value.monetary),
            recency_days,
            first_order_at: value.as_ref().map(|value| value.first),
            last_order_at: value.as_ref().map(|value| value.last),
            rfm: state.boundaries.as_ref().zip(value).map(|(boundaries, value)| {
                boundaries.score(value.recency_days(as_of), value.frequency, value.monetary)
            }),
        })
    }

    fn history(&self, user_id: i64, as_of: i64) -> Vec<ItemHistory> {
        let state = self.read();
        let mirror = &state.mirror;
        let new = |product_id| ItemHistory {
            product_id,
            purchases: 0,
            quantity: 0,
            spend: Money::ZERO,
            first_at: None,
            last_at: None,
            views: 0,
            carts: 0,
        };
        // With the order that was counted last, so that two items of one product count as one purchase.
        let mut found: Map<i64, (ItemHistory, Option<i64>)> = Map::default();
        for (order_id, facts, order) in mirror.kept_orders(user_id, as_of) {
            for item in &order.items {
                let (history, counted) =
                    found.entry(item.product_id).or_insert_with(|| (new(item.product_id), None));
                if counted.replace(order_id) != Some(order_id) {
                    history.purchases += 1;
                }
                history.quantity += item.quantity;
                history.spend += item.price * item.quantity;
                history.first_at.get_or_insert(facts.created_at);
                history.last_at = Some(facts.created_at);
            }
        }
        for (product_id, touches) in mirror.interest.get(&user_id).into_iter().flatten() {
            let (history, _) = found.entry(*product_id).or_insert_with(|| (new(*product_id), None));
            history.carts = touches.iter().filter(|touch| touch.cart).count() as u64;
            history.views = touches.len() as u64 - history.carts;
        }
        let mut histories: Vec<_> = found.into_values().map(|(history, _)| history).collect();
        histories.sort_unstable_by_key(|history| (Reverse(history.last_at), history.product_id));
        histories
    }

    fn interactions(&self, user_id: i64, as_of: i64) -> Vec<Interaction> {
        let state = self.read();
        let mirror = &state.mirror;
        let mut scores: BTreeMap<i64, i64> = BTreeMap::new();
        for (_, facts, order) in mirror.kept_orders(user_id, as_of) {
            let products: BTreeSet<_> = order.items.iter().map(|item| item.product_id).collect();
            for product_id in products {
                *scores.entry(product_id).or_default() +=
                    interaction::purchase(as_of.saturating_sub(facts.created_at));
            }
        }
        for (product_id, touches) in mirror.interest.get(&user_id).into_iter().flatten() {
            for touch in touches.iter().filter(|touch| touch.at <= as_of) {
                let score = if touch.cart { interaction::cart } else { interaction::view };
                *scores.entry(*product_id).or_default() += score(as_of.saturating_sub(touch.at));
            }
        }
        scores.into_iter().map(|(product_id, millionths)| Interaction { product_id, millionths }).collect()
    }

    fn orders(&self, user_id: i64, limit: usize) -> Vec<OrderSummary> {
        let state = self.read();
        let ids = state.mirror.customer_orders.get(&user_id).into_iter().flat_map(|ids| ids.iter().rev());
        ids.take(limit).filter_map(|(_, id)| order(&state.mirror, *id)).collect()
    }

    fn activity(&self, user_id: i64, as_of: i64) -> Option<Activity> {
        let state = self.read();
        let orders: Vec<_> = state
            .mirror
            .kept_orders(user_id, as_of)
            .map(|(_, facts, _)| (facts.created_at, facts.total_amount))
            .collect();
        Activity::of(&orders, as_of)
    }

    fn session(&self, user_id: i64, as_of: i64) -> Option<Session> {
        self.read().mirror.sessions.of(user_id, as_of)
    }

    fn product(&self, product_id: i64) -> Option<Product> {
        let state = self.read();
        state.mirror.product(product_id, state.mirror.products.get(&product_id)?)
    }

    fn products(&self) -> Vec<Product> {
        let state = self.read();
        let products = state.mirror.products.iter();
        let mut products: Vec<_> =
            products.filter_map(|(id, product)| state.mirror.product(*id, product)).collect();
        products.sort_unstable_by_key(|product| product.product_id);
        products
    }

    fn revenue_minutes(&self, from: i64, to: i64) -> Vec<RevenueMinute> {
        self.read().mirror.minutes.range(from, to).collect()
    }

    fn newest_orders(&self, n: usize) -> Vec<OrderSummary> {
        let state = self.read();
        let newest = state.mirror.timeline.iter().rev().take(n);
        newest.filter_map(|(_, id)| order(&state.mirror, *id)).collect()
    }

    fn refresh_scores(&self, as_of: i64) {
        let boundaries = boundaries(&self.read().mirror, as_of);
        self.state.write().unwrap_or_else(PoisonError::into_inner).boundaries = boundaries;
    }

    fn subscribe(&self) -> broadcast::Receiver<StoreEvent> {
        self.events.subscribe()
    }
}
