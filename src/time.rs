//! Times as people type them.

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};

/// A date (its midnight, UTC) or an RFC 3339 time.
pub fn parse_time(text: &str) -> Result<DateTime<Utc>, chrono::ParseError> {
    match text.parse::<NaiveDate>() {
        Ok(date) => Ok(date.and_time(NaiveTime::MIN).and_utc()),
        Err(_) => DateTime::parse_from_rfc3339(text).map(Into::into),
    }
}
