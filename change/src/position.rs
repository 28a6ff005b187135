//! Where a change stands: log sequence numbers and the order of changes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A Postgres log sequence number: a byte position in the write-ahead log, written `X/Y` in hexadecimal halves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The LSN as Delta and Arrow hold it. Postgres positions stay far below 2^63.
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// The LSN of a stored value; negative values, which no writer stores, become zero.
    pub fn from_i64(value: i64) -> Self {
        Self(u64::try_from(value).unwrap_or(0))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text is not of the form `X/Y` with two hexadecimal halves of at most 32 bits.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no log sequence number: expected two hexadecimal halves, as in 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let halves = text.split_once('/').and_then(|(high, low)| {
            Some((u32::from_str_radix(high, 16).ok()?, u32::from_str_radix(low, 16).ok()?))
        });
        let (high, low) = halves.ok_or_else(|| ParseLsnError(text.to_owned()))?;
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

/// The place of a change in the order of commits; compared left to right.
///
/// A row's own LSN is no order: Postgres logs an insert before it checks unique indexes, so an insert can lie in the
/// log before the delete that made room for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Generation of the table's copy; positions of two sources are never compared, a new source is a new epoch.
    pub epoch: i64,
    /// Final LSN of the transaction, as its BEGIN announces it. Copied rows carry the snapshot's LSN.
    pub commit: i64,
    /// Ordinal of the change in its transaction, from 1. Copied rows lie before every streamed one: 0 or less.
    pub order: i64,
}
