//! Debezium's connectors in Kafka Connect: their templates, Connect's REST API, and what each has in the shop's
//! database, a slot and a publication.
//!
//! [`Connectors`] does what `lakeward connector` offers. The publication is made here and not by Debezium, which would
//! publish tables without a key too: the shop's updates of those would then fail.

mod api;
mod connector;
mod diagnosis;
mod error;
mod report;
mod source;
mod template;

pub use connector::Connectors;
pub use error::ConnectError;
pub use report::{Problem, Report, Slot, Task};
pub use template::Template;
