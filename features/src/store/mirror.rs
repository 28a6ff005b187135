//! The shop's rows in memory, keyed by primary key, and what is derived from them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use foldhash::fast::RandomState;

use crate::{
    Money,
    revenue::Minutes,
    store::{
        contribution::Contribution,
        rows::{EventRow, ItemRow, NO_EVENT, OrderRow, ProductRow, UserRow},
        session::{SessionEvent, SessionItem, Sessions},
    },
};

pub(crate) type Map<K, V> = HashMap<K, V, RandomState>;

/// Every derived number is the sum of what single orders contribute: an order is taken out with what it contributed
/// before it first changes in a chunk, and put back with what it contributes after the chunk's last change.
#[derive(Default)]
pub(crate) struct Mirror {
    pub(crate) users: Map<i64, User>,
    pub(crate) products: Map<i64, Product>,
    /// Products that have a row.
    pub(crate) catalogue_size: usize,
    pub(crate) orders: Map<i64, Order>,
    /// The order that holds an item.
    pub(crate) item_orders: Map<i64, i64>,
    /// Views and carts by customer and product.
    pub(crate) interest: Map<i64, Map<i64, Vec<Touch>>>,
    pub(crate) event_count: u64,
    /// What was counted, by key, to take it out again.
    events: Map<i64, Event>,
    pub(crate) sessions: Sessions,

    /// A customer's orders by time.
    pub(crate) customer_orders: Map<i64, BTreeSet<(i64, i64)>>,
    /// All orders by time.
    pub(crate) timeline: BTreeSet<(i64, i64)>,
    pub(crate) minutes: Minutes,

    /// Orders taken out, with what they contributed before the chunk.
    touched: Map<i64, Option<Contribution>>,
    /// Customers of the chunk's events.
    interested: BTreeSet<i64>,
    pub(crate) names: Names,
    pub(crate) stream_time: Option<i64>,
}

pub(crate) struct User {
    pub(crate) name: Option<Box<str>>,
    pub(crate) created_at: Option<i64>,
    pub(crate) last_login: Option<i64>,
}

/// A product's row, if the catalogue has it, and its counters, which outlive it.
#[derive(Default)]
pub(crate) struct Product {
    pub(crate) row: Option<CatalogueRow>,
    pub(crate) purchases: u64,
    pub(crate) interest: Interest,
}

pub(crate) struct CatalogueRow {
    pub(crate) name: Option<Box<str>>,
    pub(crate) category: Option<Arc<str>>,
    pub(crate) price: Option<Money>,
}

#[derive(Default, Clone, Copy)]
pub(crate) struct Interest {
    pub(crate) views: u32,
    pub(crate) carts: u32,
}

impl Interest {
    fn of(&mut self, cart: bool) -> &mut u32 {
        if cart { &mut self.carts } else { &mut self.views }
    }
}

/// A view or a cart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Touch {
    /// `i64::MAX` where the event has no time.
    pub(crate) at: i64,
    pub(crate) cart: bool,
}

struct Event {
    user_id: i64,
    product_id: i64,
    touch: Touch,
}

/// An order's row, if it has come, and its items, which may come before it.
#[derive(Default)]
pub(crate) struct Order {
    pub(crate) row: Option<OrderFacts>,
    pub(crate) items: Vec<Item>,
}

pub(crate) struct OrderFacts {
    pub(crate) user_id: Option<i64>,
    pub(crate) total_amount: Money,
    pub(crate) created_at: i64,
    /// When it was cancelled or returned; `i64::MAX` while it is kept.
    pub(crate) closed_at: i64,
    pub(crate) status: Arc<str>,
}

impl OrderFacts {
    pub(crate) fn kept_at(&self, as_of: i64) -> bool {
        self.created_at <= as_of && self.closed_at > as_of
    }

    /// As the newest row says, whatever the time.
    pub(crate) fn kept(&self) -> bool {
        self.closed_at == i64::MAX
    }
}

pub(crate) struct Item {
    pub(crate) order_item_id: i64,
    pub(crate) product_id: i64,
    pub(crate) quantity: i64,
    pub(crate) price: Money,
}

/// Texts that many rows share, held once.
#[derive(Default)]
pub(crate) struct Names(BTreeSet<Arc<str>>);

impl Names {
    fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.0.insert(Arc::clone(&new));
        new
    }
}

/// What became of the orders of a chunk.
pub(crate) struct Settled {
    /// Orders that are there and were inserted or changed, by id.
    pub(crate) orders: Vec<i64>,
    /// Minutes whose revenue changed.
    pub(crate) minutes: BTreeSet<i64>,
    /// Customers whose orders or events changed.
    pub(crate) customers: BTreeSet<i64>,
}

/// The columns of a change whose value the source did not send because it is unchanged. Only long text can be so:
/// everything else is short enough to be in every row image.
pub(crate) type Unsent<'a> = &'a dyn Fn(&'static str) -> bool;

impl Mirror {
    pub(crate) fn see_time(&mut self, time: Option<i64>) {
        self.stream_time = self.stream_time.max(time);
    }

    /// `stored`: the key whose row holds the values that were not sent.
    pub(crate) fn put_user(&mut self, user_id: i64, row: &UserRow<'_>, stored: i64, unsent: Unsent<'_>) {
        let old = self.users.remove(&stored);
        let name = if unsent("name") { old.and_then(|old| old.name) } else { row.name.map(Into::into) };
        self.see_time(row.created_at.max(row.last_login));
        self.users.insert(user_id, User { name, created_at: row.created_at, last_login: row.last_login });
    }

    pub(crate) fn put_product(
        &mut self,
        product_id: i64,
        row: &ProductRow<'_>,
        stored: i64,
        unsent: Unsent<'_>,
    ) {
        let old = self.take_product(stored);
        self.take_product(product_id);
        let (old_name, old_category) = old.map_or((None, None), |old| (old.name, old.category));
        let name = if unsent("name") { old_name } else { row.name.map(Into::into) };
        let category = if unsent("category") {
            old_category
        } else {
            row.category.map(|category| self.names.shared(category))
        };
        self.products.entry(product_id).or_default().row =
            Some(CatalogueRow { name, category, price: row.price });
        self.catalogue_size += 1;
    }

    pub(crate) fn put_order(&mut self, order_id: i64, row: &OrderRow<'_>, stored: i64, unsent: Unsent<'_>) {
        self.touch(stored);
        self.touch(order_id);
        let old = self.orders.get_mut(&stored).and_then(|order| order.row.take());
        let status = match old {
            Some(old) if unsent("status") => old.status,
            _ => self.names.shared(row.status.unwrap_or_default()),
        };
        self.see_time(row.newest_time);
        let closed_at = row.closes_at(&status);
        // An order without a time cannot be placed in any answer.
        self.orders.entry(order_id).or_default().row = row.created_at.map(|created_at| OrderFacts {
            user_id: row.user_id,
            total_amount: row.total_amount,
            created_at,
            closed_at,
            status,
        });
    }

    pub(crate) fn put_item(&mut self, order_item_id: i64, row: &ItemRow, stored: i64) {
        if stored != order_item_id {
            self.remove_item(stored);
        }
        let (Some(order_id), Some(product_id)) = (row.order_id, row.product_id) else {
            return self.remove_item(order_item_id);
        };
        if let Some(before) = self.item_orders.insert(order_item_id, order_id) {
            self.take_item(before, order_item_id);
        }
        self.touch(order_id);
        let item = Item { order_item_id, product_id, quantity: row.quantity, price: row.price };
        self.orders.entry(order_id).or_default().items.push(item);
    }

    pub(crate) fn put_event(&mut self, key: i64, row: &EventRow<'_>, stored: i64) {
        self.see_time(row.time);
        self.remove_event(stored);
        self.remove_event(key);
        if let Some((user_id, event)) = self.session_event(key, row, false) {
            self.sessions.put(user_id, event);
        }
        let (Some(user_id), Some(product_id)) = (row.user_id, row.product_id) else { return };
        let cart = match row.event_type {
            Some("view") => false,
            Some("cart") => true,
            _ => return,
        };
        let touch = Touch { at: row.time.unwrap_or(i64::MAX), cart };
        if key != NO_EVENT {
            self.events.insert(key, Event { user_id, product_id, touch });
        }
        self.event_count += 1;
        self.interested.insert(user_id);
        self.interest.entry(user_id).or_default().entry(product_id).or_default().push(touch);
        let count = self.products.entry(product_id).or_default().interest.of(cart);
        *count = count.saturating_add(1);
    }

    /// Takes in an event for its customer's session alone.
    pub(crate) fn track_event(&mut self, key: i64, row: &EventRow<'_>) {
        if let Some((user_id, event)) = self.session_event(key, row, true) {
            self.sessions.track(user_id, event);
        }
    }

    /// A customer and their event, if it can be in a session.
    fn session_event(&mut self, key: i64, row: &EventRow<'_>, tracked: bool) -> Option<(i64, SessionEvent)> {
        let (user_id, at) = (row.user_id?, row.time?);
        let mut shared = |text: Option<&str>| text.map(|text| self.names.shared(text));
        let item = (row.event_type == Some("cart")).then(|| {
            Box::new(SessionItem {
                product_id: row.product_id,
                category_code: shared(row.category_code),
                brand: shared(row.brand),
                price: row.price,
            })
        });
        let event_type = shared(row.event_type);
        self.interested.insert(user_id);
        Some((user_id, SessionEvent { at, key, event_type, visit: row.visit, item, tracked }))
    }

    pub(crate) fn remove_event(&mut self, key: i64) {
        self.interested.extend(self.sessions.remove(key));
        let Some(Event { user_id, product_id, touch }) = self.events.remove(&key) else { return };
        self.event_count -= 1;
        self.interested.insert(user_id);
        if let Some(product) = self.products.get_mut(&product_id) {
            *product.interest.of(touch.cart) -= 1;
        }
        let Some(of_customer) = self.interest.get_mut(&user_id) else { return };
        if let Some(touches) = of_customer.get_mut(&product_id) {
            if let Some(at) = touches.iter().position(|one| *one == touch) {
                touches.swap_remove(at);
            }
            if touches.is_empty() {
                of_customer.remove(&product_id);
            }
        }
        if of_customer.is_empty() {
            self.interest.remove(&user_id);
        }
    }

    pub(crate) fn remove_user(&mut self, user_id: i64) {
        self.users.remove(&user_id);
    }

    pub(crate) fn take_product(&mut self, product_id: i64) -> Option<CatalogueRow> {
        let row = self.products.get_mut(&product_id)?.row.take()?;
        self.catalogue_size -= 1;
        Some(row)
    }

    pub(crate) fn remove_order(&mut self, order_id: i64) {
        self.touch(order_id);
        if let Some(order) = self.orders.get_mut(&order_id) {
            order.row = None;
        }
    }

    pub(crate) fn remove_item(&mut self, order_item_id: i64) {
        if let Some(order_id) = self.item_orders.remove(&order_item_id) {
            self.take_item(order_id, order_item_id);
        }
    }

    fn take_item(&mut self, order_id: i64, order_item_id: i64) {
        self.touch(order_id);
        if let Some(order) = self.orders.get_mut(&order_id) {
            order.items.retain(|item| item.order_item_id != order_item_id);
        }
    }

    pub(crate) fn truncate_orders(&mut self) {
        for order_id in self.orders.keys().copied().collect::<Vec<_>>() {
            self.remove_order(order_id);
        }
    }

    pub(crate) fn truncate_items(&mut self) {
        for order_id in std::mem::take(&mut self.item_orders).into_values() {
            self.touch(order_id);
            if let Some(order) = self.orders.get_mut(&order_id) {
                order.items = Vec::new();
            }
        }
    }

    pub(crate) fn truncate_products(&mut self) {
        self.products.values_mut().for_each(|product| product.row = None);
        self.catalogue_size = 0;
    }

    pub(crate) fn truncate_events(&mut self) {
        self.interested.extend(std::mem::take(&mut self.interest).into_keys());
        self.interested.extend(self.sessions.clear());
        self.events = Map::default();
        self.event_count = 0;
        self.products.values_mut().for_each(|product| product.interest = Interest::default());
    }

    /// Takes an order's contribution out, once a chunk.
    fn touch(&mut self, order_id: i64) {
        if self.touched.contains_key(&order_id) {
            return;
        }
        let before = self.orders.get(&order_id).and_then(Contribution::of);
        if let Some(before) = &before {
            self.retract(order_id, before);
        }
        self.touched.insert(order_id, before);
    }

    /// Puts the contributions of the chunk's orders back, as they are now.
    pub(crate) fn settle(&mut self) -> Settled {
        let mut customers = std::mem::take(&mut self.interested);
        customers.extend(self.sessions.sweep());
        let mut settled = Settled { orders: Vec::new(), minutes: BTreeSet::new(), customers };
        let mut touched: Vec<_> = std::mem::take(&mut self.touched).into_iter().collect();
        touched.sort_unstable_by_key(|(order_id, _)| *order_id);
        for (order_id, before) in touched {
            if let Some(order) = self.orders.get_mut(&order_id) {
                // Most orders never change again.
                order.items.shrink_to_fit();
                order.items.sort_unstable_by_key(|item| item.order_item_id);
                if order.row.is_none() && order.items.is_empty() {
                    self.orders.remove(&order_id);
                }
            }
            let after = self.orders.get(&order_id).and_then(Contribution::of);
            if let Some(after) = &after {
                self.add(order_id, after);
                settled.orders.push(order_id);
            }
            settled.customers.extend([&before, &after].into_iter().flatten().filter_map(|one| one.user_id));
            let revenue =
                |contribution: &Option<Contribution>| contribution.as_ref().and_then(Contribution::revenue);
            if revenue(&before) != revenue(&after) {
                let both = [before, after].into_iter().flatten();
                settled.minutes.extend(both.filter_map(|one| one.revenue()).map(|(minute, _)| minute));
            }
        }
        settled
    }
}
