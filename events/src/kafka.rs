//! The topics of behaviour events, and who writes them.

mod log;
pub mod names;
mod options;
mod output;
mod session;
mod validator;

pub use log::RawLog;
pub use options::Topics;
pub use validator::{Tally, Validator};
