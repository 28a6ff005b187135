//! A contract's document as a whole: what it is about, its one schema, what it promises.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    Contract,
    keys::{Object, Problems, join},
    property::{self, Kind, Property},
};
use crate::ContractError;

/// Says what the contract is about; nothing that a message is judged by.
const ABOUT: &[&str] = &[
    "name",
    "tenant",
    "tags",
    "domain",
    "dataProduct",
    "description",
    "servers",
    "support",
    "price",
    "team",
    "roles",
    "authoritativeDefinitions",
    "customProperties",
    "contractCreatedTs",
];
const KEYS: &[&str] = &["apiVersion", "kind", "id", "version", "status", "schema", "slaProperties"];
const SLA: &[&str] = &[
    "id",
    "property",
    "value",
    "valueExt",
    "unit",
    "element",
    "driver",
    "description",
    "scheduler",
    "schedule",
];

pub(super) fn parse(yaml: &str) -> Result<Contract, ContractError> {
    let document: Value = serde_saphyr::from_str(yaml)
        .map_err(|error| ContractError { problems: vec![format!("this is not YAML: {error}")] })?;
    let mut problems = Problems::default();
    let contract = contract(&document, &mut problems);
    match contract {
        Some(contract) if problems.0.is_empty() => Ok(contract),
        _ => Err(ContractError { problems: problems.0 }),
    }
}

fn contract(document: &Value, problems: &mut Problems) -> Option<Contract> {
    let object = problems.object("the contract", document, &[KEYS, ABOUT])?;
    let api = problems.needed("", object, "apiVersion");
    if !api.is_empty() && !api.starts_with("v3.1.") {
        problems.tell("apiVersion", "must be v3.1.0: the standard that contracts are read by");
    }
    let kind = problems.needed("", object, "kind");
    if !kind.is_empty() && kind != "DataContract" {
        problems.tell("kind", "must be DataContract");
    }
    problems.needed("", object, "status");
    let id = problems.needed("", object, "id");
    let version = problems.needed("", object, "version");
    let latency = latency(object, problems);
    let message = schema(object, problems)?;
    Some(Contract { id, version, latency, message })
}

/// The one object of the schema: a message.
fn schema(object: &Object, problems: &mut Problems) -> Option<Property> {
    let [element] = problems.list("", object, "schema") else {
        problems.tell("schema", "must have exactly one object: a contract is about one topic or table");
        return None;
    };
    let element = property::element("schema[0]", element, problems)?;
    if matches!(element.kind, Kind::Object(_)) {
        return Some(element);
    }
    problems.tell("schema[0].logicalType", "must be object");
    None
}

/// `latency`, the one promise that is watched; the others are for people.
fn latency(object: &Object, problems: &mut Problems) -> Option<Duration> {
    let mut latency = None;
    for (index, promise) in problems.list("", object, "slaProperties").iter().enumerate() {
        let path = format!("slaProperties[{index}]");
        let Some(promise) = problems.object(&path, promise, &[SLA]) else { continue };
        let property = problems.needed(&path, promise, "property").to_ascii_lowercase();
        if !promise.contains_key("value") {
            problems.tell(&join(&path, "value"), "is missing");
        }
        if property == "latency" || property == "ly" {
            let unit = problems.text(&path, promise, "unit").unwrap_or_default();
            let seconds = match unit.to_ascii_lowercase().as_str() {
                "d" | "day" | "days" => 86_400.0,
                "h" | "hr" | "hour" | "hours" => 3_600.0,
                "min" | "minute" | "minutes" => 60.0,
                "s" | "sec" | "second" | "seconds" => 1.0,
                "ms" | "millisecond" | "milliseconds" => 0.001,
                _ => f64::NAN,
            };
            let value = promise.get("value").and_then(Value::as_f64).unwrap_or(f64::NAN);
            match Duration::try_from_secs_f64(value * seconds) {
                Ok(given) if !given.is_zero() => latency = Some(given),
                _ => problems.tell(&path, "must be a number above 0, with the unit d, h, min, s or ms"),
            }
        }
    }
    latency
}

/// The path of a message as a whole.
pub(super) fn root() -> Arc<str> {
    Arc::from("")
}
