//! The online store in Redis: what customers' and products' features are now, for every process that serves.
//!
//! Two writers meet here. [`Online::materialize`] brings what the feature tables in Delta hold, as of a watermark;
//! [`Publisher`] brings what the change stream changes of a customer, from the store in memory. Each value carries the
//! position that it stands at, and Redis itself keeps the one that stands later, in one round trip. So it does not matter
//! who writes first, or twice. `docs/online-store.md` has the keys.

mod connection;
mod error;
mod keys;
mod materialize;
mod publish;
mod read;
mod value;
mod write;

pub use connection::{Online, OnlineOptions, TimesToLive};
pub use error::{OnlineError, Result};
pub use keys::Held;
pub use materialize::{MaterializeOptions, Materialized, Sent, ViewReport};
pub use publish::Publisher;
pub use read::{Features, History, Status, ViewValue};
pub use value::{Bought, customer_values};
pub use write::{Row, Stamp};

use lakeward_features::View;

/// The views that come from tables. (Training sets are for training.)
pub const VIEWS: [View; 4] =
    [View::UserRfm, View::UserActivity, View::UserItemInteractions, View::ProductPopularity];

/// The views of a customer.
pub const CUSTOMER_VIEWS: [View; 4] =
    [View::UserRfm, View::UserActivity, View::UserItemInteractions, View::Session];
