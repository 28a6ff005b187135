//! A property of the schema, and what is asked of its values.

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;

use super::{
    document::root,
    keys::{Object, Problems, join},
    options,
    quality::{self, Test},
    range::Range,
    time_format::TimeFormat,
};

/// What is asked of a value.
#[derive(Debug)]
pub(super) struct Property {
    pub(super) path: Arc<str>,
    /// The rule that a missing value, or null, breaks.
    pub(super) required: Option<&'static str>,
    pub(super) kind: Kind,
    pub(super) tests: Vec<Test>,
}

/// The logical type with its options.
#[derive(Debug)]
pub(super) enum Kind {
    Any,
    Boolean,
    Text(Text),
    Integer(Integer),
    Number(Range<f64>),
    /// A date, a time or both, as text; bounds in microseconds.
    Time {
        format: TimeFormat,
        range: Range<i64>,
    },
    Object(Fields),
    Array(Items),
}

#[derive(Debug, Default)]
pub(super) struct Text {
    /// In characters, as Unicode counts them.
    pub(super) min_length: usize,
    pub(super) max_length: Option<usize>,
    pub(super) pattern: Option<regex::Regex>,
    pub(super) format: Option<TextFormat>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum TextFormat {
    Uuid,
    Ipv4,
    Ipv6,
}

#[derive(Debug)]
pub(super) struct Integer {
    pub(super) range: Range<i128>,
    pub(super) multiple_of: Option<i128>,
    /// What the `format` has values for.
    pub(super) width: (i128, i128),
}

#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) properties: Vec<Property>,
    pub(super) by_name: HashMap<Box<str>, usize>,
    pub(super) min_properties: usize,
    pub(super) max_properties: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Items {
    pub(super) items: Option<Box<Property>>,
    pub(super) min_items: usize,
    pub(super) max_items: Option<usize>,
}

/// Of all elements, says what they are about.
const ABOUT: &[&str] = &[
    "id",
    "description",
    "businessName",
    "authoritativeDefinitions",
    "tags",
    "customProperties",
    "physicalType",
    "relationships",
];
const OBJECT: &[&str] = &["name", "physicalName", "logicalType", "properties", "quality"];
const ABOUT_OBJECTS: &[&str] = &["dataGranularityDescription"];
const PROPERTY: &[&str] = &[
    "name",
    "physicalName",
    "logicalType",
    "logicalTypeOptions",
    "required",
    "unique",
    "primaryKey",
    "primaryKeyPosition",
    "quality",
    "properties",
    "items",
];
const ABOUT_PROPERTIES: &[&str] = &[
    "partitioned",
    "partitionKeyPosition",
    "classification",
    "encryptedName",
    "transformSourceObjects",
    "transformLogic",
    "transformDescription",
    "examples",
    "criticalDataElement",
];

/// The schema's object: a message.
pub(super) fn element(at: &str, value: &Value, problems: &mut Problems) -> Option<Property> {
    let object = problems.object(at, value, &[OBJECT, ABOUT, ABOUT_OBJECTS])?;
    problems.needed(at, object, "name");
    quality::of_object(at, object, problems);
    let logical_type = problems.text(at, object, "logicalType").unwrap_or("object");
    if logical_type != "object" {
        return Some(Property {
            path: root(),
            required: Some("required"),
            kind: Kind::Any,
            tests: Vec::new(),
        });
    }
    let kind = Kind::Object(fields(at, object, "", problems));
    Some(Property { path: root(), required: Some("required"), kind, tests: Vec::new() })
}

/// `at` is where in the contract it is, `path` where in a message.
fn property(at: &str, object: &Object, path: String, problems: &mut Problems) -> Property {
    let primary = problems.flag(at, object, "primaryKey").unwrap_or(false);
    if problems.flag(at, object, "unique").unwrap_or(false) && !primary {
        problems.tell(
            &join(at, "unique"),
            "cannot be judged by one message; a primaryKey is unique in the lake, since silver has one row for each",
        );
    }
    let required = match problems.flag(at, object, "required") {
        Some(true) => Some("required"),
        _ if primary => Some("primaryKey"),
        _ => None,
    };
    let no_options = Object::new();
    let at_options = join(at, "logicalTypeOptions");
    let options = match object.get("logicalTypeOptions") {
        Some(Value::Object(options)) => options,
        None | Some(Value::Null) => &no_options,
        Some(_) => {
            problems.tell(&at_options, "must be an object");
            &no_options
        }
    };
    let logical_type = problems.text(at, object, "logicalType");
    let kind = match logical_type {
        None => options::none(&at_options, options, problems),
        Some("string") => options::text(&at_options, options, problems),
        Some("integer") => options::integer(&at_options, options, problems),
        Some("number") => options::number(&at_options, options, problems),
        Some("boolean") => {
            options::none(&at_options, options, problems);
            Kind::Boolean
        }
        Some(kind @ ("date" | "timestamp" | "time")) => options::time(kind, &at_options, options, problems),
        Some("object") => {
            let mut fields = fields(at, object, &path, problems);
            options::object(&at_options, options, &mut fields, problems);
            Kind::Object(fields)
        }
        Some("array") => {
            let items = object.get("items").and_then(|items| {
                let at = join(at, "items");
                let items = problems.object(&at, items, &[PROPERTY, ABOUT, ABOUT_PROPERTIES])?;
                Some(Box::new(property(&at, items, format!("{path}[]"), problems)))
            });
            options::array(&at_options, options, items, problems)
        }
        Some(_) => {
            let known = "string, date, timestamp, time, number, integer, object, array or boolean";
            problems.tell(&join(at, "logicalType"), format!("must be {known}"));
            Kind::Any
        }
    };
    for (key, of) in [("properties", "object"), ("items", "array")] {
        if object.contains_key(key) && logical_type != Some(of) {
            problems.tell(&join(at, key), format!("needs logicalType: {of}"));
        }
    }
    let tests = quality::of_property(at, object, problems);
    let nested = matches!(kind, Kind::Object(_) | Kind::Array(_));
    if nested && tests.iter().any(|test| test.rule != "nullValues") {
        problems
            .tell(&join(at, "quality"), "must be rules of single values, which an object or array is not");
    }
    Property { path: path.into(), required, kind, tests }
}

fn fields(at: &str, object: &Object, path: &str, problems: &mut Problems) -> Fields {
    let mut fields = Fields::default();
    for (index, value) in problems.list(at, object, "properties").iter().enumerate() {
        let at = format!("{at}.properties[{index}]");
        let Some(object) = problems.object(&at, value, &[PROPERTY, ABOUT, ABOUT_PROPERTIES]) else {
            continue;
        };
        let name = problems.needed(&at, object, "name");
        // The name in the data, where it is another one than people use.
        let name = problems.text(&at, object, "physicalName").map_or(name, str::to_owned);
        let property = property(&at, object, join(path, &name), problems);
        if fields.by_name.insert(name.into(), fields.properties.len()).is_some() {
            problems.tell(&at, "has the name of another property");
        }
        fields.properties.push(property);
    }
    fields
}
