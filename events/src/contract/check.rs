//! Judging a message while it is read: one pass, nothing of it is kept.

use std::{fmt, sync::Arc};

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    Reason,
    property::{Fields, Items, Kind, Property, TextFormat},
    quality::Scalar,
};

pub(super) fn check(message: &Property, bytes: &[u8]) -> Result<(), Vec<Reason>> {
    let mut told = Told::default();
    let whole = |rule| Err(vec![Reason { field: Arc::clone(&message.path), rule }]);
    if bytes.is_empty() {
        return whole("empty");
    }
    // What is passed over must be text, too.
    let Ok(text) = std::str::from_utf8(bytes) else { return whole("utf8") };
    let mut document = serde_json::Deserializer::from_str(text);
    let judged = Judge { property: message, told: &mut told }.deserialize(&mut document);
    if judged.and_then(|()| document.end()).is_err() {
        return whole("json");
    }
    if told.0.is_empty() { Ok(()) } else { Err(told.0) }
}

/// Which property each column of texts is, if the contract has one for it.
#[derive(Debug)]
pub(crate) struct Columns(Vec<Option<usize>>);

impl Columns {
    pub(super) fn new(message: &Property, names: &[&str], given: &str) -> Result<Self, Arc<str>> {
        let Kind::Object(fields) = &message.kind else { return Ok(Self(vec![None; names.len()])) };
        let columns: Vec<_> = names.iter().map(|name| fields.by_name.get(*name).copied()).collect();
        let there =
            |index: usize| columns.contains(&Some(index)) || fields.by_name.get(given) == Some(&index);
        let mut properties = fields.properties.iter().enumerate();
        match properties.find(|(index, property)| property.required.is_some() && !there(*index)) {
            Some((_, missing)) => Err(Arc::clone(&missing.path)),
            None => Ok(Self(columns)),
        }
    }

    fn property<'c>(&self, column: usize, message: &'c Property) -> Option<&'c Property> {
        let Kind::Object(fields) = &message.kind else { return None };
        fields.properties.get((*self.0.get(column)?)?)
    }
}

pub(super) fn micros(message: &Property, path: &[&str], text: &str) -> Option<i64> {
    let mut property = message;
    for name in path {
        let Kind::Object(fields) = &property.kind else { return None };
        property = &fields.properties[*fields.by_name.get(*name)?];
    }
    match &property.kind {
        Kind::Time { format, .. } => format.read(text).ok(),
        _ => None,
    }
}

pub(super) fn check_texts(message: &Property, columns: &Columns, values: &[Option<&str>]) -> Vec<Reason> {
    let mut told = Told::default();
    for (column, value) in values.iter().enumerate() {
        let Some(property) = columns.property(column, message) else { continue };
        let mut judge = Judge { property, told: &mut told };
        match (value, &property.kind) {
            (None, _) => judge.scalar(Scalar::Null),
            (Some(text), Kind::Integer(_)) => match text.parse() {
                Ok(value) => judge.scalar(Scalar::Integer(value)),
                Err(_) => judge.tell("logicalType"),
            },
            (Some(text), Kind::Number(_)) => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => judge.scalar(Scalar::Float(value)),
                _ => judge.tell("logicalType"),
            },
            (Some(text), Kind::Boolean) => match text.parse() {
                Ok(value) => judge.scalar(Scalar::Boolean(value)),
                Err(_) => judge.tell("logicalType"),
            },
            (Some(text), _) => judge.scalar(Scalar::Text(text)),
        }
    }
    told.0
}

/// What is wrong so far, each once: the contract alone bounds how many there can be.
#[derive(Default)]
struct Told(Vec<Reason>);

impl Told {
    fn tell(&mut self, property: &Property, rule: &'static str) {
        let is = |reason: &Reason| reason.rule == rule && Arc::ptr_eq(&reason.field, &property.path);
        if !self.0.iter().any(is) {
            self.0.push(Reason { field: Arc::clone(&property.path), rule });
        }
    }
}

struct Judge<'c, 't> {
    property: &'c Property,
    told: &'t mut Told,
}

impl Judge<'_, '_> {
    fn tell(&mut self, rule: &'static str) {
        self.told.tell(self.property, rule);
    }

    fn scalar(mut self, value: Scalar<'_>) {
        match (&self.property.kind, value) {
            (_, Scalar::Null) => self.told.missing(self.property),
            (Kind::Any, _) | (Kind::Boolean, Scalar::Boolean(_)) => {}
            (Kind::Text(_) | Kind::Time { .. }, Scalar::Text(text)) => self.text(text),
            (Kind::Integer(integer), Scalar::Integer(value)) => {
                if !(integer.width.0..=integer.width.1).contains(&value) {
                    self.tell("format");
                }
                if integer.multiple_of.is_some_and(|factor| value % factor != 0) {
                    self.tell("multipleOf");
                }
                integer.range.broken(value).for_each(|rule| self.told.tell(self.property, rule));
            }
            (Kind::Number(range), Scalar::Integer(value)) => {
                range.broken(value as f64).for_each(|rule| self.told.tell(self.property, rule));
            }
            (Kind::Number(range), Scalar::Float(value)) => {
                range.broken(value).for_each(|rule| self.told.tell(self.property, rule));
            }
            _ => return self.tell("logicalType"),
        }
        for test in self.property.tests.iter().filter(|test| test.is_broken_by(value)) {
            self.told.tell(self.property, test.rule);
        }
    }

    fn text(&mut self, text: &str) {
        match &self.property.kind {
            Kind::Text(kind) => {
                if kind.min_length > 0 || kind.max_length.is_some() {
                    let length = text.chars().count();
                    if length < kind.min_length {
                        self.tell("minLength");
                    }
                    if kind.max_length.is_some_and(|most| length > most) {
                        self.tell("maxLength");
                    }
                }
                if kind.pattern.as_ref().is_some_and(|pattern| !pattern.is_match(text)) {
                    self.tell("pattern");
                }
                if kind.format.is_some_and(|format| !is_of(format, text)) {
                    self.tell("format");
                }
            }
            Kind::Time { format, range } => match format.read(text) {
                Ok(micros) => range.broken(micros).for_each(|rule| self.told.tell(self.property, rule)),
                Err(rule) => self.tell(rule),
            },
            _ => {}
        }
    }
}

impl Told {
    /// A value that is null, or a field that is not there.
    fn missing(&mut self, property: &Property) {
        if let Some(rule) = property.required {
            self.tell(property, rule);
        }
        for test in property.tests.iter().filter(|test| test.is_broken_by(Scalar::Null)) {
            self.tell(property, test.rule);
        }
    }
}

fn is_of(format: TextFormat, text: &str) -> bool {
    match format {
        // With hyphens, as RFC 9562 writes it, and nothing around it.
        TextFormat::Uuid => text.len() == 36 && uuid::Uuid::try_parse(text).is_ok(),
        TextFormat::Ipv4 => text.parse::<std::net::Ipv4Addr>().is_ok(),
        TextFormat::Ipv6 => text.parse::<std::net::Ipv6Addr>().is_ok(),
    }
}

impl<'de> DeserializeSeed<'de> for Judge<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Judge<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar(Scalar::Null);
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.scalar(Scalar::Boolean(value));
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.scalar(Scalar::Integer(value.into()));
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.scalar(Scalar::Integer(value.into()));
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.scalar(Scalar::Float(value));
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.scalar(Scalar::Text(value));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        match &self.property.kind {
            Kind::Array(items) => return array(items, self, elements),
            Kind::Any => {}
            _ => self.tell("logicalType"),
        }
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        match &self.property.kind {
            Kind::Object(fields) => return object(fields, self, entries),
            Kind::Any => {}
            _ => self.tell("logicalType"),
        }
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

fn array<'de, A: SeqAccess<'de>>(
    items: &Items,
    mut judge: Judge<'_, '_>,
    mut elements: A,
) -> Result<(), A::Error> {
    let mut count = 0;
    loop {
        let more = match &items.items {
            Some(property) => elements.next_element_seed(Judge { property, told: judge.told })?.is_some(),
            None => elements.next_element::<IgnoredAny>()?.is_some(),
        };
        if !more {
            break;
        }
        count += 1;
    }
    if count < items.min_items {
        judge.tell("minItems");
    }
    if items.max_items.is_some_and(|most| count > most) {
        judge.tell("maxItems");
    }
    Ok(())
}

fn object<'de, A: MapAccess<'de>>(
    fields: &Fields,
    mut judge: Judge<'_, '_>,
    mut entries: A,
) -> Result<(), A::Error> {
    let mut seen = vec![false; fields.properties.len()];
    let mut count = 0;
    while let Some(field) = entries.next_key_seed(Name(fields))? {
        count += 1;
        let Some(index) = field else {
            entries.next_value::<IgnoredAny>()?;
            continue;
        };
        let property = &fields.properties[index];
        // Which of two would be meant, readers do not agree on.
        if std::mem::replace(&mut seen[index], true) {
            judge.told.tell(property, "duplicateField");
        }
        entries.next_value_seed(Judge { property, told: judge.told })?;
    }
    for (property, _) in fields.properties.iter().zip(seen).filter(|(_, seen)| !seen) {
        judge.told.missing(property);
    }
    if count < fields.min_properties {
        judge.tell("minProperties");
    }
    if fields.max_properties.is_some_and(|most| count > most) {
        judge.tell("maxProperties");
    }
    Ok(())
}

/// A field's name: which of the properties it is.
struct Name<'c>(&'c Fields);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<Self::Value, D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.by_name.get(name).copied())
    }
}
