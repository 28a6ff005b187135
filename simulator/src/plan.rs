//! What a living shop does next, as a pure function of its start, the seed and what is in the shop.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

use crate::lifecycle::Status;
use crate::live::{Change, Line, Planned, Stock, VisitRow};
use crate::synthetic::{
    DAY, Draw, Identity, SECOND, Staple, Taste, Tastes, Visit, category_code, category_id, is_consumable,
    quantity, stream,
};

/// A shop keeps at least so many customers: no account is closed below.
const MIN_CUSTOMERS: usize = 20;

pub(crate) struct Product {
    pub(crate) product_id: i64,
    pub(crate) category: String,
    pub(crate) department: Option<String>,
    pub(crate) brand: Option<String>,
    pub(crate) cents: i64,
    pub(crate) stock: i32,
}

/// The shop as the plan finds it: everything in order of its key.
pub(crate) struct Shop {
    pub(crate) products: Vec<Product>,
    /// Customers who still shop.
    pub(crate) customers: Vec<i64>,
    /// (order, its user, its status), open orders only.
    pub(crate) open: Vec<(i64, i64, Status)>,
}

/// Free keys for new rows, handed out in order.
#[derive(Default)]
pub(crate) struct Keys {
    pub(crate) users: VecDeque<i64>,
    pub(crate) orders: VecDeque<i64>,
    pub(crate) order_items: VecDeque<i64>,
}

impl Keys {
    /// More than the changes of one step can use.
    pub(crate) const RESERVE: usize = 64;

    pub(crate) fn lowest(&self) -> usize {
        self.users.len().min(self.orders.len()).min(self.order_items.len())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Order,
    Status { order_id: i64, user_id: i64, status: Status },
    Visit { user_id: i64 },
}

struct Customer {
    user_id: i64,
    taste: Taste,
}

pub(crate) struct Plan {
    seed: u64,
    rng: ChaCha8Rng,
    products: Vec<Product>,
    consumable: Vec<bool>,
    codes: Vec<String>,
    tastes: Tastes,
    stock: Stock,
    customers: Vec<Customer>,
    open_orders: HashMap<i64, u32>,
    start: i64,
    rate: f64,
    orders: u64,
    limit: u64,
    /// (µs after the start, a number that keeps equals in order, what).
    queue: BinaryHeap<Reverse<(i64, u64, Step)>>,
    sequence: u64,
    ready: VecDeque<(i64, Change)>,
}

impl Plan {
    /// `rate` orders a second from `start` (µs UTC) on, `limit` of them. The shop must have products and customers.
    pub(crate) fn new(shop: Shop, seed: u64, start: i64, rate: f64, limit: Option<u64>) -> Self {
        let mut numbers = HashMap::new();
        let categories: Vec<u32> = shop
            .products
            .iter()
            .map(|product| {
                let next = numbers.len() as u32;
                *numbers.entry(product.category.as_str()).or_insert(next)
            })
            .collect();
        let tastes = Tastes::new(seed, &categories);
        let consumable: Vec<bool> =
            shop.products.iter().map(|product| is_consumable(&product.category)).collect();
        let codes = shop
            .products
            .iter()
            .map(|product| category_code(product.department.as_deref(), &product.category))
            .collect();
        let stock = Stock(shop.products.iter().map(|product| (product.product_id, product.stock)).collect());
        let customers = shop
            .customers
            .into_iter()
            .map(|user_id| Customer {
                user_id,
                taste: Taste::new(seed, user_id, &tastes, &|product| consumable[product]),
            })
            .collect();
        let mut plan = Self {
            seed,
            rng: stream(seed, Draw::Live, start as u64),
            products: shop.products,
            consumable,
            codes,
            tastes,
            stock,
            customers,
            open_orders: HashMap::new(),
            start,
            rate,
            orders: 0,
            limit: limit.unwrap_or(u64::MAX),
            queue: BinaryHeap::new(),
            sequence: 0,
            ready: VecDeque::new(),
        };
        for (order_id, user_id, status) in shop.open {
            *plan.open_orders.entry(user_id).or_default() += 1;
            plan.schedule_life(0, order_id, user_id, status);
        }
        if plan.limit > 0 {
            plan.schedule(0, Step::Order);
        }
        plan
    }

    /// The next change, or `None` after the last order.
    pub(crate) fn next(&mut self, keys: &mut Keys) -> Option<Planned> {
        loop {
            if let Some((after, change)) = self.ready.pop_front() {
                let due = Duration::from_micros(after.unsigned_abs());
                return Some(Planned { at: self.start + after, due, change });
            }
            if self.orders >= self.limit {
                return None;
            }
            let Reverse((after, _, step)) = self.queue.pop()?;
            match step {
                Step::Order => self.order(after, keys),
                Step::Status { order_id, user_id, status } => self.status(after, order_id, user_id, status),
                Step::Visit { user_id } => self.visit(after, user_id, &[]),
            }
        }
    }

    fn schedule(&mut self, after: i64, step: Step) {
        self.sequence += 1;
        self.queue.push(Reverse((after, self.sequence, step)));
    }

    /// Order k is due k/rate seconds after the start, whatever happened before: no drift.
    fn order(&mut self, after: i64, keys: &mut Keys) {
        let (Some(order_id), true) = (keys.orders.pop_front(), !self.customers.is_empty()) else { return };
        if self.rng.random_range(0..50) == 0 {
            self.join(after, keys);
        }
        let customer = self.choose_customer();
        let (user_id, lines) = self.basket(customer, keys);
        let bought: Vec<usize> = lines.iter().map(|(product, _)| *product).collect();
        let lines = lines.into_iter().map(|(_, line)| line).collect();
        self.ready.push_back((after, Change::Order { order_id, user_id, lines }));
        self.orders += 1;
        *self.open_orders.entry(user_id).or_default() += 1;
        self.visit(after, user_id, &bought);
        self.schedule_life(after, order_id, user_id, Status::Placed);
        if self.rng.random_range(0..20) == 0 {
            self.change_price(after);
        }
        if self.rng.random_range(0..300) == 0 {
            self.close_account(after);
        }
        if self.rng.random_range(0..10) < 3 {
            let user_id = self.customers[self.rng.random_range(0..self.customers.len())].user_id;
            let gap = (SECOND as f64 / self.rate) as i64;
            let pause = self.rng.random_range(0..=gap);
            self.schedule(after + pause, Step::Visit { user_id });
        }
        let next = (self.orders as f64 * SECOND as f64 / self.rate) as i64;
        self.schedule(next, Step::Order);
    }

    /// Customers come the oftener the shorter their own gaps are.
    fn choose_customer(&mut self) -> usize {
        let mut chosen = self.rng.random_range(0..self.customers.len());
        for _ in 0..16 {
            if self.rng.random::<f64>() < 4.0 * DAY as f64 / self.customers[chosen].taste.mean_gap {
                break;
            }
            chosen = self.rng.random_range(0..self.customers.len());
        }
        chosen
    }

    /// Staples with their long-run frequency, and whims; each product once.
    fn basket(&mut self, customer: usize, keys: &mut Keys) -> (i64, Vec<(usize, Line)>) {
        let Customer { user_id, taste } = &self.customers[customer];
        let shares = taste.cumulative_shares();
        let mut products: Vec<usize> = Vec::new();
        for Staple { product, period } in &taste.staples {
            if self.rng.random::<f64>() < taste.mean_gap / *period as f64 {
                products.push(*product);
            }
        }
        let whims = (taste.whims * 2.0 * self.rng.random::<f64>()).round() as usize;
        for _ in 0..whims.max(usize::from(products.is_empty())) {
            let product = self.tastes.choose(&mut self.rng, &shares);
            if !products.contains(&product) {
                products.push(product);
            }
        }
        let lines = products
            .into_iter()
            .map_while(|product| {
                let Product { product_id, cents, .. } = self.products[product];
                let quantity = quantity(&mut self.rng, self.consumable[product]);
                let line = Line {
                    order_item_id: keys.order_items.pop_front()?,
                    product_id,
                    quantity,
                    cents,
                    units: None,
                    stock_change: self.stock.sell(product_id, quantity),
                };
                Some((product, line))
            })
            .collect();
        (*user_id, lines)
    }

    fn schedule_life(&mut self, after: i64, order_id: i64, user_id: i64, status: Status) {
        let mut draw = |from: i64, to: i64| self.rng.random_range(from * SECOND..to * SECOND);
        let (next, pause) = match status {
            Status::Placed => (Status::Paid, draw(2, 20)),
            Status::Paid => (Status::Shipped, draw(20, 90)),
            Status::Shipped => (Status::Completed, draw(60, 180)),
            Status::Completed => (Status::Returned, draw(60, 300)),
            Status::Cancelled | Status::Returned => return,
        };
        let chance = self.rng.random_range(0..100);
        let next = match next {
            Status::Paid | Status::Shipped if chance < 2 => Status::Cancelled,
            Status::Returned if chance >= 3 => {
                self.close_order(user_id);
                return;
            }
            next => next,
        };
        self.schedule(after + pause, Step::Status { order_id, user_id, status: next });
    }

    fn status(&mut self, after: i64, order_id: i64, user_id: i64, status: Status) {
        self.ready.push_back((after, Change::Status { order_id, user_id, status }));
        if matches!(status, Status::Cancelled | Status::Returned) {
            self.close_order(user_id);
        }
        self.schedule_life(after, order_id, user_id, status);
    }

    fn close_order(&mut self, user_id: i64) {
        if let Some(open) = self.open_orders.get_mut(&user_id) {
            *open -= 1;
            if *open == 0 {
                self.open_orders.remove(&user_id);
            }
        }
    }

    fn join(&mut self, after: i64, keys: &mut Keys) {
        let Some(user_id) = keys.users.pop_front() else { return };
        let Identity { name, email, address } = Identity::new(self.seed, user_id);
        let taste = Taste::new(self.seed, user_id, &self.tastes, &|product| self.consumable[product]);
        self.customers.push(Customer { user_id, taste });
        self.ready.push_back((after, Change::Customer { user_id, name, email, address }));
    }

    /// Only a customer without an open order closes the account.
    fn close_account(&mut self, after: i64) {
        let index = self.rng.random_range(0..self.customers.len());
        let user_id = self.customers[index].user_id;
        if self.customers.len() > MIN_CUSTOMERS && !self.open_orders.contains_key(&user_id) {
            self.customers.remove(index);
            self.ready.push_back((after, Change::CloseAccount { user_id }));
        }
    }

    fn change_price(&mut self, after: i64) {
        let index = self.rng.random_range(0..self.products.len());
        let percent = self.rng.random_range(85..=118);
        let product = &mut self.products[index];
        product.cents = (product.cents * percent / 100).max(9);
        self.ready.push_back((after, Change::Price { product_id: product.product_id, cents: product.cents }));
    }

    fn visit(&mut self, after: i64, user_id: i64, bought: &[usize]) {
        // A visitor may have closed the account since the visit was planned.
        let Some(customer) = self.customers.iter().find(|customer| customer.user_id == user_id) else {
            return;
        };
        let shares = customer.taste.cumulative_shares();
        let end = self.start + after;
        let visit = if bought.is_empty() {
            Visit::without_order(&mut self.rng, &self.tastes, &shares, end)
        } else {
            Visit::of_order(&mut self.rng, bought, &self.tastes, &shares, end)
        };
        let rows = visit
            .events
            .into_iter()
            .map(|event| {
                let (product, code) = (&self.products[event.product], &self.codes[event.product]);
                VisitRow {
                    event_id: event.event_id,
                    time: event.time,
                    kind: event.kind,
                    product_id: product.product_id,
                    category_id: category_id(code),
                    category_code: code.clone(),
                    brand: product.brand.clone(),
                    cents: product.cents,
                }
            })
            .collect();
        let session: Uuid = visit.session;
        self.ready.push_back((after, Change::Visit { user_id, session, rows }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop() -> Shop {
        let product = |product_id: i64| Product {
            product_id,
            category: format!("Category {}", product_id % 4),
            department: None,
            brand: None,
            cents: 100 * product_id,
            stock: 300,
        };
        Shop {
            products: (1..=40).map(product).collect(),
            customers: (1..=60).collect(),
            open: vec![(7, 3, Status::Paid)],
        }
    }

    fn keys() -> Keys {
        Keys {
            users: (100..1000).collect(),
            orders: (100..5000).collect(),
            order_items: (1000..50_000).collect(),
        }
    }

    fn planned(rate: f64, orders: u64) -> Vec<Planned> {
        let (mut plan, mut keys) = (Plan::new(shop(), 1, 1_700_000_000_000_000, rate, Some(orders)), keys());
        std::iter::from_fn(|| plan.next(&mut keys)).collect()
    }

    #[test]
    fn order_k_is_due_at_k_over_rate() {
        for rate in [1.0 / 3.0, 7.0, 200.0] {
            let orders: Vec<f64> = planned(rate, 500)
                .iter()
                .filter(|planned| matches!(planned.change, Change::Order { .. }))
                .map(|planned| planned.due.as_secs_f64())
                .collect();
            assert_eq!(orders.len(), 500);
            for (k, due) in orders.iter().enumerate() {
                assert!((due - k as f64 / rate).abs() < 2e-6, "order {k} at rate {rate}: {due}");
            }
        }
    }

    #[test]
    fn changes_come_in_order_of_time_and_all_kinds_come() {
        let planned = planned(0.2, 2000);
        assert!(planned.windows(2).all(|pair| pair[0].due <= pair[1].due));
        let count =
            |kind: fn(&Change) -> bool| planned.iter().filter(|planned| kind(&planned.change)).count();
        assert!(count(|change| matches!(change, Change::Customer { .. })) > 10);
        assert!(count(|change| matches!(change, Change::CloseAccount { .. })) > 0);
        assert!(count(|change| matches!(change, Change::Price { .. })) > 40);
        assert!(count(|change| matches!(change, Change::Visit { .. })) > 2000);
        for status in [Status::Paid, Status::Shipped, Status::Completed, Status::Cancelled, Status::Returned]
        {
            let found = planned
                .iter()
                .any(|planned| matches!(planned.change, Change::Status { status: s, .. } if s == status));
            assert!(found, "{status}");
        }
    }

    #[test]
    fn stock_never_runs_out() {
        let mut stock: HashMap<i64, i32> = shop().products.iter().map(|p| (p.product_id, p.stock)).collect();
        let mut delivered = false;
        for planned in planned(5.0, 3000) {
            let Change::Order { lines, .. } = planned.change else { continue };
            for line in lines {
                let stock = stock.get_mut(&line.product_id).unwrap();
                *stock += line.stock_change;
                delivered |= line.stock_change > 0;
                assert!(*stock >= 450);
            }
        }
        assert!(delivered);
    }

    #[test]
    fn nothing_refers_to_a_closed_account() {
        let mut closed = std::collections::HashSet::new();
        for planned in planned(0.2, 3000) {
            match planned.change {
                Change::CloseAccount { user_id } => assert!(closed.insert(user_id)),
                Change::Order { user_id, .. }
                | Change::Visit { user_id, .. }
                | Change::Status { user_id, .. } => {
                    assert!(!closed.contains(&user_id));
                }
                Change::Customer { .. } | Change::Price { .. } => {}
            }
        }
        assert!(!closed.is_empty());
    }
}
