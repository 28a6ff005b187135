//! The topics of behaviour events and of what is computed, and who writes them.

mod backlog;
mod client;
mod latest;
mod log;
pub mod names;
mod options;
mod output;
mod reader;
mod session;
mod validator;

pub use latest::{LatestOptions, LatestTopic};
pub use log::RawLog;
pub use options::Topics;
pub use reader::{Limits, TopicMessage, TopicReader};
pub use validator::{Tally, Validator};
