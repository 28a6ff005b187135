//! What a connector is told about how to write values, as far as its events do not show it.

use serde::{Deserialize, Serialize};

/// A connector's settings. What is `None` is not known: events without a schema that depend on it are not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modes {
    pub decimal: Option<DecimalMode>,
    pub time: Option<TimeMode>,
    pub binary: Option<BinaryMode>,
    /// `unavailable.value.placeholder`: stands for a large value that did not change.
    pub unavailable: String,
}

impl Default for Modes {
    /// Nothing is known but the placeholder that every connector has unless it is told another one.
    fn default() -> Self {
        Self {
            decimal: None,
            time: None,
            binary: None,
            unavailable: "__debezium_unavailable_value".to_owned(),
        }
    }
}

/// `decimal.handling.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecimalMode {
    Precise,
    String,
    Double,
}

/// `time.precision.mode`. `structured` is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeMode {
    Adaptive,
    #[serde(rename = "adaptive_time_microseconds")]
    AdaptiveTimeMicroseconds,
    Connect,
    IsoString,
    Microseconds,
    Nanoseconds,
}

/// `binary.handling.mode`. JSON has no bytes, so `bytes` and `base64` are the same there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BinaryMode {
    Bytes,
    Base64,
    Base64UrlSafe,
    Hex,
}

#[cfg(any(test, fuzzing))]
impl DecimalMode {
    pub(crate) const ALL: [Self; 3] = [Self::Precise, Self::String, Self::Double];
}

#[cfg(any(test, fuzzing))]
impl TimeMode {
    pub(crate) const ALL: [Self; 6] = [
        Self::Adaptive,
        Self::AdaptiveTimeMicroseconds,
        Self::Connect,
        Self::IsoString,
        Self::Microseconds,
        Self::Nanoseconds,
    ];
}

#[cfg(any(test, fuzzing))]
impl BinaryMode {
    pub(crate) const ALL: [Self; 4] = [Self::Bytes, Self::Base64, Self::Base64UrlSafe, Self::Hex];
}
