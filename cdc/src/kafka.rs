//! Debezium's topics as a source of changes.
//!
//! A connector spreads a database's log over topics and their partitions, and tells in one more topic where
//! transactions end and how many events of each table they have. From that the log is put together again
//! ([`reassembly`]): changes come in commit order, at positions that compare with snapshots and cuts as those of the
//! log itself do, so all that follows is the same for both sources.

mod client;
mod interruption;
mod joined;
mod options;
mod queue;
mod reader;
mod reassembly;
mod registry;
mod stream;
mod topics;

pub use options::KafkaOptions;
pub(crate) use registry::Registry;
pub(crate) use topics::{Followed, Topics};
