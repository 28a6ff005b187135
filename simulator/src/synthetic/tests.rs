//! The history holds what the generator promises, so that models have something true to find.

use std::collections::HashMap;

use super::catalogue;
use super::history::{Customer, Order, Shop, history};
use super::taste::{Tastes, ZIPF};
use super::{DAY, catalogue::Product};

const START: i64 = 1_680_307_200_000_000; // 2023-04-01
const DAYS: i64 = 400;

fn shop_of(users: usize, threads: usize, check: impl FnOnce(&[Product], &Tastes, &[Customer], &[Order])) {
    let end = START + DAYS * DAY;
    let products = catalogue::products(7, 200, 8, START, end);
    let categories: Vec<u32> = products.iter().map(|product| product.category).collect();
    let consumable: Vec<bool> = categories
        .iter()
        .map(|category| catalogue::is_consumable(&catalogue::category(*category).0))
        .collect();
    let tastes = Tastes::new(7, &categories);
    let shop =
        Shop { seed: 7, products: &products, consumable: &consumable, tastes: &tastes, start: START, end };
    let (customers, orders) = history(&shop, users, threads, |_| true).expect("not stopped");
    check(&products, &tastes, &customers, &orders);
}

fn digest(orders: &[Order]) -> Vec<(i64, i64, i64, usize)> {
    orders.iter().map(|order| (order.created_at, order.user_id, order.total(), order.lines.len())).collect()
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let mut results = Vec::new();
    for threads in [1, 3] {
        shop_of(700, threads, |_, _, _, orders| results.push(digest(orders)));
    }
    assert!(results[0].len() > 5000);
    assert_eq!(results[0], results[1]);
}

#[test]
fn orders_stay_between_sign_up_and_drop_out() {
    shop_of(600, 2, |_, _, customers, orders| {
        for order in orders {
            let membership = customers[order.user_id as usize - 1].membership;
            assert!(order.created_at >= START.max(membership.signed_up));
            assert!(order.created_at < membership.dropped_out.min(START + DAYS * DAY));
        }
        let gone = customers.iter().filter(|c| c.membership.dropped_out < START + DAYS * DAY).count();
        assert!((120..480).contains(&gone), "{gone} of 600 dropped out");
    });
}

#[test]
fn popularity_within_a_category_follows_zipf() {
    shop_of(3000, 2, |products, _, _, orders| {
        let mut sold = vec![0_u32; products.len()];
        for line in orders.iter().flat_map(|order| &order.lines) {
            sold[line.product as usize] += 1;
        }
        let mut slopes = Vec::new();
        for category in 0..8 {
            let mut counts: Vec<f64> = products
                .iter()
                .zip(&sold)
                .filter(|(product, count)| product.category == category && **count > 0)
                .map(|(_, count)| f64::from(*count))
                .collect();
            counts.sort_by(|a, b| b.total_cmp(a));
            if counts.len() >= 15 {
                slopes.push(slope(&counts));
            }
        }
        let mean = slopes.iter().sum::<f64>() / slopes.len() as f64;
        // Likings spread the counts a little further than the exponent alone.
        assert!((-1.8 * ZIPF..-0.7 * ZIPF).contains(&mean), "log-log slope {mean}");
    });
}

/// Least squares of log count on log rank.
fn slope(counts: &[f64]) -> f64 {
    let points: Vec<(f64, f64)> =
        counts.iter().enumerate().map(|(rank, count)| ((rank as f64 + 1.0).ln(), count.ln())).collect();
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / n, y + point.1 / n));
    let (above, below) = points.iter().fold((0.0, 0.0), |(above, below), point| {
        (above + (point.0 - x) * (point.1 - y), below + (point.0 - x).powi(2))
    });
    above / below
}

#[test]
fn staples_come_back_after_their_period() {
    shop_of(800, 2, |_, _, customers, orders| {
        let mut last: HashMap<(i64, u32), i64> = HashMap::new();
        let (mut near, mut all) = (0, 0);
        for order in orders {
            let customer = &customers[order.user_id as usize - 1];
            for line in &order.lines {
                let before = last.insert((order.user_id, line.product), order.created_at);
                let staple =
                    customer.taste.staples.iter().find(|staple| staple.product == line.product as usize);
                if let (Some(before), Some(staple)) = (before, staple) {
                    let periods = (order.created_at - before) as f64 / staple.period as f64;
                    all += 1;
                    near += u32::from((0.8..2.0).contains(&periods));
                }
            }
        }
        assert!(all > 3000, "{all}");
        assert!(f64::from(near) > 0.6 * f64::from(all), "{near} of {all} repeats are near their period");
    });
}

#[test]
fn customers_of_one_archetype_buy_alike() {
    shop_of(6000, 2, |products, _, customers, orders| {
        let main: Vec<Option<usize>> = customers
            .iter()
            .map(|customer| customer.taste.shares.iter().position(|share| *share > 0.8))
            .collect();
        let mut by_archetype = vec![vec![1.0_f64; products.len()]; 6];
        let mut everyone = vec![1.0_f64; products.len()];
        // Learn from the odd customers, test on the even ones.
        let lines = |parity: i64| {
            orders
                .iter()
                .filter(move |order| order.user_id % 2 == parity)
                .filter_map(|order| Some((main[order.user_id as usize - 1]?, order)))
                .flat_map(|(archetype, order)| {
                    order.lines.iter().map(move |line| (archetype, line.product as usize))
                })
        };
        for (archetype, product) in lines(1) {
            by_archetype[archetype][product] += 1.0;
            everyone[product] += 1.0;
        }
        let totals: Vec<f64> = by_archetype.iter().map(|counts| counts.iter().sum()).collect();
        let total: f64 = everyone.iter().sum();
        let (mut gain, mut n) = (0.0, 0.0);
        for (archetype, product) in lines(0) {
            gain += (by_archetype[archetype][product] / totals[archetype]).ln()
                - (everyone[product] / total).ln();
            n += 1.0;
        }
        assert!(gain / n > 0.3, "knowing the archetype is worth {} nats a line", gain / n);
    });
}

#[test]
fn prices_change_and_saturday_is_busier_than_tuesday() {
    shop_of(1500, 2, |products, _, _, orders| {
        assert!(products.iter().filter(|product| product.prices.len() > 1).count() > products.len() / 2);
        let mut weekdays = [0_u32; 7];
        for order in orders {
            weekdays[(order.created_at / DAY + 3).rem_euclid(7) as usize] += 1;
            for line in &order.lines {
                assert_eq!(line.cents, products[line.product as usize].price_at(order.created_at));
            }
        }
        assert!(f64::from(weekdays[5]) > 1.3 * f64::from(weekdays[1]), "{weekdays:?}");
    });
}
