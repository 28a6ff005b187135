//! Delta tables of the lake: bronze and silver of every captured table, feature tables, watermarks.
//!
//! [`CapturedTable`] is the one writer of a source table's bronze and silver. Every commit carries, in the same atomic
//! commit as its data, Delta transaction identifiers that say how far the source is durable in that table
//! (Delta protocol, "Transaction Identifiers"); after any commit error they are read back and decide.

mod bronze;
mod canonical;
mod captured;
mod columns;
mod commit;
mod compaction;
mod condition;
mod copy;
mod definition;
mod difference;
mod error;
mod features;
mod fingerprint;
mod gold;
mod half;
mod hold;
mod lake;
mod layout;
mod letter_rows;
mod letters;
mod load;
mod maintenance;
mod merge;
mod probe;
mod registry;
mod repair;
mod replay;
mod retention;
mod rewrite;
mod runs;
mod silver;
mod store;
mod table;
pub mod telemetry;
mod tidy;
mod upsert;
mod watermark;

pub use captured::{CapturedTable, SourceRef, TableVersions};
pub use compaction::{Compacted, Compaction};
pub use difference::Difference;
pub use error::LakeError;
pub use features::FeatureRun;
pub use fingerprint::compared;
pub use gold::GoldTable;
pub use hold::Hold;
pub use lake::Lake;
pub use layout::Layer;
pub use letter_rows::{OpenLetters, Replayed, StoredLetter};
pub use load::{LoadedLetters, LoadedRows, LoadedTable, Period, Progress};
pub use registry::{Champion, Draft, Manifest, Registry, RegistryError};
pub use repair::Repaired;
pub use retention::{Retention, Vacuumed};
pub use store::S3Options;
pub use watermark::{Watermark, WatermarkTable};
