//! Contracts and topics as their users see them; the topics on a real Kafka.

mod contracts;
mod files;
mod message;
mod rows;
mod speed;
#[cfg(feature = "kafka")]
mod topics;
