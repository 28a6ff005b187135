//! What joins a source to the lakehouse: lanes, the memory budget, cuts, flushes and acknowledgement.
//!
//! One task reads the source and routes its changes to lanes, a lane a table. A cut is a mark that goes through every
//! lane at the same point of the stream, between two transactions; once all lanes are durable up to their marks, one
//! row in `ops/watermarks` says so, and only then is the source told that it may forget.

mod budget;
mod cadence;
mod compare;
mod copies;
mod copy;
mod errand;
mod error;
mod event;
mod handle;
mod ingest;
mod lane;
mod lanes;
mod owner;
mod plan;
mod progress;
mod reconcile;
mod repair;
mod replay;
mod request;
mod start;
mod status;
mod streaming;
mod telemetry;
mod upkeep;

pub use compare::{ColumnDifference, Difference, DifferenceKind, TableRepair, TableReport};
pub use error::PipelineError;
pub use event::{Event, Observer};
pub use handle::{Handle, Subscription};
pub use ingest::{Options, Pipeline};
pub use progress::{Progress, TableBehind};
pub use reconcile::{Reconcile, ReconcileReport, reconcile};
pub use replay::{ReplayChoice, ReplayReport, replay};
pub use status::{Status, TableStatus, status};
pub use upkeep::{Chore, Maintained, Maintenance, maintain};
