//! A registered schema: how data of it are read, and the Connect schema that its writer was given.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map as Object, Value as Json, json};

/// No table has so many columns: references to references would need memory without end.
const MOST_TYPES: usize = 100_000;
const MOST_DEPTH: usize = 64;

const UNKNOWN: &str = "has a type that is not known, or within itself";
const MALFORMED: &str = "is no Avro schema";
const EMPTY: &str = "has a type without values";
const UNION: &str = "has a union of several types";

/// What a schema at the registry says.
#[derive(Debug)]
pub(in super::super) struct Schema {
    pub(super) shape: Shape,
    /// The Connect schema, as Connect's JSON converter writes it.
    pub(in super::super) connect: String,
}

/// How a value is written. None is without bytes, so a datum of some bytes has no more values than those.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    Boolean,
    Integer,
    Float,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    Symbols(Arc<[String]>),
    Array(Arc<Self>),
    Map(Arc<Self>),
    Fields(Arc<[(String, Self)]>),
    /// The branches of a union, null or a value.
    Maybe(Arc<[Option<Self>]>),
}

impl Schema {
    /// # Errors
    /// Why nothing is read by it.
    pub(in super::super) fn read(registered: &str) -> Result<Self, &'static str> {
        let registered: Json = serde_json::from_str(registered).map_err(|_| MALFORMED)?;
        let Type { shape, connect, .. } = Types::default().read(&registered, "")?;
        Ok(Self { shape, connect: Json::Object(connect).to_string() })
    }
}

/// The types of a schema that have names. Logical ones are none of their own: decimals stay bytes, as in Connect's JSON.
#[derive(Default)]
struct Types(BTreeMap<String, Type>);

#[derive(Clone)]
struct Type {
    shape: Shape,
    connect: Object<String, Json>,
    /// How many types it is made of, and how deep they are in each other.
    size: usize,
    depth: usize,
}

impl Types {
    /// `namespace` is that of names without one.
    fn read(&mut self, schema: &Json, namespace: &str) -> Result<Type, &'static str> {
        let read = match schema {
            Json::String(name) => match self.0.get(&full(name, namespace)) {
                Some(known) => known.clone(),
                None => plain(name, schema)?,
            },
            Json::Array(branches) => self.union(branches, namespace)?,
            Json::Object(_) => self.described(schema, namespace)?,
            _ => return Err(MALFORMED),
        };
        if read.size > MOST_TYPES || read.depth > MOST_DEPTH { Err("is too large") } else { Ok(read) }
    }

    /// A value that may be absent is the value itself: so it is in Connect.
    fn union(&mut self, branches: &[Json], namespace: &str) -> Result<Type, &'static str> {
        let (mut shapes, mut value) = (Vec::new(), None);
        for branch in branches {
            if branch == "null" {
                shapes.push(None);
                continue;
            }
            let branch = self.read(branch, namespace)?;
            shapes.push(Some(branch.shape.clone()));
            if value.replace(branch).is_some() {
                return Err(UNION);
            }
        }
        Ok(Type { shape: Shape::Maybe(shapes.into()), ..value.ok_or(EMPTY)? })
    }

    fn described(&mut self, schema: &Json, namespace: &str) -> Result<Type, &'static str> {
        let kind = text(schema, "type")?;
        let mut connect = connect(kind, schema);
        if let "array" | "map" = kind {
            let part = if kind == "array" { "items" } else { "values" };
            let Type { shape, connect: of_connect, size, depth } = self.read(&schema[part], namespace)?;
            connect.insert(part.to_owned(), Json::Object(of_connect));
            let shape = if kind == "array" { Shape::Array(shape.into()) } else { Shape::Map(shape.into()) };
            return Ok(Type { shape, connect, size: size + 1, depth: depth + 1 });
        }
        if !matches!(kind, "record" | "enum" | "fixed") {
            return plain(kind, schema);
        }
        let name = full(text(schema, "name")?, schema["namespace"].as_str().unwrap_or(namespace));
        let of = name.rsplit_once('.').map_or("", |(of, _)| of);
        connect.entry("name").or_insert_with(|| json!(name));
        let (mut size, mut depth) = (1, 1);
        let shape = match kind {
            "record" => {
                let (mut shapes, mut of_connect) = (Vec::new(), Vec::new());
                for field in schema["fields"].as_array().filter(|fields| !fields.is_empty()).ok_or(EMPTY)? {
                    let (name, mut read) = (text(field, "name")?, self.read(&field["type"], of)?);
                    read.connect.insert("field".to_owned(), json!(name));
                    of_connect.push(Json::Object(read.connect));
                    shapes.push((name.to_owned(), read.shape));
                    (size, depth) = (size + read.size, depth.max(read.depth + 1));
                }
                connect.insert("fields".to_owned(), Json::Array(of_connect));
                Shape::Fields(shapes.into())
            }
            "enum" => {
                let symbols = schema["symbols"].as_array().ok_or(MALFORMED)?.iter();
                let symbols: Option<Vec<_>> =
                    symbols.map(|symbol| symbol.as_str().map(str::to_owned)).collect();
                Shape::Symbols(symbols.ok_or(MALFORMED)?.into())
            }
            _ => {
                let size = schema["size"].as_u64().and_then(|size| usize::try_from(size).ok());
                Shape::Fixed(size.filter(|size| *size > 0).ok_or(EMPTY)?)
            }
        };
        let read = Type { shape, connect, size, depth };
        self.0.insert(name, read.clone());
        Ok(read)
    }
}

fn plain(kind: &str, schema: &Json) -> Result<Type, &'static str> {
    let shape = match kind {
        "boolean" => Shape::Boolean,
        "int" | "long" => Shape::Integer,
        "float" => Shape::Float,
        "double" => Shape::Double,
        "bytes" => Shape::Bytes,
        "string" => Shape::Text,
        "null" => return Err(EMPTY),
        _ => return Err(UNKNOWN),
    };
    Ok(Type { shape, connect: connect(kind, schema), size: 1, depth: 1 })
}

/// What the converter notes of the Connect schema that it was given.
fn connect(kind: &str, schema: &Json) -> Object<String, Json> {
    let kind = match kind {
        // Connect has smaller integers, too.
        "int" => schema["connect.type"].as_str().unwrap_or("int32"),
        "long" => "int64",
        "record" => "struct",
        "enum" => "string",
        "fixed" => "bytes",
        same => same,
    };
    let mut connect = Object::new();
    connect.insert("type".to_owned(), json!(kind));
    for (noted, called) in [("connect.name", "name"), ("connect.parameters", "parameters")] {
        connect.extend(schema.get(noted).map(|value| (called.to_owned(), value.clone())));
    }
    connect
}

fn text<'a>(schema: &'a Json, name: &str) -> Result<&'a str, &'static str> {
    schema[name].as_str().ok_or(MALFORMED)
}

fn full(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}
