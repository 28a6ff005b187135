//! Behaviour events: a visit of views and carts, which may end in a purchase.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use uuid::{Builder, Uuid};

use super::SECOND;
use super::taste::Tastes;

pub(crate) struct Browsed {
    pub(crate) event_id: Uuid,
    pub(crate) time: i64,
    pub(crate) kind: &'static str,
    pub(crate) product: usize,
}

pub(crate) struct Visit {
    pub(crate) session: Uuid,
    /// In order of time.
    pub(crate) events: Vec<Browsed>,
}

impl Visit {
    /// The visit that led to an order at `end`: each bought product is viewed, put in the cart and purchased.
    pub(crate) fn of_order(
        rng: &mut ChaCha8Rng,
        bought: &[usize],
        tastes: &Tastes,
        shares: &[f32],
        end: i64,
    ) -> Self {
        let mut visit = Self { session: uuid(rng), events: Vec::with_capacity(bought.len() * 3 + 2) };
        for product in bought {
            let viewed = end - rng.random_range(60 * SECOND..1500 * SECOND);
            visit.add(rng, viewed, "view", *product);
            visit.add(rng, viewed + share_of(viewed, end, 0.6), "cart", *product);
            visit.add(rng, end, "purchase", *product);
        }
        if rng.random_range(0..4) == 0 {
            visit.look_around(rng, tastes, shares, end);
        }
        visit.sorted()
    }

    /// A visit without an order, over by `end`.
    pub(crate) fn without_order(rng: &mut ChaCha8Rng, tastes: &Tastes, shares: &[f32], end: i64) -> Self {
        let mut visit = Self { session: uuid(rng), events: Vec::new() };
        for _ in 0..rng.random_range(1..5) {
            visit.look_around(rng, tastes, shares, end);
        }
        visit.sorted()
    }

    /// One product viewed, perhaps put in the cart and taken out again.
    fn look_around(&mut self, rng: &mut ChaCha8Rng, tastes: &Tastes, shares: &[f32], end: i64) {
        let product = tastes.choose(rng, shares);
        let viewed = end - rng.random_range(60 * SECOND..1500 * SECOND);
        self.add(rng, viewed, "view", product);
        if rng.random_range(0..5) == 0 {
            self.add(rng, viewed + share_of(viewed, end, 0.3), "cart", product);
            self.add(rng, viewed + share_of(viewed, end, 0.6), "remove_from_cart", product);
        }
    }

    fn add(&mut self, rng: &mut ChaCha8Rng, time: i64, kind: &'static str, product: usize) {
        self.events.push(Browsed { event_id: uuid(rng), time, kind, product });
    }

    fn sorted(mut self) -> Self {
        self.events.sort_by_key(|event| event.time);
        self
    }
}

fn share_of(from: i64, to: i64, part: f64) -> i64 {
    ((to - from) as f64 * part) as i64
}

/// A version 4 UUID from the seeded stream.
fn uuid(rng: &mut ChaCha8Rng) -> Uuid {
    Builder::from_random_bytes(rng.random()).into_uuid()
}

/// The category as behaviour data has it: `department.category`, in lower case with underscores.
pub(crate) fn category_code(department: Option<&str>, category: &str) -> String {
    let part = |text: &str| {
        text.split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join("_")
            .to_lowercase()
    };
    department.map_or_else(|| part(category), |department| format!("{}.{}", part(department), part(category)))
}

/// A number for a category code: FNV-1a, cut to 53 bits so that JSON readers keep it whole.
pub(crate) fn category_id(code: &str) -> i64 {
    let hash = code.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 11) as i64
}
