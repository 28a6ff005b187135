//! How the values of one column are written, as the connector's settings say or the event's own schema.

use super::{
    json::{self, Value},
    kind::Kind,
    modes::{BinaryMode, DecimalMode, Modes, TimeMode},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reading {
    Bool,
    Integer,
    Float {
        single: bool,
    },
    /// As Postgres writes it.
    Text,
    Decimal(Decimal),
    Bytes(Digits),
    /// Days since 1970-01-01.
    Days,
    IsoDate,
    Time(Unit),
    Timestamp(Unit),
    TimeWithZone,
    TimestampWithZone,
    Interval,
    Bits {
        length: Option<usize>,
    },
    Hstore,
    Point,
    Array(Box<Self>),
    /// Text is as Postgres writes it, all else as it comes.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decimal {
    Text,
    /// Two's complement of the unscaled value; without a scale in a structure that tells it.
    Unscaled {
        scale: Option<i32>,
    },
    Double {
        scale: Option<i32>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Digits {
    Base64,
    Base64UrlSafe,
    Hex,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Millis,
    Micros,
    Nanos,
    Iso,
}

const DECIMAL: &str = "its events carry no schemas, and decimal.handling.mode is not stated";
const TIME: &str = "its events carry no schemas, and time.precision.mode is not stated";
const BINARY: &str = "binary.handling.mode is not stated, and its events do not show it";
const HIDDEN: &str = "its type is a domain that hides the precision, on which the way of writing depends: have the \
                      connector send schemas, or set time.precision.mode to microseconds or isostring";
const STRUCTURED: &str = "time.precision.mode structured is not read: set microseconds or isostring";

impl Reading {
    /// What the settings say.
    ///
    /// # Errors
    /// What they do not say.
    pub(super) fn stated(kind: &Kind, modes: &Modes) -> Result<Self, &'static str> {
        let decimal = |scale| {
            Ok::<_, &'static str>(Self::Decimal(match modes.decimal.ok_or(DECIMAL)? {
                DecimalMode::String => Decimal::Text,
                DecimalMode::Precise => Decimal::Unscaled { scale },
                DecimalMode::Double => Decimal::Double { scale },
            }))
        };
        let unit =
            |precision: Option<u32>, adaptive: bool| {
                Ok::<_, &'static str>(match modes.time.ok_or(TIME)? {
                    TimeMode::Connect => Unit::Millis,
                    TimeMode::Microseconds => Unit::Micros,
                    TimeMode::Nanoseconds => Unit::Nanos,
                    TimeMode::IsoString => Unit::Iso,
                    TimeMode::AdaptiveTimeMicroseconds if !adaptive => Unit::Micros,
                    TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds => {
                        if precision.ok_or(HIDDEN)? <= 3 { Unit::Millis } else { Unit::Micros }
                    }
                })
            };
        Ok(match kind {
            Kind::Bool => Self::Bool,
            Kind::Integer => Self::Integer,
            Kind::Float { single } => Self::Float { single: *single },
            Kind::Numeric { scale } => decimal(*scale)?,
            Kind::Money => decimal(Some(2))?,
            Kind::Text => Self::Text,
            Kind::Bytes => Self::Bytes(match modes.binary.ok_or(BINARY)? {
                BinaryMode::Bytes | BinaryMode::Base64 => Digits::Base64,
                BinaryMode::Base64UrlSafe => Digits::Base64UrlSafe,
                BinaryMode::Hex => Digits::Hex,
            }),
            Kind::Date if modes.time.ok_or(TIME)? == TimeMode::IsoString => Self::IsoDate,
            Kind::Date => Self::Days,
            Kind::Time { precision } => Self::Time(unit(*precision, false)?),
            Kind::Timestamp { precision } => Self::Timestamp(unit(*precision, true)?),
            Kind::TimeWithZone => Self::TimeWithZone,
            Kind::TimestampWithZone => Self::TimestampWithZone,
            Kind::Interval => Self::Interval,
            Kind::Bits { length } => Self::Bits { length: *length },
            Kind::Hstore => Self::Hstore,
            Kind::Point => Self::Point,
            Kind::Array(element) => Self::Array(Box::new(Self::stated(element, modes)?)),
            Kind::Other => Self::Other,
        })
    }

    /// What the field's schema in the event says.
    ///
    /// # Errors
    /// It cannot be read, or a stated setting contradicts it.
    pub(super) fn found(kind: &Kind, schema: Value<'_>, modes: &Modes) -> Result<Self, &'static str> {
        let found = Self::described(kind, schema, modes)?;
        let setting = match kind {
            Kind::Numeric { .. } | Kind::Money => modes.decimal.map(|_| "decimal.handling.mode"),
            Kind::Bytes => modes.binary.map(|_| "binary.handling.mode"),
            Kind::Date | Kind::Time { .. } | Kind::Timestamp { .. } => {
                modes.time.map(|_| "time.precision.mode")
            }
            _ => None,
        };
        let Some(setting) = setting else { return Ok(found) };
        match Self::stated(kind, modes) {
            Ok(stated) if !stated.is_like(&found) => Err(match setting {
                "decimal.handling.mode" => {
                    "its events show another decimal.handling.mode than the one stated"
                }
                "binary.handling.mode" => "its events show another binary.handling.mode than the one stated",
                _ => "its events show another time.precision.mode than the one stated",
            }),
            _ => Ok(found),
        }
    }

    fn described(kind: &Kind, schema: Value<'_>, modes: &Modes) -> Result<Self, &'static str> {
        let text = |name| json::field(schema, name).and_then(json::string);
        let name = text("name").unwrap_or_default();
        let semantic = name.rsplit_once('.').map_or(name, |(_, last)| last);
        let (debezium, connect) =
            (name.starts_with("io.debezium."), name.starts_with("org.apache.kafka.connect.data."));
        let scale = || {
            let parameters = json::field(schema, "parameters")?;
            json::string(json::field(parameters, "scale")?)?.parse().ok()
        };
        let is_decimal = matches!(kind, Kind::Numeric { .. } | Kind::Money);
        Ok(match (semantic, text("type").unwrap_or_default()) {
            ("Decimal", _) if connect => Self::Decimal(Decimal::Unscaled { scale: scale() }),
            ("VariableScaleDecimal", _) if debezium => Self::Decimal(Decimal::Unscaled { scale: None }),
            ("Date", _) if debezium || connect => Self::Days,
            ("IsoDate", _) if debezium => Self::IsoDate,
            ("Time", _) if debezium || connect => Self::Time(Unit::Millis),
            ("MicroTime", _) if debezium => Self::Time(Unit::Micros),
            ("NanoTime", _) if debezium => Self::Time(Unit::Nanos),
            ("IsoTime", _) if debezium => Self::Time(Unit::Iso),
            ("Timestamp", _) if debezium || connect => Self::Timestamp(Unit::Millis),
            ("MicroTimestamp", _) if debezium => Self::Timestamp(Unit::Micros),
            ("NanoTimestamp", _) if debezium => Self::Timestamp(Unit::Nanos),
            ("IsoTimestamp", _) if debezium => Self::Timestamp(Unit::Iso),
            ("ZonedTime", _) if debezium => Self::TimeWithZone,
            ("ZonedTimestamp", _) if debezium => Self::TimestampWithZone,
            ("MicroDuration" | "Interval", _) if debezium => Self::Interval,
            ("Bits", _) if debezium => Self::Bits { length: bits(kind) },
            ("Point", _) if debezium => Self::Point,
            (name, _) if debezium && name.starts_with("Structured") => return Err(STRUCTURED),
            (_, "boolean") if matches!(kind, Kind::Bits { .. }) => Self::Bits { length: Some(1) },
            (_, "boolean") => Self::Bool,
            (_, "int8" | "int16" | "int32" | "int64") => Self::Integer,
            (_, "float" | "double") if is_decimal => Self::Decimal(Decimal::Double { scale: digits(kind) }),
            (_, "float") => Self::Float { single: true },
            (_, "double") => Self::Float { single: false },
            (_, "string") if is_decimal => Self::Decimal(Decimal::Text),
            (_, "string") if *kind == Kind::Bytes => match modes.binary.ok_or(BINARY)? {
                BinaryMode::Bytes => {
                    return Err("its events show another binary.handling.mode than the one stated");
                }
                _ => Self::stated(kind, modes)?,
            },
            (_, "string" | "map") if *kind == Kind::Hstore => Self::Hstore,
            (_, "string") => Self::Text,
            (_, "bytes") if *kind == Kind::Bytes => Self::Bytes(Digits::Base64),
            (_, "array") => match (kind, json::field(schema, "items")) {
                (Kind::Array(element), Some(items)) => {
                    Self::Array(Box::new(Self::found(element, items, modes)?))
                }
                _ => Self::Other,
            },
            _ => Self::Other,
        })
    }

    /// Written in the same way, whatever the scale.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Decimal(one), Self::Decimal(other)) => {
                std::mem::discriminant(one) == std::mem::discriminant(other)
            }
            _ => self == other,
        }
    }
}

fn bits(kind: &Kind) -> Option<usize> {
    match kind {
        Kind::Bits { length } => *length,
        _ => None,
    }
}

fn digits(kind: &Kind) -> Option<i32> {
    match kind {
        Kind::Numeric { scale } => *scale,
        _ => Some(2),
    }
}
