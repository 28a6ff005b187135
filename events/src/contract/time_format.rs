//! Formats of dates and times, as Java's `DateTimeFormatter` has them, and ISO 8601 where none is given.

use chrono::NaiveDate;

#[derive(Debug, Clone)]
pub(super) struct TimeFormat {
    pub(super) parts: Vec<Part>,
    /// Whether a zone must be there (`true`) or must not.
    pub(super) zoned: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    /// So many digits of a second's fraction.
    Fraction(usize),
    /// `Z` or an offset.
    Offset,
    /// `UTC` or `GMT`.
    Zone,
    Literal(u8),
    /// ISO 8601: `T`, or a space, as its profile RFC 3339 allows.
    Separator,
    /// ISO 8601: a point and digits, or nothing.
    AnyFraction,
    /// ISO 8601: `Z`, an offset, ` UTC`, or nothing.
    AnyZone,
}

const MICROS_PER_DAY: i64 = 86_400_000_000;

impl TimeFormat {
    /// Of the logical types `date`, `time` and `timestamp`.
    pub(super) fn iso(kind: &str) -> Self {
        let date = [Part::Year, Part::Literal(b'-'), Part::Month, Part::Literal(b'-'), Part::Day];
        let time = [
            Part::Hour,
            Part::Literal(b':'),
            Part::Minute,
            Part::Literal(b':'),
            Part::Second,
            Part::AnyFraction,
            Part::AnyZone,
        ];
        let parts = match kind {
            "date" => date.to_vec(),
            "time" => time.to_vec(),
            _ => [&date[..], &[Part::Separator], &time].concat(),
        };
        Self { parts, zoned: None }
    }

    /// Of a pattern of letters. `T` needs no quotes: the standard's own examples have none.
    pub(super) fn parse(pattern: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = pattern.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            let run = rest.iter().take_while(|byte| **byte == first).count();
            let (part, length) = match (first, run) {
                (b'y' | b'u', 4) => (Part::Year, 4),
                (b'M', 2) => (Part::Month, 2),
                (b'd', 2) => (Part::Day, 2),
                (b'H', 2) => (Part::Hour, 2),
                (b'm', 2) => (Part::Minute, 2),
                (b's', 2) => (Part::Second, 2),
                (b'S', 1..=9) => (Part::Fraction(run), run),
                (b'X' | b'x', 1..=3) | (b'Z', 1 | 5) => (Part::Offset, run),
                (b'z', 1..=3) | (b'V', 2) => (Part::Zone, run),
                (b'\'', _) => {
                    let end = after.iter().position(|byte| *byte == b'\'');
                    let end = end.ok_or_else(|| "has a quote that does not end".to_owned())?;
                    let text = if end == 0 { b"'" } else { &after[..end] };
                    parts.extend(text.iter().map(|byte| Part::Literal(*byte)));
                    rest = &after[end + 1..];
                    continue;
                }
                (b'T', 1) => (Part::Literal(b'T'), 1),
                (byte, _) if byte.is_ascii_alphabetic() || b"[]{}#".contains(&byte) => {
                    return Err(format!(
                        "has {:?}: yyyy MM dd HH mm ss S… X Z z and quoted text are supported",
                        char::from(byte)
                    ));
                }
                (byte, _) => (Part::Literal(byte), 1),
            };
            parts.push(part);
            rest = &rest[length..];
        }
        Ok(Self { parts, zoned: None })
    }

    /// Microseconds since 1970-01-01 UTC, or of the day; else the rule that the text breaks.
    pub(super) fn read(&self, text: &str) -> Result<i64, &'static str> {
        let moment = self.moment(text.as_bytes()).ok_or("format")?;
        match (self.zoned, moment.offset) {
            (Some(true), None) | (Some(false), Some(_)) => return Err("timezone"),
            _ => {}
        }
        Ok(moment.micros - moment.offset.unwrap_or(0) * 60_000_000)
    }

    fn moment(&self, text: &[u8]) -> Option<Moment> {
        let mut rest = text;
        let (mut year, mut month, mut day) = (1970, 1, 1);
        let (mut hour, mut minute, mut second, mut micro) = (0, 0, 0, 0);
        let mut offset = None;
        for part in &self.parts {
            match part {
                Part::Year => year = i32::try_from(digits(&mut rest, 4)?).ok()?,
                Part::Month => month = digits(&mut rest, 2)?,
                Part::Day => day = digits(&mut rest, 2)?,
                Part::Hour => hour = digits(&mut rest, 2)?,
                Part::Minute => minute = digits(&mut rest, 2)?,
                Part::Second => second = digits(&mut rest, 2)?,
                Part::Fraction(count) => micro = fraction(&mut rest, *count)?,
                Part::Literal(byte) => skip(&mut rest, &[*byte])?,
                Part::Separator => skip(&mut rest, b"T").or_else(|| skip(&mut rest, b" "))?,
                Part::Offset => offset = Some(zone_offset(&mut rest)?),
                Part::Zone => {
                    skip(&mut rest, b"UTC").or_else(|| skip(&mut rest, b"GMT"))?;
                    offset = Some(0);
                }
                Part::AnyFraction => {
                    if skip(&mut rest, b".").is_some() {
                        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                        micro = if count <= 9 { fraction(&mut rest, count)? } else { return None };
                    }
                }
                Part::AnyZone => {
                    if skip(&mut rest, b" UTC").is_some() {
                        offset = Some(0);
                    } else if !rest.is_empty() {
                        offset = Some(zone_offset(&mut rest)?);
                    }
                }
            }
        }
        if !rest.is_empty() || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let date = NaiveDate::from_ymd_opt(year, month, day)?;
        let days = i64::from(date.to_epoch_days());
        let seconds = i64::from(hour * 3600 + minute * 60 + second);
        Some(Moment { micros: days * MICROS_PER_DAY + seconds * 1_000_000 + i64::from(micro), offset })
    }
}

struct Moment {
    /// As the text has them, whatever its zone.
    micros: i64,
    /// Minutes east of UTC.
    offset: Option<i64>,
}

fn digits(rest: &mut &[u8], count: usize) -> Option<u32> {
    let (digits, after) = rest.split_at_checked(count)?;
    *rest = after;
    digits.iter().try_fold(0, |number, byte| Some(number * 10 + char::from(*byte).to_digit(10)?))
}

/// Of a second, in microseconds; what is less is cut off.
fn fraction(rest: &mut &[u8], count: usize) -> Option<u32> {
    let number = digits(rest, count)?;
    let count = u32::try_from(count).ok().filter(|count| (1..=9).contains(count))?;
    Some(if count <= 6 { number * 10_u32.pow(6 - count) } else { number / 10_u32.pow(count - 6) })
}

fn skip(rest: &mut &[u8], literal: &[u8]) -> Option<()> {
    *rest = rest.strip_prefix(literal)?;
    Some(())
}

/// `Z`, or hours and perhaps minutes, in minutes.
fn zone_offset(rest: &mut &[u8]) -> Option<i64> {
    let (sign, after) = rest.split_first()?;
    *rest = after;
    let sign = match sign {
        b'Z' => return Some(0),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let hours = digits(rest, 2)?;
    let colon = skip(rest, b":").is_some();
    let minutes = match rest.first() {
        Some(byte) if byte.is_ascii_digit() => digits(rest, 2)?,
        _ if colon => return None,
        _ => 0,
    };
    (hours <= 18 && minutes <= 59).then_some(sign * i64::from(hours * 60 + minutes))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;

    fn micros(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).expect("a time").timestamp_micros()
    }

    #[test]
    fn without_a_format_it_is_iso_8601() {
        let format = TimeFormat::iso("timestamp");
        let same = [
            "2019-10-01T00:00:00Z",
            "2019-10-01 00:00:00 UTC",
            "2019-10-01T00:00:00.000000000Z",
            "2019-10-01T02:00:00+02:00",
            "2019-10-01T02:00:00+0200",
            "2019-09-30T21:00:00.0-03",
            "2019-10-01 00:00:00",
        ];
        for text in same {
            assert_eq!(format.read(text), Ok(micros("2019-10-01T00:00:00Z")), "{text}");
        }
        for text in [
            "",
            "2019-10-01",
            "2019-02-29T00:00:00Z",
            "2019-10-01T24:00:00Z",
            "2019-10-01T00:00:00 CET",
            "2019-10-01T00:00:00.Z",
            "2019-10-01T00:00:00.0000000000Z",
            "19-10-01T00:00:00Z",
            "１９７０-01-01T00:00:00Z",
        ] {
            assert_eq!(format.read(text), Err("format"), "{text}");
        }
        assert_eq!(TimeFormat::iso("time").read("01:00:00.5"), Ok(3_600_500_000));
        assert_eq!(TimeFormat::iso("date").read("1970-01-02"), Ok(MICROS_PER_DAY));
    }

    #[test]
    fn a_zone_is_asked_for_or_refused() {
        let format = TimeFormat { zoned: Some(true), ..TimeFormat::iso("timestamp") };
        assert_eq!(format.read("2019-10-01 00:00:00"), Err("timezone"));
        let format = TimeFormat { zoned: Some(false), ..TimeFormat::iso("timestamp") };
        assert_eq!(format.read("2019-10-01 00:00:00Z"), Err("timezone"));
    }

    #[test]
    fn formats_are_java_s() {
        let read = |format: &str, text: &str| TimeFormat::parse(format).expect("a format").read(text);
        assert_eq!(
            read("yyyy-MM-dd HH:mm:ss 'UTC'", "2019-10-01 00:00:01 UTC"),
            Ok(micros("2019-10-01T00:00:01Z"))
        );
        assert_eq!(read("yyyy-MM-ddTHH:mm:ssZ", "2019-10-01T00:00:01Z"), Ok(micros("2019-10-01T00:00:01Z")));
        assert_eq!(
            read("dd/MM/uuuu HH:mm:ss.SSS XXX", "01/10/2019 00:00:01.250 +01:00"),
            Ok(micros("2019-09-30T23:00:01.25Z"))
        );
        assert_eq!(
            read("yyyy-MM-dd HH:mm:ss z", "2019-10-01 00:00:01 UTC"),
            Ok(micros("2019-10-01T00:00:01Z"))
        );
        assert_eq!(read("HH''mm", "01'02"), Ok(3_720_000_000));
        assert_eq!(read("yyyy-MM-dd", "2019-10-1"), Err("format"));
        for wrong in ["yy-MM-dd", "yyyy-MMM-dd", "EEE", "yyyy[-MM]", "'open", "hh:mm a"] {
            assert!(TimeFormat::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn times_agree_with_chrono(micros in -60_000_000_000_000_000i64..200_000_000_000_000_000, minutes in -840i32..840) {
            let zone = chrono::FixedOffset::east_opt(minutes * 60).expect("an offset");
            let time = DateTime::from_timestamp_micros(micros).expect("in range").with_timezone(&zone);
            let format = TimeFormat::iso("timestamp");
            prop_assert_eq!(format.read(&time.format("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string()), Ok(micros));
            let whole = micros.div_euclid(1_000_000) * 1_000_000;
            let format = TimeFormat::parse("yyyy-MM-dd HH:mm:ssX").expect("a format");
            prop_assert_eq!(format.read(&time.format("%Y-%m-%d %H:%M:%S%z").to_string()), Ok(whole));
        }

        #[test]
        fn any_text_ends_in_an_answer(pattern in ".{0,20}", text in ".{0,30}") {
            let _ = TimeFormat::iso("timestamp").read(&text);
            if let Ok(format) = TimeFormat::parse(&pattern) {
                let _ = format.read(&text);
            }
        }
    }
}
