//! Sources of changes: where they come from and how they are read.
//!
//! [`PostgresSource`] reads a Postgres database through its write-ahead log (logical decoding with pgoutput):
//! [`PostgresSource::create_slot`] gives a [`Snapshot`] to copy, and [`PostgresSource::stream`] everything after it,
//! in commit order, as columnar [`Chunk`]s. Nothing is written into the source beyond a slot and a publication.

mod assembler;
mod catalog;
mod chunk;
mod connection;
mod copy;
mod cursor;
mod datetime;
pub mod debezium;
mod definition;
mod doctor;
mod error;
pub mod fingerprint;
#[cfg(fuzzing)]
pub mod fuzz;
mod hash;
mod hex;
#[cfg(feature = "kafka")]
mod kafka;
mod known;
mod leaves;
mod letter;
mod name;
mod pattern;
mod protocol;
mod publication;
mod rule;
mod slot;
mod snapshot;
mod source;
mod stream;
mod table_builder;
mod table_copy;
#[cfg(any(test, fuzzing))]
mod test_messages;
mod types;
mod values;

pub use chunk::{Boundary, ChangeStream, Chunk, Offsets};
pub use doctor::{Finding, Level, doctor};
pub use error::CdcError;
pub use hash::Salt;
#[cfg(feature = "kafka")]
pub use kafka::KafkaOptions;
pub use letter::LetterReader;
pub use protocol::ProtocolError;
pub use rule::{SchemaPolicy, TableRule};
pub use slot::{Claim, SlotState, SlotWal};
pub use snapshot::Snapshot;
pub use source::{HistoryTable, PostgresOptions, PostgresSource, SkippedTable};
pub use values::ValueError;
