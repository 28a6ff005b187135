//! Behaviour events and the contracts that they are held to.
//!
//! A [`Contract`] is compiled once from a file in the Open Data Contract Standard and then decides about messages, purely.
//! With the feature `kafka`, [`Validator`] moves messages from one topic into two others by that decision, exactly once,
//! and [`RawLog`] takes events into the first.

mod contract;
mod error;
mod file;
#[cfg(feature = "kafka")]
mod kafka;
mod split;

pub use contract::{Contract, Reason};
pub use error::{ContractError, EventsError};
pub use file::{Change, ContractFile};
#[cfg(feature = "kafka")]
pub use kafka::{RawLog, Tally, Topics, Validator, names};
pub use split::{NoEvents, events_of, key_of};
