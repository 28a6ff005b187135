//! How much a customer has to do with a product: `interaction_score` of `views/user_item_interactions.sql`.

/// A customer and a product, at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interaction {
    pub product_id: i64,
    /// The score, in millionths: sums are exact in any order.
    pub millionths: i64,
}

impl Interaction {
    pub fn score(self) -> f64 {
        self.millionths as f64 / 1e6
    }
}

/// A touch's weight, halved every 30 days, as SQL rounds it. `age` in microseconds.
fn decayed(weight: f64, age: i64) -> i64 {
    (weight * 2_f64.powf(-age as f64 / (30.0 * 86_400_000_000.0)) * 1e6).round() as i64
}

pub(crate) fn purchase(age: i64) -> i64 {
    decayed(1.0, age)
}

pub(crate) fn cart(age: i64) -> i64 {
    decayed(0.3, age)
}

pub(crate) fn view(age: i64) -> i64 {
    decayed(0.1, age)
}
