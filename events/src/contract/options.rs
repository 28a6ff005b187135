//! `logicalTypeOptions`: each logical type has its own.

use serde_json::Value;

use super::{
    keys::{Object, Problems, join},
    property::{Fields, Integer, Items, Kind, Property, Text, TextFormat},
    range::{self, Range},
    time_format::{Part, TimeFormat},
};

/// Every option but those of `known` is wrong.
fn only(at: &str, options: &Object, known: &[&[&str]], problems: &mut Problems) {
    for key in options.keys().filter(|key| !known.iter().any(|keys| keys.contains(&key.as_str()))) {
        problems.tell(&join(at, key), "is not supported for this logicalType");
    }
}

pub(super) fn none(at: &str, options: &Object, problems: &mut Problems) -> Kind {
    only(at, options, &[], problems);
    Kind::Any
}

pub(super) fn text(at: &str, options: &Object, problems: &mut Problems) -> Kind {
    only(at, options, &[&["minLength", "maxLength", "pattern", "format"]], problems);
    let format = match problems.text(at, options, "format") {
        None => None,
        Some("uuid") => Some(TextFormat::Uuid),
        Some("ipv4") => Some(TextFormat::Ipv4),
        Some("ipv6") => Some(TextFormat::Ipv6),
        Some(_) => {
            problems.tell(&join(at, "format"), "must be uuid, ipv4 or ipv6; say others by a pattern");
            None
        }
    };
    Kind::Text(Text {
        min_length: problems.count(at, options, "minLength").unwrap_or(0),
        max_length: problems.count(at, options, "maxLength"),
        pattern: problems.pattern(at, options, "pattern"),
        format,
    })
}

pub(super) fn integer(at: &str, options: &Object, problems: &mut Problems) -> Kind {
    only(at, options, &[range::KEYS, &["multipleOf", "format"]], problems);
    fn of<T: Into<i128>>(least: T, greatest: T) -> (i128, i128) {
        (least.into(), greatest.into())
    }
    let width = match problems.text(at, options, "format") {
        Some("i8") => of(i8::MIN, i8::MAX),
        Some("i16") => of(i16::MIN, i16::MAX),
        Some("i32") => of(i32::MIN, i32::MAX),
        Some("u8") => of(u8::MIN, u8::MAX),
        Some("u16") => of(u16::MIN, u16::MAX),
        Some("u32") => of(u32::MIN, u32::MAX),
        Some("u64") => of(u64::MIN, u64::MAX),
        None | Some("i64") => of(i64::MIN, i64::MAX),
        Some(_) => {
            problems.tell(&join(at, "format"), "must be i8, i16, i32, i64, u8, u16, u32 or u64");
            of(i64::MIN, i64::MAX)
        }
    };
    let whole = |value: &Value| value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    let range = Range::read(at, options, "must be a whole number", whole, problems);
    let multiple_of = options.get("multipleOf").and_then(|value| {
        let factor = whole(value).filter(|factor| *factor > 0);
        if factor.is_none() {
            problems.tell(&join(at, "multipleOf"), "must be a whole number above 0");
        }
        factor
    });
    Kind::Integer(Integer { range, multiple_of, width })
}

pub(super) fn number(at: &str, options: &Object, problems: &mut Problems) -> Kind {
    only(at, options, &[range::KEYS, &["format"]], problems);
    if !matches!(problems.text(at, options, "format"), None | Some("f64")) {
        problems.tell(&join(at, "format"), "must be f64");
    }
    Kind::Number(Range::read(at, options, "must be a number", Value::as_f64, problems))
}

pub(super) fn time(kind: &str, at: &str, options: &Object, problems: &mut Problems) -> Kind {
    let zones: &[&str] = if kind == "date" { &[] } else { &["timezone", "defaultTimezone"] };
    only(at, options, &[range::KEYS, &["format"], zones], problems);
    if !matches!(problems.text(at, options, "defaultTimezone"), None | Some("UTC" | "Etc/UTC")) {
        problems.tell(&join(at, "defaultTimezone"), "must be UTC");
    }
    let mut format = match problems.text(at, options, "format") {
        None => TimeFormat::iso(kind),
        Some(pattern) => TimeFormat::parse(pattern).unwrap_or_else(|problem| {
            problems.tell(&join(at, "format"), problem);
            TimeFormat::iso(kind)
        }),
    };
    let date = |part: &Part| matches!(part, Part::Year | Part::Month | Part::Day);
    if kind == "time" && format.parts.iter().any(date) {
        problems.tell(&join(at, "format"), "has a date, which a time has not");
    }
    let parts = [Part::Year, Part::Month, Part::Day];
    if kind != "time" && !parts.iter().all(|part| format.parts.contains(part)) {
        problems.tell(&join(at, "format"), "must have year, month and day");
    }
    format.zoned = problems.flag(at, options, "timezone");
    // Bounds are points of time, whether they name their zone or not.
    let unzoned = TimeFormat { zoned: None, parts: format.parts.clone() };
    let bound = |value: &Value| unzoned.read(value.as_str()?).ok();
    let range = Range::read(at, options, "must be a text of the property's own format", bound, problems);
    Kind::Time { format, range }
}

pub(super) fn object(at: &str, options: &Object, fields: &mut Fields, problems: &mut Problems) {
    only(at, options, &[&["minProperties", "maxProperties", "required"]], problems);
    fields.min_properties = problems.count(at, options, "minProperties").unwrap_or(0);
    fields.max_properties = problems.count(at, options, "maxProperties");
    for name in problems.list(at, options, "required") {
        let index = name.as_str().and_then(|name| fields.by_name.get(name));
        match index.and_then(|index| fields.properties.get_mut(*index)) {
            Some(property) => property.required = Some("required"),
            None => problems.tell(&join(at, "required"), "names what is not among the properties"),
        }
    }
}

pub(super) fn array(
    at: &str,
    options: &Object,
    items: Option<Box<Property>>,
    problems: &mut Problems,
) -> Kind {
    only(at, options, &[&["minItems", "maxItems"]], problems);
    Kind::Array(Items {
        items,
        min_items: problems.count(at, options, "minItems").unwrap_or(0),
        max_items: problems.count(at, options, "maxItems"),
    })
}
