//! Behaviour events and the contracts that they are held to.
//!
//! A [`Contract`] is compiled once from a file in the Open Data Contract Standard and then decides about messages, purely.
//! With the feature `kafka`, [`Validator`] moves messages from one topic into two others by that decision, exactly once,
//! and [`RawLog`] takes events into the first; [`LatestTopic`] is a compacted topic of whole values. [`Rees46`] reads events of files under the same contract.

mod behaviour;
mod contract;
mod error;
mod file;
#[cfg(feature = "kafka")]
mod kafka;
mod rees46;
mod split;
mod topic_rows;

pub use behaviour::FIELDS;
pub use contract::{Contract, Reason, broken};
pub use error::{ContractError, EventsError};
pub use file::{Change, ContractFile};
#[cfg(feature = "kafka")]
pub use kafka::{
    LatestOptions, LatestTopic, Limits, RawLog, Tally, TopicMessage, TopicReader, Topics, Validator, names,
};
pub use rees46::{Chunk, Rees46, Rees46Error, Rejected, schema};
pub use split::{NoEvents, events_of, key_of};
pub use topic_rows::{Form, Refused, TopicRows, topic_schema};
