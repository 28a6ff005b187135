//! The shipped connectors: settings with places for what only the configuration knows.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::ConnectError;

const SHIPPED: [(&str, &str); 2] = [
    ("ecommerce-connector", include_str!("../../deploy/debezium/ecommerce-connector.json")),
    ("tracking-connector", include_str!("../../deploy/debezium/tracking-connector.json")),
];

/// A connector of `deploy/debezium/`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    pub name: String,
    /// Patterns of `schema.table`; `*` stands for anything.
    pub tables: Vec<String>,
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Connect's settings; `${…}` is filled in.
    config: BTreeMap<String, String>,
}

impl Template {
    /// All that are shipped, or those of the names.
    ///
    /// # Errors
    /// A name that none has.
    pub fn shipped(names: &[String]) -> Result<Vec<Self>, ConnectError> {
        if let Some(name) = names.iter().find(|name| SHIPPED.iter().all(|(known, _)| known != name)) {
            let known = SHIPPED.map(|(name, _)| name).join(" and ");
            return Err(ConnectError::Unknown { name: name.clone(), known });
        }
        let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
        SHIPPED.iter().filter(|(name, _)| wanted(name)).map(|(name, text)| Self::read(name, text)).collect()
    }

    /// A template of one's own, in the form of those in `deploy/debezium/`; `called` is what its errors call it.
    ///
    /// # Errors
    /// A text that is none.
    pub fn read(called: &str, text: &str) -> Result<Self, ConnectError> {
        serde_json::from_str(text).map_err(|error| ConnectError::Template {
            connector: called.to_owned(),
            problem: error.to_string(),
        })
    }

    /// Slot and publication have one name.
    pub(crate) fn slot(&self) -> Result<&str, ConnectError> {
        self.config.get("slot.name").map(String::as_str).ok_or_else(|| self.broken("slot.name is missing"))
    }

    /// Connect's settings with the values in their places.
    pub(crate) fn fill(&self, values: &BTreeMap<&str, String>) -> Result<Value, ConnectError> {
        let filled = self.config.iter().map(|(key, text)| {
            let filled = match text.strip_prefix("${").and_then(|name| name.strip_suffix('}')) {
                Some(name) => {
                    let value = values.get(name);
                    value.ok_or_else(|| self.broken(&format!("nobody knows ${{{name}}}")))?.clone()
                }
                None => text.clone(),
            };
            Ok((key.clone(), Value::String(filled)))
        });
        filled.collect::<Result<_, _>>().map(Value::Object)
    }

    fn broken(&self, problem: &str) -> ConnectError {
        ConnectError::Template { connector: self.name.clone(), problem: problem.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: [&str; 8] =
        ["host", "port", "user", "password", "database", "sslmode", "tables", "unreadable"];

    #[test]
    fn all_places_are_filled_and_nothing_else() {
        let templates = Template::shipped(&[]).expect("they are read");
        for template in &templates {
            // What looks like a place, in a value, is none.
            let values = PLACES.map(|place| (place, format!("${{{place}}} of {place}"))).into();
            let config = template.fill(&values).expect("all places are known");
            for (key, place) in
                [("database.password", "password"), ("snapshot.include.collection.list", "tables")]
            {
                assert_eq!(config[key], format!("${{{place}}} of {place}"));
            }
            assert_eq!(config["slot.name"], config["publication.name"]);
            let missing = template.fill(&BTreeMap::new()).expect_err("places without values");
            assert!(missing.to_string().contains(&template.name), "{missing}");
        }
        let slots = templates.iter().map(|template| template.slot().expect("a slot"));
        assert_eq!(slots.collect::<std::collections::BTreeSet<_>>().len(), SHIPPED.len());
    }

    #[test]
    fn the_template_for_avro_is_the_shipped_one_but_for_its_converters() {
        let read = |text| serde_json::from_str::<Value>(text).expect("it is JSON");
        let avro = read(include_str!("../../deploy/debezium/ecommerce-connector-avro.json"));
        let [shipped, avro] = [read(SHIPPED[0].1), avro].map(|mut template| {
            let config = template["config"].as_object_mut().expect("its settings");
            config.retain(|name, _| !name.contains(".converter") && !name.ends_with("name.adjustment.mode"));
            template
        });
        assert_eq!(avro, shipped);
    }

    #[test]
    fn unknown_names_are_told_with_the_known_ones() {
        let error = Template::shipped(&["shop".to_owned()]).expect_err("none is called so").to_string();
        assert!(error.contains("shop") && error.contains("tracking-connector"), "{error}");
    }
}
