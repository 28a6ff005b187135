//! Orders of the past, made customer by customer on any number of threads, then put in order of time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::calendar::{MAX_DAY_WEIGHT, day_weight, time_of_day};
use super::catalogue::Product;
use super::customer::{Membership, Taste};
use super::taste::Tastes;
use super::{DAY, Draw, HOUR, MINUTE, exponential, stream};
use crate::lifecycle::LifeCycle;

/// Customers a thread takes at a time.
const BLOCK: usize = 256;

pub(crate) struct Line {
    pub(crate) product: u32,
    pub(crate) quantity: i32,
    pub(crate) cents: i64,
}

pub(crate) struct Order {
    pub(crate) user_id: i64,
    pub(crate) created_at: i64,
    pub(crate) life: LifeCycle,
    pub(crate) lines: Vec<Line>,
}

impl Order {
    pub(crate) fn total(&self) -> i64 {
        self.lines.iter().map(|line| i64::from(line.quantity) * line.cents).sum()
    }
}

pub(crate) struct Customer {
    pub(crate) user_id: i64,
    pub(crate) membership: Membership,
    pub(crate) taste: Taste,
    pub(crate) last_order: Option<i64>,
}

pub(crate) struct Shop<'a> {
    pub(crate) seed: u64,
    pub(crate) products: &'a [Product],
    pub(crate) consumable: &'a [bool],
    pub(crate) tastes: &'a Tastes,
    /// History covers [start, end), microseconds.
    pub(crate) start: i64,
    pub(crate) end: i64,
}

/// All customers, and all their orders in order of time (ties by user).
///
/// `done` hears how many customers are finished, and says whether to go on: `None` when told to stop.
pub(crate) fn history(
    shop: &Shop<'_>,
    users: usize,
    threads: usize,
    mut done: impl FnMut(usize) -> bool,
) -> Option<(Vec<Customer>, Vec<Order>)> {
    let blocks = users.div_ceil(BLOCK);
    let next = AtomicUsize::new(0);
    let mut parts: Vec<Option<(Vec<Customer>, Vec<Order>)>> = (0..blocks).map(|_| None).collect();
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..threads.clamp(1, blocks.max(1)) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let block = next.fetch_add(1, Ordering::Relaxed);
                    if block >= blocks {
                        break;
                    }
                    let part = customers(shop, block * BLOCK..users.min((block + 1) * BLOCK));
                    if sender.send((block, part)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut finished = 0;
        for (block, part) in receiver {
            finished += part.0.len();
            parts[block] = Some(part);
            if !done(finished) {
                break;
            }
        }
    });
    let mut customers = Vec::with_capacity(users);
    let mut orders = Vec::new();
    for part in parts {
        let (block_customers, block_orders) = part?;
        customers.extend(block_customers);
        orders.extend(block_orders);
    }
    orders.sort_unstable_by_key(|order| (order.created_at, order.user_id));
    Some((customers, orders))
}

fn customers(shop: &Shop<'_>, users: std::ops::Range<usize>) -> (Vec<Customer>, Vec<Order>) {
    let mut orders = Vec::new();
    let customers = users
        .map(|user| {
            let user_id = user as i64 + 1;
            let membership = Membership::new(shop.seed, user_id, shop.start, shop.end);
            let taste = Taste::new(shop.seed, user_id, shop.tastes, &|product| shop.consumable[product]);
            let last_order = buy(shop, user_id, &membership, &taste, &mut orders);
            Customer { user_id, membership, taste, last_order }
        })
        .collect();
    (customers, orders)
}

/// Appends one customer's orders, in order of time; returns the time of the last.
fn buy(
    shop: &Shop<'_>,
    user_id: i64,
    membership: &Membership,
    taste: &Taste,
    orders: &mut Vec<Order>,
) -> Option<i64> {
    let mut rng = stream(shop.seed, Draw::Orders, user_id as u64);
    let shares = taste.cumulative_shares();
    let begin = membership.signed_up.max(shop.start);
    let end = membership.dropped_out.min(shop.end);
    let mut due: Vec<i64> = taste
        .staples
        .iter()
        .map(|staple| begin + (rng.random::<f64>() * staple.period as f64) as i64)
        .collect();
    let mut last = None;
    let mut last_day = i64::MIN;
    let mut time = begin as f64;
    loop {
        // Gamma gaps with shape 2 (more even than chance), thinned by how busy the day is.
        let gap = taste.mean_gap / MAX_DAY_WEIGHT / 2.0;
        time += exponential(&mut rng, gap) + exponential(&mut rng, gap);
        let day = time as i64 / DAY;
        if day * DAY >= end {
            return last;
        }
        if day == last_day || rng.random::<f64>() * MAX_DAY_WEIGHT > day_weight(day) {
            continue;
        }
        let created_at = day * DAY + time_of_day(&mut rng);
        if created_at < begin || created_at >= end {
            continue;
        }
        let lines = basket(shop, taste, &shares, &mut due, created_at, &mut rng);
        orders.push(Order { user_id, created_at, life: life_cycle(&mut rng, created_at), lines });
        (last, last_day) = (Some(created_at), day);
    }
}

/// The staples that are due, then whims; at least one line, each product once.
fn basket(
    shop: &Shop<'_>,
    taste: &Taste,
    shares: &[f32],
    due: &mut [i64],
    now: i64,
    rng: &mut ChaCha8Rng,
) -> Vec<Line> {
    let mut lines = Vec::with_capacity(4);
    let mut add = |product: usize, rng: &mut ChaCha8Rng| {
        if lines.iter().all(|line: &Line| line.product as usize != product) {
            let quantity = quantity(rng, shop.consumable[product]);
            lines.push(Line {
                product: product as u32,
                quantity,
                cents: shop.products[product].price_at(now),
            });
        }
    };
    for (staple, due) in taste.staples.iter().zip(due) {
        if *due <= now {
            add(staple.product, rng);
            *due = now + (staple.period as f64 * rng.random_range(0.85..1.15)) as i64;
        }
    }
    let whims = (exponential(rng, taste.whims) + 0.5) as usize;
    for _ in 0..whims.min(12) {
        let product = shop.tastes.choose(rng, shares);
        add(product, rng);
    }
    if lines.is_empty() {
        let product = shop.tastes.choose(rng, shares);
        let quantity = quantity(rng, shop.consumable[product]);
        lines.push(Line { product: product as u32, quantity, cents: shop.products[product].price_at(now) });
    }
    lines
}

pub(crate) fn quantity(rng: &mut ChaCha8Rng, consumable: bool) -> i32 {
    match rng.random_range(0..100) {
        0..70 => 1,
        70..90 if consumable => 2,
        97..100 if consumable => 4,
        90..97 if consumable => 3,
        _ => 1,
    }
}

/// 4 % are cancelled within hours, 3 % come back within two weeks of completion.
fn life_cycle(rng: &mut ChaCha8Rng, created_at: i64) -> LifeCycle {
    let paid = created_at + rng.random_range(MINUTE..20 * MINUTE);
    let shipped = paid + rng.random_range(2 * HOUR..40 * HOUR);
    let completed = shipped + rng.random_range(12 * HOUR..96 * HOUR);
    match rng.random_range(0..100) {
        0..2 => LifeCycle { cancelled: Some(paid), ..LifeCycle::default() },
        2..4 => LifeCycle {
            paid: Some(paid),
            cancelled: Some(paid + rng.random_range(MINUTE..2 * HOUR)),
            ..LifeCycle::default()
        },
        4..7 => LifeCycle {
            paid: Some(paid),
            shipped: Some(shipped),
            completed: Some(completed),
            cancelled: None,
            returned: Some(completed + rng.random_range(DAY..14 * DAY)),
        },
        _ => LifeCycle {
            paid: Some(paid),
            shipped: Some(shipped),
            completed: Some(completed),
            ..LifeCycle::default()
        },
    }
}
