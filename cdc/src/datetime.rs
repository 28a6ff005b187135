//! Postgres's ISO dates and timestamps as numbers.
//!
//! Postgres's range (4713 BC to AD 5874897) is wider than any date library's, so days are counted here.

use crate::values::ValueError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parsed<T> {
    Value(T),
    /// A value that exists in Postgres and not in the Arrow type.
    Beyond,
}

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A date, or a time of a date, anywhere in Postgres's range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Days since 1970-01-01, and microseconds beyond: they need not be of one day.
    At {
        days: i64,
        micros: i64,
    },
    Infinity,
    MinusInfinity,
}

impl Moment {
    pub(crate) fn of_days(days: i32) -> Self {
        Self::At { days: days.into(), micros: 0 }
    }

    pub(crate) fn of_micros(micros: i64) -> Self {
        Self::At { days: micros.div_euclid(MICROS_PER_DAY), micros: micros.rem_euclid(MICROS_PER_DAY) }
    }

    /// Days since 1970-01-01; `None` where Arrow has no value for it.
    pub(crate) fn days(self) -> Option<i32> {
        let Self::At { days, .. } = self else { return None };
        i32::try_from(days).ok()
    }

    /// Microseconds since 1970-01-01 UTC; `None` where Arrow has no value for it.
    pub(crate) fn micros(self) -> Option<i64> {
        let Self::At { days, micros } = self else { return None };
        days.checked_mul(MICROS_PER_DAY)?.checked_add(micros)
    }

    /// As Postgres writes a date.
    pub(crate) fn date_text(self) -> String {
        self.text(|_| String::new())
    }

    /// As Postgres writes a timestamp, with `zone` behind it.
    pub(crate) fn timestamp_text(self, zone: &str) -> String {
        self.text(|micros| format!(" {}{zone}", time_text(micros)))
    }

    fn text(self, time: impl FnOnce(i64) -> String) -> String {
        let (days, micros) = match self {
            Self::At { days, micros } => (days, micros),
            Self::Infinity => return "infinity".to_owned(),
            Self::MinusInfinity => return "-infinity".to_owned(),
        };
        let (days, micros) = (days + micros.div_euclid(MICROS_PER_DAY), micros.rem_euclid(MICROS_PER_DAY));
        let (year, month, day) = civil_from_days(days);
        let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
        format!("{year:04}-{month:02}-{day:02}{}{era}", time(micros))
    }
}

/// Microseconds of a day as Postgres writes a time.
pub(crate) fn time_text(micros: i64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction == 0 {
        return text;
    }
    format!("{text}.{}", format!("{fraction:06}").trim_end_matches('0'))
}

/// A date or timestamp of ISO 8601 as Java writes it: a sign before years of more than four digits, and before those from
/// 2 BC, which is the year -1; `T`; `Z` or an offset.
pub(crate) fn parse_iso(text: &[u8]) -> Option<Moment> {
    match text {
        b"infinity" => return Some(Moment::Infinity),
        b"-infinity" => return Some(Moment::MinusInfinity),
        _ => {}
    }
    let mut cursor = Cursor(text);
    let year = if cursor.skip(b'-').is_some() {
        -cursor.number(4..=9)?
    } else {
        let _ = cursor.skip(b'+');
        cursor.number(4..=9)?
    };
    let days = cursor.day_of(year)?;
    let micros = if cursor.skip(b'T').is_some() { cursor.time()? } else { 0 };
    let offset = match cursor.0.first()? {
        b'Z' => cursor.skip(b'Z').map(|()| 0)?,
        b'+' => cursor.offset()?,
        b'-' => -cursor.offset()?,
        _ => return None,
    };
    cursor.0.is_empty().then_some(Moment::At { days, micros: micros - offset * 1_000_000 })
}

/// Microseconds of a day of ISO 8601, in UTC.
pub(crate) fn parse_iso_time(text: &[u8]) -> Option<i64> {
    let mut cursor = Cursor(text.strip_suffix(b"Z")?);
    cursor.time().filter(|_| cursor.0.is_empty())
}

/// Days since 1970-01-01.
pub(crate) fn parse_date(text: &[u8]) -> Result<Parsed<i32>, ValueError> {
    if matches!(text, b"infinity" | b"-infinity") {
        return Ok(Parsed::Beyond);
    }
    let (text, before_christ) = era(text);
    let mut cursor = Cursor(text);
    let days = cursor.date(before_christ).filter(|_| cursor.0.is_empty());
    let days = days.ok_or(ValueError::Malformed("date"))?;
    Ok(i32::try_from(days).map_or(Parsed::Beyond, Parsed::Value))
}

/// Microseconds since 1970-01-01 UTC; without an offset the text is read as UTC.
pub(crate) fn parse_timestamp(text: &[u8]) -> Result<Parsed<i64>, ValueError> {
    if matches!(text, b"infinity" | b"-infinity") {
        return Ok(Parsed::Beyond);
    }
    let (text, before_christ) = era(text);
    let mut cursor = Cursor(text);
    let parts = cursor.timestamp(before_christ).filter(|_| cursor.0.is_empty());
    let (days, micros) = parts.ok_or(ValueError::Malformed("timestamp"))?;
    let total = days.checked_mul(MICROS_PER_DAY).and_then(|day| day.checked_add(micros));
    Ok(total.map_or(Parsed::Beyond, Parsed::Value))
}

fn era(text: &[u8]) -> (&[u8], bool) {
    match text.strip_suffix(b" BC") {
        Some(rest) => (rest, true),
        None => (text, false),
    }
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn skip(&mut self, byte: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }

    /// An unsigned number of `digits` digits.
    fn number(&mut self, digits: std::ops::RangeInclusive<usize>) -> Option<i64> {
        let count = self.0.iter().take_while(|c| c.is_ascii_digit()).count();
        if !digits.contains(&count) {
            return None;
        }
        let (number, rest) = self.0.split_at(count);
        self.0 = rest;
        Some(number.iter().fold(0, |sum, &c| sum * 10 + i64::from(c - b'0')))
    }

    fn date(&mut self, before_christ: bool) -> Option<i64> {
        let year = self.number(4..=7)?;
        // 1 BC is the year 0.
        self.day_of(if before_christ { 1 - year } else { year })
    }

    /// The day of `-mm-dd`.
    fn day_of(&mut self, year: i64) -> Option<i64> {
        self.skip(b'-')?;
        let month = self.number(2..=2).filter(|m| (1..=12).contains(m))?;
        self.skip(b'-')?;
        let day = self.number(2..=2).filter(|d| (1..=31).contains(d))?;
        Some(days_from_civil(year, month, day))
    }

    /// Microseconds of the day of `hh:mm:ss[.fraction]`.
    fn time(&mut self) -> Option<i64> {
        let hour = self.number(2..=2).filter(|h| *h <= 24)?;
        self.skip(b':')?;
        let minute = self.number(2..=2).filter(|m| *m < 60)?;
        self.skip(b':')?;
        let second = self.number(2..=2).filter(|s| *s <= 60)?;
        let fraction = if self.skip(b'.').is_some() { self.fraction()? } else { 0 };
        Some((hour * 3600 + minute * 60 + second) * 1_000_000 + fraction)
    }

    /// Days, and microseconds of the day less the offset.
    fn timestamp(&mut self, before_christ: bool) -> Option<(i64, i64)> {
        let days = self.date(before_christ)?;
        self.skip(b' ')?;
        let micros = self.time()?;
        let offset = match self.0.first() {
            Some(b'+') => self.offset()?,
            Some(b'-') => -self.offset()?,
            _ => 0,
        };
        Some((days, micros - offset * 1_000_000))
    }

    /// Microseconds of the digits after the point: six, or nine of which three are zeros.
    fn fraction(&mut self) -> Option<i64> {
        let before = self.0.len();
        let value = self.number(1..=9)?;
        let digits = u32::try_from(before - self.0.len()).ok()?;
        let nanos = value * 10i64.pow(9 - digits);
        (nanos % 1000 == 0).then_some(nanos / 1000)
    }

    /// Seconds of `±hh[:mm[:ss]]`, without the sign.
    fn offset(&mut self) -> Option<i64> {
        self.0 = &self.0[1..];
        let mut seconds = self.number(2..=2)? * 3600;
        for unit in [60, 1] {
            if self.skip(b':').is_some() {
                seconds += self.number(2..=2)? * unit;
            }
        }
        Some(seconds)
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, counted in eras of 400 years that begin in March.
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The reverse of [`days_from_civil`], from the same source.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Days, NaiveDate, Utc};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ends_of_the_range() {
        assert_eq!(parse_date(b"4714-11-24 BC"), Ok(Parsed::Value(-2_440_588)));
        assert_eq!(parse_date(b"5874897-12-31"), Ok(Parsed::Value(2_145_042_905)));
        assert_eq!(parse_date(b"0001-12-31 BC"), Ok(Parsed::Value(-719_163)));
        assert_eq!(parse_timestamp(b"294247-01-10 04:00:54.775807+00"), Ok(Parsed::Value(i64::MAX)));
        assert_eq!(parse_timestamp(b"294247-01-10 04:00:54.775808+00"), Ok(Parsed::Beyond));
        assert_eq!(
            parse_timestamp(b"2000-01-01 00:00:00-03:30:15"),
            Ok(Parsed::Value(crate::protocol::POSTGRES_EPOCH_MICROS + 12_615_000_000))
        );
    }

    proptest! {
        #[test]
        fn dates_agree_with_chrono(days in -80_000_000i32..80_000_000) {
            let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).expect("a date");
            let shift = Days::new(u64::from(days.unsigned_abs()));
            let date = if days < 0 { epoch - shift } else { epoch + shift };
            let (year, era) = match chrono::Datelike::year(&date) {
                year if year < 1 => (1 - year, " BC"),
                year => (year, ""),
            };
            let text = format!("{year:04}-{}{era}", date.format("%m-%d"));
            prop_assert_eq!(parse_date(text.as_bytes()), Ok(Parsed::Value(days)));
            prop_assert_eq!(Moment::of_days(days).date_text(), text);
        }

        #[test]
        fn timestamps_agree_with_chrono(micros in -60_000_000_000_000_000i64..200_000_000_000_000_000, hours in -15i64..=15) {
            let time = DateTime::<Utc>::from_timestamp_micros(micros).expect("in range");
            let local = time + chrono::TimeDelta::hours(hours);
            let sign = if hours < 0 { '-' } else { '+' };
            let text = format!("{}{sign}{:02}", local.format("%Y-%m-%d %H:%M:%S%.6f"), hours.abs());
            prop_assert_eq!(parse_timestamp(text.as_bytes()), Ok(Parsed::Value(micros)));
            let moment = Moment::of_micros(micros);
            prop_assert_eq!(parse_timestamp(moment.timestamp_text("+00").as_bytes()), Ok(Parsed::Value(micros)));
            let year = chrono::Datelike::year(&time);
            let sign = if year > 9999 { "+" } else if year < 0 { "-" } else { "" };
            let iso = format!("{sign}{:04}-{}Z", year.abs(), time.format("%m-%dT%H:%M:%S%.6f"));
            prop_assert_eq!(parse_iso(iso.as_bytes()).and_then(Moment::micros), Some(micros));
        }
    }
}
