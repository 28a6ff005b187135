//! When people shop: by season, weekday and hour, all in UTC.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{DAY, HOUR};

/// Monday first; quiet midweek, busy Friday to Sunday.
const WEEKDAYS: [f64; 7] = [0.85, 0.75, 0.80, 0.95, 1.20, 1.35, 1.10];
const HOURS: [u32; 24] =
    [4, 2, 1, 1, 1, 3, 8, 16, 26, 34, 40, 44, 46, 42, 38, 38, 42, 52, 62, 68, 60, 44, 26, 12];
const DAYS_PER_YEAR: f64 = 365.25;
/// How far the busiest time of the year (mid-December) stands above the mean.
const SEASON: f64 = 0.25;
const PEAK_DAY: f64 = 349.0;

/// The greatest value of [`day_weight`].
pub(crate) const MAX_DAY_WEIGHT: f64 = 1.35 * (1.0 + SEASON);

/// How busy a day is, 1 on average. `day` counts from 1970-01-01.
pub(crate) fn day_weight(day: i64) -> f64 {
    // 1970-01-01 was a Thursday, and January its first month: both cycles start there.
    let weekday = WEEKDAYS[(day + 3).rem_euclid(7) as usize];
    let phase = ((day as f64).rem_euclid(DAYS_PER_YEAR) - PEAK_DAY) / DAYS_PER_YEAR;
    weekday * (1.0 + SEASON * (std::f64::consts::TAU * phase).cos())
}

/// A time of day, in microseconds.
pub(crate) fn time_of_day(rng: &mut ChaCha8Rng) -> i64 {
    let mut point = rng.random_range(0..HOURS.iter().sum::<u32>());
    let mut hour = 0;
    for (index, weight) in HOURS.iter().enumerate() {
        if point < *weight {
            hour = index as i64;
            break;
        }
        point -= weight;
    }
    (hour * HOUR + rng.random_range(0..HOUR)).min(DAY - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_averages_one_and_saturday_beats_tuesday() {
        let mean = (0..1461).map(day_weight).sum::<f64>() / 1461.0;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        // 2024-01-06 is a Saturday, day 19728.
        assert!(day_weight(19_728) > 1.5 * day_weight(19_731));
        assert!((0..1461).all(|day| day_weight(day) <= MAX_DAY_WEIGHT));
    }
}
