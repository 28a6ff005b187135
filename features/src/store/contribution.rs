//! What one order adds to the numbers derived from orders.

use crate::{
    Money,
    revenue::minute_of,
    store::mirror::{Mirror, Order},
};

/// Everything needed to take an order out again after it has changed.
pub(crate) struct Contribution {
    pub(crate) user_id: Option<i64>,
    created_at: i64,
    total_amount: Money,
    pub(crate) kept: bool,
    /// Each product once, sorted.
    products: Vec<i64>,
}

impl Contribution {
    /// `None` while the order's row has not come.
    pub(crate) fn of(order: &Order) -> Option<Self> {
        let row = order.row.as_ref()?;
        let mut products: Vec<_> = order.items.iter().map(|item| item.product_id).collect();
        products.sort_unstable();
        products.dedup();
        Some(Self {
            user_id: row.user_id,
            created_at: row.created_at,
            total_amount: row.total_amount,
            kept: row.kept(),
            products,
        })
    }

    /// The minute in which the order was placed, and what it is worth, if it is kept.
    pub(crate) fn revenue(&self) -> Option<(i64, Money)> {
        self.kept.then(|| (minute_of(self.created_at), self.total_amount))
    }
}

impl Mirror {
    pub(crate) fn add(&mut self, order_id: i64, one: &Contribution) {
        self.timeline.insert((one.created_at, order_id));
        if let Some(user_id) = one.user_id {
            self.customer_orders.entry(user_id).or_default().insert((one.created_at, order_id));
        }
        if one.kept {
            self.minutes.add(one.created_at, one.total_amount);
            for product_id in &one.products {
                self.products.entry(*product_id).or_default().purchases += 1;
            }
        }
    }

    pub(crate) fn retract(&mut self, order_id: i64, one: &Contribution) {
        self.timeline.remove(&(one.created_at, order_id));
        if let Some(user_id) = one.user_id
            && let Some(orders) = self.customer_orders.get_mut(&user_id)
        {
            orders.remove(&(one.created_at, order_id));
            if orders.is_empty() {
                self.customer_orders.remove(&user_id);
            }
        }
        if one.kept {
            self.minutes.take(one.created_at, one.total_amount);
            for product_id in &one.products {
                if let Some(product) = self.products.get_mut(product_id) {
                    product.purchases -= 1;
                }
            }
        }
    }
}
