//! Data contracts, after the Open Data Contract Standard (ODCS) 3.1.
//!
//! A contract describes the messages of one topic, as JSON objects: its schema's properties, their logical types and
//! options, and quality rules that one message can be judged by. It is compiled once; what it asks for and cannot be
//! checked here is an error then.

mod check;
mod document;
mod keys;
mod options;
mod property;
mod quality;
mod range;
mod time_format;

use std::{sync::Arc, time::Duration};

use serde::Serialize;

pub(crate) use self::check::Columns;
use self::property::Property;
use crate::ContractError;

/// A contract, ready to check messages.
#[derive(Debug)]
pub struct Contract {
    id: String,
    version: String,
    latency: Option<Duration>,
    message: Property,
}

/// Why a message does not conform: which rule which field breaks. No value of the message is ever told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Reason {
    /// The field's path, `after.items[].price`; empty for the message as a whole.
    pub field: Arc<str>,
    /// The standard's own word (`required`, `logicalType`, `maximum`, `invalidValues`, …), or `empty`, `utf8`, `json` and
    /// `duplicateField` for what is no message that could be judged.
    pub rule: &'static str,
}

/// A reason in words; without a field it is the message's.
pub fn broken(field: &str, rule: &str) -> String {
    let of = if field.is_empty() { "the message" } else { field };
    format!("{of} breaks the rule {rule}")
}

impl Contract {
    /// Compiles a contract.
    ///
    /// # Errors
    /// Everything in the text that is not the standard's, or that one message cannot be judged by.
    pub fn parse(yaml: &str) -> Result<Self, ContractError> {
        document::parse(yaml)
    }

    /// The contract's `id`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The contract's `version`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Which contract it is, as `id:version`.
    pub fn name(&self) -> String {
        format!("{}:{}", self.id, self.version)
    }

    /// How long after a message it is promised to be of use, if the contract says (`slaProperties`, `latency`).
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// Checks a message: the same bytes and contract always have the same outcome.
    ///
    /// # Errors
    /// What the message breaks, each field and rule once, in the message's order; what is missing comes last.
    pub fn check(&self, message: &[u8]) -> Result<(), Vec<Reason>> {
        check::check(&self.message, message)
    }

    /// Which properties the columns of a table of texts are; `given` is made for each row, and conforms.
    ///
    /// # Errors
    /// A property that is required and not among them, by its path.
    pub(crate) fn columns(&self, names: &[&str], given: &str) -> Result<Columns, Arc<str>> {
        Columns::new(&self.message, names, given)
    }

    /// The text of a time, by the path of its field, in microseconds since 1970-01-01 UTC; `None` if it is not in the format
    /// that the contract has for it.
    pub(crate) fn micros(&self, path: &[&str], text: &str) -> Option<i64> {
        check::micros(&self.message, path, text)
    }

    /// Checks a row of texts, as [`Self::check`] does an object of values; `None` is null.
    pub(crate) fn check_texts(&self, columns: &Columns, values: &[Option<&str>]) -> Vec<Reason> {
        check::check_texts(&self.message, columns, values)
    }
}
