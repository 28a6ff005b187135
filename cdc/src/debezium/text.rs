//! Postgres's own texts of what the connector writes in another way.

use super::json::{self, Parser, Value};
use crate::hex;

/// A `double precision` or `real`: the shortest digits that are read back as the same number.
pub(super) fn float(value: f64, single: bool) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    // Rust writes the shortest digits too, with another idea of when an exponent is due.
    let text = if single { format!("{:e}", value as f32) } else { format!("{value:e}") };
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..if single { 6 } else { 15 }).contains(&exponent) {
        return if single { format!("{}", value as f32) } else { format!("{value}") };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// An array of one dimension.
pub(super) fn array(elements: impl Iterator<Item = Option<String>>) -> String {
    let elements: Vec<String> =
        elements.map(|element| element.map_or_else(|| "NULL".to_owned(), |text| quoted(&text))).collect();
    format!("{{{}}}", elements.join(","))
}

fn quoted(element: &str) -> String {
    let plain = !element.is_empty()
        && !element.eq_ignore_ascii_case("null")
        && !element.contains(['{', '}', ',', '"', '\\', ' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    if plain { element.to_owned() } else { in_quotes(element) }
}

fn in_quotes(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// An `hstore` from its fields, which Postgres sorts by length and bytes.
pub(super) fn hstore(map: Value<'_>) -> Option<String> {
    let mut pairs = Vec::new();
    for (key, value) in json::fields(map) {
        let text = if json::is_null(value) { "NULL".to_owned() } else { in_quotes(json::string(value)?) };
        pairs.push((key, text));
    }
    pairs.sort_by_key(|(key, _)| (key.len(), *key));
    let texts: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{}=>{value}", in_quotes(key))).collect();
    Some(texts.join(", "))
}

/// The same from JSON in a text.
pub(super) fn hstore_of_json(text: &str) -> Option<String> {
    let read = |map: Value<'_>| if json::is_object(map) { hstore(map) } else { None };
    Parser::new().read(text.as_bytes(), read).ok().flatten()
}

/// A `point` from its coordinates.
pub(super) fn point(value: Value<'_>) -> Option<String> {
    let coordinate = |name| Some(float(json::float(json::field(value, name)?)?, false));
    Some(format!("({},{})", coordinate("x")?, coordinate("y")?))
}

/// So many bits, of which the connector gives the last one first.
pub(super) fn bits(bytes: &[u8], length: usize) -> Option<String> {
    let bit = |at: usize| bytes.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
    if (length..bytes.len() * 8).any(bit) {
        return None;
    }
    Some((0..length).rev().map(|at| if bit(at) { '1' } else { '0' }).collect())
}

/// `bytea` in hexadecimal digits.
pub(super) fn bytea(bytes: &[u8]) -> String {
    format!("\\x{}", hex::encode(bytes))
}

/// An interval from `P1Y2M3DT4H5M6.7S`, in the style `postgres`.
pub(super) fn interval(text: &str) -> Option<String> {
    let (date, time) = text.strip_prefix('P')?.split_once('T').unwrap_or((&text[1..], ""));
    let [mut years, mut months, mut days, mut micros] = [0i64; 4];
    for (number, unit) in parts(date)? {
        let number: i64 = number.parse().ok()?;
        match unit {
            'Y' => years = number,
            'M' => months = number,
            'D' => days = number,
            _ => return None,
        }
    }
    for (number, unit) in parts(time)? {
        let part = match unit {
            'H' => number.parse::<i64>().ok()?.checked_mul(3_600_000_000)?,
            'M' => number.parse::<i64>().ok()?.checked_mul(60_000_000)?,
            'S' => micros_of(number)?,
            _ => return None,
        };
        micros = micros.checked_add(part)?;
    }
    let months = years.checked_mul(12)?.checked_add(months)?;
    let mut out = String::new();
    let mut before = false;
    for (value, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if value != 0 {
            let space = if out.is_empty() { "" } else { " " };
            let plus = if before && value > 0 { "+" } else { "" };
            let plural = if value == 1 { "" } else { "s" };
            out.push_str(&format!("{space}{plus}{value} {unit}{plural}"));
            before = value < 0;
        }
    }
    if micros != 0 || out.is_empty() {
        let space = if out.is_empty() { "" } else { " " };
        let sign = if micros < 0 {
            "-"
        } else if before {
            "+"
        } else {
            ""
        };
        let time = crate::datetime::time_text(i64::try_from(micros.unsigned_abs()).ok()?);
        out.push_str(&format!("{space}{sign}{time}"));
    }
    Some(out)
}

/// Numbers, each with the letter behind it.
fn parts(text: &str) -> Option<Vec<(&str, char)>> {
    let mut rest = text;
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (at, unit) = rest.char_indices().find(|(_, c)| c.is_ascii_alphabetic())?;
        parts.push((&rest[..at], unit));
        rest = &rest[at + 1..];
    }
    Some(parts)
}

fn micros_of(seconds: &str) -> Option<i64> {
    let (negative, digits) = match seconds.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, seconds),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let (fraction, beyond) = fraction.split_at(fraction.len().min(6));
    if beyond.bytes().any(|c| c != b'0') {
        return None;
    }
    let fraction = format!("{fraction:0<6}").parse::<i64>().ok()?;
    let micros = whole.parse::<i64>().ok()?.checked_mul(1_000_000)?.checked_add(fraction)?;
    Some(if negative { -micros } else { micros })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_postgres() {
        for (value, text) in [
            (0.1, "0.1"),
            (-0.0, "-0"),
            (5e-324, "5e-324"),
            (1e15, "1e+15"),
            (123_456_789_012_345.0, "123456789012345"),
            (0.0001, "0.0001"),
            (0.000_012, "1.2e-05"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float(value, false), text);
        }
        assert_eq!([float(1e-40, true), float(1e6, true), float(0.1, true)], ["1e-40", "1e+06", "0.1"]);
        for (iso, text) in [
            ("P1Y0M-2DT3H4M5.000006S", "1 year -2 days +03:04:05.000006"),
            ("P0Y-1M0DT0H0M0S", "-1 mons"),
            ("P0Y0M0DT0H0M0S", "00:00:00"),
            ("P0Y0M4DT3H4M0S", "4 days 03:04:00"),
            ("P0Y0M0DT-26H-3M-0.5S", "-26:03:00.5"),
            ("P1Y1M1DT0H0M0S", "1 year 1 mon 1 day"),
        ] {
            assert_eq!(interval(iso).as_deref(), Some(text), "{iso}");
        }
        for bad in ["", "P", "1Y", "P1X", "PT1.5H", "PT5.0000001S", "PT-S"] {
            assert!(bad == "P" || interval(bad).is_none(), "{bad}");
        }
        let elements = ["a,b", "\"q\"", "", "null", "\\", "plain"].map(|text| Some(text.to_owned()));
        let text = r#"{"a,b","\"q\"","","null","\\",plain,NULL}"#;
        assert_eq!(array(elements.into_iter().chain([None])), text);
        let text = r#""c"=>"d\"", "a b"=>NULL"#;
        assert_eq!(hstore_of_json(r#"{"a b":null,"c":"d\""}"#).as_deref(), Some(text));
        assert_eq!(bits(&[0b1010], 4).as_deref(), Some("1010"));
        assert_eq!(bits(&[], 3).as_deref(), Some("000"));
        assert_eq!(bits(&[0b1_0000], 4), None);
        assert_eq!(bytea(&[0, 0xff]), "\\x00ff");
    }
}
