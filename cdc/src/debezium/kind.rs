//! What Postgres holds in a column, as far as the connector writes it in a way of its own.

use lakeward_change::{Column, ColumnType};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Integer,
    Float {
        single: bool,
    },
    /// Digits after the point; `None` where each value has its own.
    Numeric {
        scale: Option<i32>,
    },
    Money,
    Text,
    Bytes,
    Date,
    /// Fraction digits of seconds; `None` if a domain hides them.
    Time {
        precision: Option<u32>,
    },
    TimeWithZone,
    Timestamp {
        precision: Option<u32>,
    },
    TimestampWithZone,
    Interval,
    /// So many bits; `None` if that differs.
    Bits {
        length: Option<usize>,
    },
    Hstore,
    Point,
    Array(Box<Self>),
    /// An enum, a domain, a type of an extension: what the connector writes as text is Postgres's own.
    Other,
}

impl Kind {
    pub(super) fn of(column: &Column) -> Self {
        let precision = || match Self::named(&column.source_type) {
            Self::Timestamp { precision } => precision,
            _ => None,
        };
        match column.column_type {
            ColumnType::Bool => Self::Bool,
            ColumnType::Int2 | ColumnType::Int4 | ColumnType::Int8 => Self::Integer,
            ColumnType::Float4 => Self::Float { single: true },
            ColumnType::Float8 => Self::Float { single: false },
            ColumnType::Numeric { scale, .. } => Self::Numeric { scale: Some(scale.into()) },
            ColumnType::Uuid | ColumnType::Json => Self::Text,
            ColumnType::Bytes => Self::Bytes,
            ColumnType::Date => Self::Date,
            ColumnType::Timestamp { zoned: false } => Self::Timestamp { precision: precision() },
            ColumnType::Timestamp { zoned: true } => Self::TimestampWithZone,
            ColumnType::Text | ColumnType::Hashed { .. } => Self::named(&column.source_type),
        }
    }

    /// `name` as `format_type` gives it.
    fn named(name: &str) -> Self {
        if let Some(element) = name.strip_suffix("[]") {
            return Self::Array(Box::new(Self::named(element)));
        }
        let (plain, arguments) = match name.split_once('(').and_then(|(a, b)| Some((a, b.split_once(')')?))) {
            Some((before, (arguments, after))) => (format!("{before}{after}"), Some(arguments)),
            None => (name.to_owned(), None),
        };
        let precision = Some(arguments.and_then(|text| text.parse().ok()).unwrap_or(6));
        let scale = || arguments.map(|text| text.split_once(',').map_or("0", |(_, scale)| scale));
        let extension = plain.rsplit_once('.').map_or(plain.as_str(), |(_, name)| name);
        match plain.as_str() {
            "boolean" => Self::Bool,
            "smallint" | "integer" | "bigint" | "oid" => Self::Integer,
            "real" => Self::Float { single: true },
            "double precision" => Self::Float { single: false },
            "numeric" => Self::Numeric { scale: scale().and_then(|scale| scale.parse().ok()) },
            "money" => Self::Money,
            "text" | "character varying" | "character" | "uuid" | "json" | "jsonb" => Self::Text,
            "bytea" => Self::Bytes,
            "date" => Self::Date,
            "time without time zone" => Self::Time { precision },
            "time with time zone" => Self::TimeWithZone,
            "timestamp without time zone" => Self::Timestamp { precision },
            "timestamp with time zone" => Self::TimestampWithZone,
            "bit" => Self::Bits { length: arguments.map_or(Some(1), |text| text.parse().ok()) },
            "bit varying" => Self::Bits { length: None },
            "point" => Self::Point,
            name if name.starts_with("interval") => Self::Interval,
            _ if extension == "hstore" => Self::Hstore,
            _ => Self::Other,
        }
    }
}
