//! Sessions: what a customer does until they pause.
//!
//! A session is a pure function of the events that are there and of a moment: the order in which they came does not matter,
//! and the same events again give the same.

use std::{collections::BTreeSet, sync::Arc};

use serde::Serialize;

use crate::{DAY, MINUTE, Money, store::mirror::Map};

/// So long after its last event a session is over, microseconds.
pub const SESSION_GAP: i64 = 30 * MINUTE;
/// Events count for a session if they are at most so old, microseconds.
pub const SESSION_SPAN: i64 = 6 * 60 * MINUTE;
/// Once in so much of stream time, events that no session can have any more are let go of.
const SWEEP: i64 = 60 * MINUTE;

/// What a customer has done since they came, as of a moment.
///
/// It goes back from the last event to the first pause of more than [`SESSION_GAP`], or six hours before the moment. Where
/// events tell their visit (`user_session`), only those of the last event's count.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Session {
    pub started_at: i64,
    pub last_event_at: i64,
    /// Its type, as the shop writes it.
    pub last_event: Option<String>,
    /// Events of any type.
    pub activity_count: u64,
    /// What was put into the cart last.
    pub cart: Option<CartEvent>,
}

/// A product when it was put into the cart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CartEvent {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product_id: Option<i64>,
    /// Monday is 0, in UTC.
    pub event_weekday: i64,
    /// The first part of `category_code`, which has dots between its parts, and the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category_code_level1: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category_code_level2: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brand: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<Money>,
}

/// An event of a session. In order of time; the rest makes it a total one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionEvent {
    pub(crate) at: i64,
    /// [`NO_EVENT`](super::rows::NO_EVENT) if it has none.
    pub(crate) key: i64,
    pub(crate) event_type: Option<Arc<str>>,
    /// A number for `user_session`.
    pub(crate) visit: Option<i64>,
    /// Of what is put into the cart.
    pub(crate) item: Option<Box<SessionItem>>,
    /// It came by a topic: whether the shop has a row of it does not matter.
    pub(crate) tracked: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionItem {
    pub(crate) product_id: Option<i64>,
    pub(crate) category_code: Option<Arc<str>>,
    pub(crate) brand: Option<Arc<str>>,
    pub(crate) price: Option<Money>,
}

/// The events that a session as of the newest one, or later, may have.
pub(crate) struct Sessions {
    /// By customer, in order.
    events: Map<i64, Vec<SessionEvent>>,
    /// Whose event it is, of those with a key.
    owners: Map<i64, i64>,
    /// The greatest time of all events.
    newest: Option<i64>,
    swept_at: i64,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { events: Map::default(), owners: Map::default(), newest: None, swept_at: i64::MIN }
    }
}

impl Sessions {
    /// Takes in an event that it does not hold, unless it is too old.
    pub(crate) fn put(&mut self, user_id: i64, event: SessionEvent) {
        if self.owners.contains_key(&event.key) {
            return;
        }
        let newest = *self.newest.insert(self.newest.unwrap_or(event.at).max(event.at));
        if event.at <= newest.saturating_sub(SESSION_SPAN) {
            return;
        }
        if event.key != super::rows::NO_EVENT {
            self.owners.insert(event.key, user_id);
        }
        let events = self.events.entry(user_id).or_default();
        let at = events.partition_point(|other| *other <= event);
        events.insert(at, event);
    }

    /// Takes in a tracked event, which the shop may have stored as well.
    pub(crate) fn track(&mut self, user_id: i64, event: SessionEvent) {
        match self.owners.get(&event.key).and_then(|owner| self.events.get_mut(owner)) {
            Some(held) => {
                held.iter_mut().filter(|held| held.key == event.key).for_each(|held| held.tracked = true);
            }
            None => self.put(user_id, event),
        }
    }

    /// Takes an event of the shop out, and tells whose it was.
    pub(crate) fn remove(&mut self, key: i64) -> Option<i64> {
        let user_id = *self.owners.get(&key)?;
        let events = self.events.get_mut(&user_id)?;
        let of_shop = |event: &SessionEvent| event.key == key && !event.tracked;
        events.remove(events.iter().position(of_shop)?);
        self.owners.remove(&key);
        if events.is_empty() {
            self.events.remove(&user_id);
        }
        Some(user_id)
    }

    /// Takes the shop's own events out, and tells whose there were.
    pub(crate) fn clear(&mut self) -> impl Iterator<Item = i64> + use<> {
        let cleared = std::mem::take(self);
        let customers: Vec<_> = cleared.customers().collect();
        self.adopt(cleared);
        customers.into_iter()
    }

    /// Takes in the tracked events of others.
    pub(crate) fn adopt(&mut self, others: Self) {
        for (user_id, events) in others.events {
            for event in events.into_iter().filter(|event| event.tracked) {
                self.track(user_id, event);
            }
        }
    }

    pub(crate) fn customers(&self) -> impl Iterator<Item = i64> {
        self.events.keys().copied()
    }

    /// Now and then lets go of events that are too old, and tells who has none any more.
    pub(crate) fn sweep(&mut self) -> BTreeSet<i64> {
        let mut gone = BTreeSet::new();
        let Some(newest) = self.newest.filter(|newest| newest.saturating_sub(SWEEP) >= self.swept_at) else {
            return gone;
        };
        self.swept_at = newest;
        let oldest = newest.saturating_sub(SESSION_SPAN);
        self.events.retain(|user_id, events| {
            let old = events.partition_point(|event| event.at <= oldest);
            for event in events.drain(..old) {
                self.owners.remove(&event.key);
            }
            if events.is_empty() {
                gone.insert(*user_id);
            }
            !events.is_empty()
        });
        gone
    }

    /// A customer's session as of a moment, or of the newest event if that is later. `None` once it is over.
    pub(crate) fn of(&self, user_id: i64, as_of: i64) -> Option<Session> {
        let events = self.events.get(&user_id)?;
        let as_of = as_of.max(self.newest?);
        let last = events.last().filter(|last| as_of.saturating_sub(last.at) <= SESSION_GAP)?;
        let oldest = as_of.saturating_sub(SESSION_SPAN);
        let mut session = Session {
            started_at: last.at,
            last_event_at: last.at,
            last_event: last.event_type.as_deref().map(Into::into),
            activity_count: 0,
            cart: None,
        };
        for event in events.iter().rev().filter(|event| event.visit == last.visit) {
            if session.started_at.saturating_sub(event.at) > SESSION_GAP || event.at <= oldest {
                break;
            }
            session.started_at = event.at;
            session.activity_count += 1;
            if let (None, Some(item)) = (&session.cart, &event.item) {
                session.cart = Some(CartEvent::of(item, event.at));
            }
        }
        Some(session)
    }
}

impl CartEvent {
    fn of(item: &SessionItem, at: i64) -> Self {
        let mut levels = item.category_code.as_deref().unwrap_or_default().split('.');
        let mut level = || levels.next().filter(|level| !level.is_empty()).map(Into::into);
        Self {
            product_id: item.product_id,
            // The first day of all was a Thursday.
            event_weekday: (at.div_euclid(DAY) + 3).rem_euclid(7),
            category_code_level1: level(),
            category_code_level2: level(),
            brand: item.brand.as_deref().map(Into::into),
            price: item.price,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CUSTOMER: i64 = 7;

    fn event(key: i64, minute: i64, event_type: &str, visit: Option<i64>) -> SessionEvent {
        let item = (event_type == "cart").then(|| {
            Box::new(SessionItem {
                product_id: Some(key),
                category_code: Some("electronics.audio.headphone".into()),
                brand: Some("samsung".into()),
                price: Some(Money::from_cents(1999)),
            })
        });
        let event_type = Some(event_type.into());
        SessionEvent { at: minute * MINUTE, key, event_type, visit, item, tracked: false }
    }

    /// Events with keys of their own, over half a day, in any order.
    fn events() -> impl Strategy<Value = Vec<SessionEvent>> {
        let kinds = prop::sample::select(vec!["view", "cart", "remove_from_cart", "purchase"]);
        let one = (0..720_i64, kinds, prop::option::weighted(0.8, 0..2_i64));
        prop::collection::vec(one, 1..60).prop_map(|events| {
            let numbered = events.into_iter().zip(1..);
            numbered.map(|((minute, kind, visit), key)| event(key, minute, kind, visit)).collect()
        })
    }

    /// The definition, over all events there are.
    fn naive(events: &[SessionEvent], as_of: i64) -> Option<Session> {
        let last = events.iter().max()?;
        if as_of - last.at > SESSION_GAP {
            return None;
        }
        let mut of_visit: Vec<_> =
            events.iter().filter(|one| one.visit == last.visit && one.at > as_of - SESSION_SPAN).collect();
        of_visit.sort();
        let pause = of_visit.windows(2).rposition(|pair| pair[1].at - pair[0].at > SESSION_GAP);
        let of_session = &of_visit[pause.map_or(0, |before| before + 1)..];
        let added = of_session.iter().rev().find(|event| event.item.is_some());
        Some(Session {
            started_at: of_session.first()?.at,
            last_event_at: last.at,
            last_event: last.event_type.as_deref().map(Into::into),
            activity_count: of_session.len() as u64,
            cart: added.and_then(|event| Some(CartEvent::of(event.item.as_ref()?, event.at))),
        })
    }

    proptest! {
        #[test]
        fn a_session_is_that_of_its_events_in_whatever_order_they_come(
            events in events(), gone in prop::collection::btree_set(1..60_i64, 0..10), swept in 1..8_usize, later in 0..40_i64,
        ) {
            let mut sessions = Sessions::default();
            for (number, event) in events.iter().enumerate() {
                // What is sent again takes its own place.
                for _ in 0..2 {
                    sessions.remove(event.key);
                    sessions.put(CUSTOMER, event.clone());
                }
                if number % swept == 0 {
                    sessions.sweep();
                }
            }
            let newest = events.iter().map(|event| event.at).max().unwrap();
            for key in &gone {
                sessions.remove(*key);
            }
            let left: Vec<_> = events.into_iter().filter(|event| !gone.contains(&event.key)).collect();
            let as_of = newest + later * MINUTE;
            prop_assert_eq!(sessions.of(CUSTOMER, as_of), naive(&left, as_of));
        }
    }

    #[test]
    fn what_was_tracked_outlives_the_table() {
        let mut sessions = Sessions::default();
        sessions.put(CUSTOMER, event(1, 0, "view", None));
        sessions.put(CUSTOMER, SessionEvent { tracked: true, ..event(2, 1, "view", None) });
        sessions.put(8, event(3, 1, "view", None));
        let mut cleared: Vec<_> = sessions.clear().collect();
        cleared.sort_unstable();
        assert_eq!(cleared, [CUSTOMER, 8]);
        assert_eq!(sessions.customers().collect::<Vec<_>>(), [CUSTOMER]);
        assert!(sessions.owners.contains_key(&2) && !sessions.owners.contains_key(&1));
        // Another state in which the shop has the event by now.
        let mut anew = Sessions::default();
        anew.put(CUSTOMER, event(2, 1, "view", None));
        anew.adopt(sessions);
        let count = |sessions: &Sessions| sessions.of(CUSTOMER, MINUTE).map(|session| session.activity_count);
        assert_eq!(count(&anew), Some(1));
        assert_eq!(anew.remove(2), None);
        assert_eq!(count(&anew), Some(1));
    }

    #[test]
    fn what_was_put_into_the_cart_and_when_it_is_over() {
        let mut sessions = Sessions::default();
        // 1970-01-05 was a Monday.
        let day = 4 * 24 * 60;
        sessions.put(CUSTOMER, event(1, day, "view", None));
        sessions.put(CUSTOMER, event(3, day + 20, "purchase", None));
        sessions.put(CUSTOMER, event(2, day + 10, "cart", None));
        let as_of = (day + 50) * MINUTE;
        let session = sessions.of(CUSTOMER, as_of).expect("a session");
        assert_eq!((session.activity_count, session.last_event.as_deref()), (3, Some("purchase")));
        let cart = session.cart.expect("a cart");
        assert_eq!((cart.product_id, cart.event_weekday), (Some(2), 0));
        let levels = [cart.category_code_level1, cart.category_code_level2].map(|level| level.unwrap());
        assert_eq!(levels, ["electronics", "audio"]);
        assert_eq!((cart.brand.as_deref(), cart.price), (Some("samsung"), Some(Money::from_cents(1999))));
        assert_eq!(sessions.of(CUSTOMER, as_of + 1), None);

        // Half a day later nobody remembers, and it is told who left.
        sessions.put(8, event(4, day + 720, "view", None));
        assert_eq!(sessions.sweep(), BTreeSet::from([CUSTOMER]));
        assert_eq!(sessions.customers().collect::<Vec<_>>(), [8]);
        assert_eq!(sessions.owners.len(), 1);
        sessions.put(CUSTOMER, event(5, day, "view", None));
        assert_eq!(sessions.remove(5), None);
    }
}
