//! What is held out of the data to choose weights and to measure: each user's last basket, or, where there
//! are no times, a random one.

use std::collections::HashSet;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::interactions::{Event, Interactions};

/// Where baskets are unknown, this share of a user's items is held out.
const RANDOM_SHARE: f64 = 0.2;

/// A user with what they bought next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Case {
    pub(crate) user: u32,
    /// When the held-out basket was bought; `None` without times.
    pub(crate) now: Option<i64>,
    pub(crate) target: HashSet<u32>,
}

/// Held-out events and the cases they make, by user.
#[derive(Debug, Clone)]
pub(crate) struct HoldOut {
    /// One flag an event.
    pub(crate) events: Vec<bool>,
    pub(crate) cases: Vec<Case>,
}

/// Holds out one basket of each user who has two or more (all but the last stay), for at most `users`
/// users drawn by `seed`.
pub(crate) fn hold_out(data: &Interactions, users: usize, seed: u64) -> HoldOut {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut eligible: Vec<&[Event]> = data
        .events
        .chunk_by(|a, b| a.user == b.user)
        .filter(|events| events.first().map(|e| e.basket) != events.last().map(|e| e.basket))
        .collect();
    if eligible.len() > users {
        eligible.shuffle(&mut rng);
        eligible.truncate(users);
        eligible.sort_unstable_by_key(|events| events[0].user);
    }
    let mut held_out = HashSet::new();
    let mut cases = Vec::with_capacity(eligible.len());
    for events in eligible {
        let user = events[0].user;
        let last = events[events.len() - 1].basket;
        let out: HashSet<u32> = if data.timed {
            HashSet::from([last])
        } else if data.basketed {
            HashSet::from([rng.random_range(0..=last)])
        } else {
            let mut baskets: Vec<u32> = (0..=last).collect();
            baskets.shuffle(&mut rng);
            let share = (baskets.len() as f64 * RANDOM_SHARE).round() as usize;
            baskets.truncate(share.max(1));
            baskets.into_iter().collect()
        };
        let taken = || events.iter().filter(|event| out.contains(&event.basket));
        cases.push(Case {
            user,
            now: taken().map(|event| event.at).min().filter(|_| data.timed),
            target: taken().map(|event| event.item).collect(),
        });
        held_out.extend(out.into_iter().map(|basket| (user, basket)));
    }
    HoldOut {
        events: data.events.iter().map(|event| held_out.contains(&(event.user, event.basket))).collect(),
        cases,
    }
}
