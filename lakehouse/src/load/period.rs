//! What rows are partitioned by: the year, month, day or hour of their time, in UTC.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, StringBuilder},
    datatypes::TimestampMicrosecondType,
    error::ArrowError,
};
use chrono::DateTime;
use serde::{Deserialize, Serialize};

const SECONDS_AN_HOUR: i64 = 3_600;

/// How long the rows of a partition's times are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    Year,
    Month,
    Day,
    Hour,
}

impl Period {
    const ALL: [Self; 4] = [Self::Year, Self::Month, Self::Day, Self::Hour];

    /// The partition column's name. Its values are the first part of an ISO 8601 time: `2026-11-23`, `2026-11-23T05`.
    pub(crate) fn column(self) -> &'static str {
        match self {
            Self::Year => "_year",
            Self::Month => "_month",
            Self::Day => "_day",
            Self::Hour => "_hour",
        }
    }

    pub(crate) fn by_column(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|period| period.column() == name)
    }

    /// The values for times in microseconds UTC, none of which is null.
    pub(crate) fn of(self, times: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        let times = times.as_primitive_opt::<TimestampMicrosecondType>();
        let times = times.ok_or_else(|| ArrowError::SchemaError("no time to partition by".to_owned()))?;
        let format = match self {
            Self::Year => "%Y",
            Self::Month => "%Y-%m",
            Self::Day => "%Y-%m-%d",
            Self::Hour => "%Y-%m-%dT%H",
        };
        let mut texts = StringBuilder::with_capacity(times.len(), 13 * times.len());
        // Rows mostly come in order of time.
        let (mut last, mut text) = (None, String::new());
        for time in times.values() {
            let hour = time.div_euclid(SECONDS_AN_HOUR * 1_000_000);
            if last.replace(hour) != Some(hour) {
                let start = DateTime::from_timestamp(hour * SECONDS_AN_HOUR, 0);
                let start = start.ok_or_else(|| ArrowError::ParseError("a time out of range".to_owned()))?;
                text = start.format(format).to_string();
            }
            texts.append_value(&text);
        }
        Ok(Arc::new(texts.finish()))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::TimestampMicrosecondArray;

    use super::*;

    #[test]
    fn a_time_is_in_the_period_that_its_text_begins_with() {
        let texts =
            ["2026-11-23T05:59:59.999999", "2026-11-23T06:00:00.000000", "1969-12-31T23:59:59.999999"];
        let micros = |text: &&str| {
            chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")
                .unwrap()
                .and_utc()
                .timestamp_micros()
        };
        let times: ArrayRef = Arc::new(
            TimestampMicrosecondArray::from_iter_values(texts.iter().map(micros)).with_timezone("UTC"),
        );
        for (period, length) in Period::ALL.into_iter().zip([4, 7, 10, 13]) {
            let found = period.of(&times).unwrap();
            let expected = texts.iter().map(|text| Some(&text[..length]));
            assert!(found.as_string::<i32>().iter().eq(expected), "{found:?}");
            assert_eq!(Period::by_column(period.column()), Some(period));
        }
    }
}
