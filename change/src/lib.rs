//! The vocabulary of change data capture: what changed, in which order, and what remains of it.
//!
//! Plain values and pure functions over Arrow arrays; nothing here does I/O. A [`ChangeBatch`] is columnar from the
//! decoder on. Order is commit order, carried by [`Position`].

mod batch;
mod checksum;
mod coalesce;
mod count;
mod evolution;
mod fold;
mod letter;
mod naming;
mod position;
mod raw;
mod schema;

pub use batch::{ChangeBatch, Op, all_but};
pub use checksum::{BUCKETS, BucketSum, entry_values};
pub use coalesce::coalesce;
pub use count::{Counted, count};
pub use evolution::{Evolution, evolution};
pub use fold::{FoldError, Folded, Segment, after, fold, halves, split_at_truncates};
pub use letter::{CopiedRows, DeadLetter};
pub use position::{Lsn, Position};
pub use raw::{RAW, RawBuilder, raw_entries, raw_field, raw_of, raw_or_null, raw_text, with_raw};
pub use schema::{Column, ColumnType, LEAF, Leaf, Origin, StopCause, StoppedTable, TableId, TableSchema};
