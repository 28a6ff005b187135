//! Revenue by the minute that orders were placed in, live and in the lake.
//!
//! Windows of a minute that tumble over the orders' `created_at`. An order counts once, in its own minute, and only while it
//! is kept; whatever becomes of it, however late, corrects that minute. What an order counts for is decided in one place
//! ([`Minutes`] is fed by nothing else); the store in memory and [`RevenueTable`] both sum that.

mod table;

use std::collections::{BTreeMap, BTreeSet};

use crate::{MINUTE, Money, RevenueMinute};

pub use table::RevenueTable;

/// The start of the minute that a time lies in.
pub(crate) fn minute_of(time: i64) -> i64 {
    time.div_euclid(MINUTE).saturating_mul(MINUTE)
}

/// Sums of orders by minute. What is added and taken may come in any order, so that sums may be below zero in between;
/// minutes whose sum is nothing are not held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Minutes(BTreeMap<i64, Sum>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    revenue: Money,
    orders: i64,
}

impl Minutes {
    /// An order placed at a time.
    pub(crate) fn add(&mut self, placed: i64, amount: Money) {
        self.change(minute_of(placed), Sum { revenue: amount, orders: 1 });
    }

    /// Takes out what was added.
    pub(crate) fn take(&mut self, placed: i64, amount: Money) {
        self.change(minute_of(placed), Sum { revenue: -amount, orders: -1 });
    }

    fn put(&mut self, minute: i64, revenue: Money, orders: i64) {
        self.change(minute, Sum { revenue, orders });
    }

    fn plus(mut self, other: &Self) -> Self {
        other.0.iter().for_each(|(minute, sum)| self.change(*minute, *sum));
        self
    }

    fn change(&mut self, minute: i64, by: Sum) {
        let sum = self.0.entry(minute).or_default();
        *sum = Sum { revenue: sum.revenue + by.revenue, orders: sum.orders + by.orders };
        if *sum == Sum::default() {
            self.0.remove(&minute);
        }
    }

    /// One minute, which may have no orders.
    pub(crate) fn of(&self, minute: i64) -> RevenueMinute {
        shown(minute, self.0.get(&minute).copied().unwrap_or_default())
    }

    /// `from <= minute < to`, in order of time.
    pub(crate) fn range(&self, from: i64, to: i64) -> impl Iterator<Item = RevenueMinute> {
        self.0.range(from..to.max(from)).map(|(minute, sum)| shown(*minute, *sum))
    }

    /// Whether more has been taken out than was in.
    fn lacks(&self) -> bool {
        self.0.values().any(|sum| sum.orders <= 0)
    }

    /// Minutes that differ between two, as the second has them.
    fn changed(&self, after: &Self) -> Vec<RevenueMinute> {
        let minutes: BTreeSet<_> = self.0.keys().chain(after.0.keys()).copied().collect();
        let differs = |minute: &i64| self.0.get(minute) != after.0.get(minute);
        minutes.into_iter().filter(differs).map(|minute| after.of(minute)).collect()
    }
}

fn shown(minute: i64, sum: Sum) -> RevenueMinute {
    RevenueMinute { minute, revenue: sum.revenue, orders: u64::try_from(sum.orders).unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Kept orders by id: when they were placed, and what they are worth.
    type Orders = BTreeMap<u8, (i64, i64)>;

    fn orders() -> impl Strategy<Value = Orders> {
        let order = (-3 * MINUTE..3 * MINUTE, 0..1_000_i64);
        prop::collection::btree_map(0..20_u8, order, 0..20)
    }

    fn sums<'a>(orders: impl IntoIterator<Item = &'a (i64, i64)>) -> Minutes {
        let mut minutes = Minutes::default();
        orders.into_iter().for_each(|(placed, units)| minutes.add(*placed, Money::from_units(*units)));
        minutes
    }

    proptest! {
        /// Files are rewritten with rows that did not change, and changes come in any order.
        #[test]
        fn what_was_and_the_difference_is_what_is(
            before in orders(), after in orders(), rewritten: [bool; 20], shuffle in any::<prop::sample::Index>(),
        ) {
            let read = |id: &u8| rewritten[usize::from(*id)] || before.get(id) != after.get(id);
            let mut steps: Vec<(bool, &(i64, i64))> = Vec::new();
            steps.extend(before.iter().filter(|(id, _)| read(id)).map(|(_, order)| (false, order)));
            steps.extend(after.iter().filter(|(id, _)| read(id)).map(|(_, order)| (true, order)));
            if !steps.is_empty() {
                let by = shuffle.index(steps.len());
                steps.rotate_left(by);
            }
            let mut difference = Minutes::default();
            for (added, (placed, units)) in steps {
                let amount = Money::from_units(*units);
                if added { difference.add(*placed, amount) } else { difference.take(*placed, amount) }
            }
            let (before, after) = (sums(before.values()), sums(after.values()));
            let followed = before.clone().plus(&difference);
            prop_assert_eq!(&followed, &after);
            prop_assert!(!followed.lacks());
            // Who holds the minutes of before and takes in those that changed has those of after.
            let mut held: BTreeMap<i64, RevenueMinute> =
                before.range(i64::MIN, i64::MAX).map(|minute| (minute.minute, minute)).collect();
            for changed in before.changed(&after) {
                prop_assert_ne!(before.of(changed.minute), changed.clone());
                held.insert(changed.minute, changed);
            }
            held.retain(|_, minute| minute.orders > 0);
            prop_assert_eq!(held.into_values().collect::<Vec<_>>(), after.range(i64::MIN, i64::MAX).collect::<Vec<_>>());
        }
    }

    #[test]
    fn minutes_begin_where_clocks_say() {
        assert_eq!([-1, 0, MINUTE - 1, MINUTE].map(minute_of), [-MINUTE, 0, 0, MINUTE]);
        assert!(minute_of(i64::MIN) <= minute_of(i64::MIN + 1));
    }
}
