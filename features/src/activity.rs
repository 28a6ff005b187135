//! How a customer's kept orders lie in time: the churn model's inputs.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{DAY, Money};

/// The names of [`Activity::to_array`]'s values, and of the columns of the SQL view `user_activity`.
pub const ACTIVITY_COLUMNS: [&str; 16] = [
    "recency_days",
    "tenure_days",
    "orders_total",
    "orders_7d",
    "orders_14d",
    "orders_30d",
    "orders_60d",
    "orders_90d",
    "spend_total",
    "spend_30d",
    "spend_90d",
    "gap_mean_days",
    "gap_std_days",
    "gap_last_days",
    "recency_over_gap",
    "distinct_weeks",
];

/// One customer's activity at a moment; the view `views/user_activity.sql` computes the same in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Activity {
    /// Days since the newest order.
    pub recency_days: f64,
    /// Days since the first order.
    pub tenure_days: f64,
    pub orders_total: f64,
    pub orders_7d: f64,
    pub orders_14d: f64,
    pub orders_30d: f64,
    pub orders_60d: f64,
    pub orders_90d: f64,
    pub spend_total: f64,
    pub spend_30d: f64,
    pub spend_90d: f64,
    /// Mean days between consecutive orders; the tenure if there is only one order.
    pub gap_mean_days: f64,
    /// Population standard deviation of the gaps, taken in whole seconds; 0 if there is only one order.
    pub gap_std_days: f64,
    /// Days between the last two orders; the tenure if there is only one order.
    pub gap_last_days: f64,
    /// Recency over the mean gap, the gap taken as at least a day.
    pub recency_over_gap: f64,
    /// Weeks with an order, counted back from the moment.
    pub distinct_weeks: f64,
}

impl Activity {
    /// From a customer's kept orders (time placed, amount), in any order. Those after `as_of` are not seen.
    /// `None` if none remains.
    pub fn of(orders: &[(i64, Money)], as_of: i64) -> Option<Self> {
        let mut ages: Vec<(i64, Money)> = orders
            .iter()
            .filter(|(placed, _)| *placed <= as_of)
            .map(|(placed, amount)| (as_of.saturating_sub(*placed), *amount))
            .collect();
        ages.sort_unstable();
        let (recency, tenure) = (ages.first()?.0, ages.last()?.0);
        let within = |days: i64| ages.iter().take_while(move |(age, _)| *age <= days * DAY);
        let orders_within = |days| within(days).count() as f64;
        let spend_within = |days| within(days).map(|(_, amount)| *amount).sum::<Money>().to_f64();

        let (mut seconds, mut squares) = (0_i64, 0_i64);
        for pair in ages.windows(2) {
            let gap = (pair[1].0 - pair[0].0) / 1_000_000;
            seconds = seconds.wrapping_add(gap);
            squares = squares.wrapping_add(gap.wrapping_mul(gap));
        }
        let gaps = (ages.len() - 1) as f64;
        let (gap_mean_days, gap_std_days, gap_last) = if ages.len() > 1 {
            let mean = seconds as f64 / gaps;
            let variance = (squares as f64 / gaps - mean * mean).max(0.0);
            (days((tenure - recency) as f64 / gaps), variance.sqrt() / 86_400.0, ages[1].0 - ages[0].0)
        } else {
            (days(tenure as f64), 0.0, tenure)
        };
        let recency_days = days(recency as f64);
        Some(Self {
            recency_days,
            tenure_days: days(tenure as f64),
            orders_total: ages.len() as f64,
            orders_7d: orders_within(7),
            orders_14d: orders_within(14),
            orders_30d: orders_within(30),
            orders_60d: orders_within(60),
            orders_90d: orders_within(90),
            spend_total: ages.iter().map(|(_, amount)| *amount).sum::<Money>().to_f64(),
            spend_30d: spend_within(30),
            spend_90d: spend_within(90),
            gap_mean_days,
            gap_std_days,
            gap_last_days: days(gap_last as f64),
            recency_over_gap: recency_days / gap_mean_days.max(1.0),
            distinct_weeks: ages.iter().map(|(age, _)| age / (7 * DAY)).collect::<BTreeSet<_>>().len() as f64,
        })
    }

    /// The values in the order of [`ACTIVITY_COLUMNS`].
    pub fn to_array(&self) -> [f64; 16] {
        [
            self.recency_days,
            self.tenure_days,
            self.orders_total,
            self.orders_7d,
            self.orders_14d,
            self.orders_30d,
            self.orders_60d,
            self.orders_90d,
            self.spend_total,
            self.spend_30d,
            self.spend_90d,
            self.gap_mean_days,
            self.gap_std_days,
            self.gap_last_days,
            self.recency_over_gap,
            self.distinct_weeks,
        ]
    }
}

fn days(microseconds: f64) -> f64 {
    microseconds / DAY as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_order_has_no_gaps() {
        let activity =
            Activity::of(&[(0, Money::from_cents(500)), (11 * DAY, Money::ZERO)], 10 * DAY).unwrap();
        assert_eq!(
            activity.to_array(),
            [10.0, 10.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 5.0, 5.0, 5.0, 10.0, 0.0, 10.0, 1.0, 1.0]
        );
        assert_eq!(Activity::of(&[(11, Money::ZERO)], 10), None);
    }

    #[test]
    fn gaps_lie_between_orders_in_time() {
        let orders = [20, 0, 14, 8].map(|day| (day * DAY, Money::from_cents(100)));
        let activity = Activity::of(&orders, 22 * DAY).unwrap();
        assert_eq!((activity.recency_days, activity.tenure_days, activity.gap_last_days), (2.0, 22.0, 6.0));
        assert!((activity.gap_mean_days - 20.0 / 3.0).abs() < 1e-12);
        // Gaps 8, 6, 6: population variance 8/9.
        assert!((activity.gap_std_days - (8.0_f64 / 9.0).sqrt()).abs() < 1e-9);
        assert_eq!(activity.distinct_weeks, 4.0);
    }
}
