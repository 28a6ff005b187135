//! Exact amounts of money.

use std::{
    fmt,
    iter::Sum,
    ops::{Add, AddAssign, Mul, Neg, Sub, SubAssign},
};

use serde::{Serialize, Serializer};

/// An amount in the shop's currency, in ten-thousandths: exact for every currency's minor unit and for unit prices.
///
/// Shown and serialised as text with two decimal places, or more if the amount has them: `12.34`, `0.0125`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i64);

impl Money {
    pub const ZERO: Self = Self(0);
    /// Decimal places of a unit.
    pub(crate) const SCALE: i8 = 4;

    /// From ten-thousandths.
    pub const fn from_units(units: i64) -> Self {
        Self(units)
    }

    pub const fn from_cents(cents: i64) -> Self {
        Self(cents.saturating_mul(100))
    }

    /// In ten-thousandths.
    pub const fn units(self) -> i64 {
        self.0
    }

    /// For charts and model inputs only.
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / 10_000.0
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, fraction) = (self.0.unsigned_abs() / 10_000, self.0.unsigned_abs() % 10_000);
        if fraction.is_multiple_of(100) {
            write!(f, "{sign}{whole}.{:02}", fraction / 100)
        } else {
            write!(f, "{}", format!("{sign}{whole}.{fraction:04}").trim_end_matches('0'))
        }
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Money {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Neg for Money {
    type Output = Self;

    fn neg(self) -> Self {
        Self(self.0.saturating_neg())
    }
}

/// A quantity at a unit price.
impl Mul<i64> for Money {
    type Output = Self;

    fn mul(self, quantity: i64) -> Self {
        Self(self.0.saturating_mul(quantity))
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Money {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_two_places_or_as_many_as_needed() {
        let shown =
            [0, 123_400, -500, 125, 1, -10_000, 12_345_678].map(|units| Money::from_units(units).to_string());
        assert_eq!(shown, ["0.00", "12.34", "-0.05", "0.0125", "0.0001", "-1.00", "1234.5678"]);
        assert_eq!(Money::from_cents(1999).to_string(), "19.99");
    }
}
