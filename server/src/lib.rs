//! The HTTP server: recommendations, churn risk, customers and revenue from the live store and the models in use, and
//! the page that shows them.
//!
//! Everything a request needs is in memory, but for features of the online store in Redis, without which it goes on:
//! [`AppState`] holds the store and a [`ModelSlot`] for each kind of model.
//! [`watch`] keeps a slot at the registry's champion. Errors are [`Problem`]s, without exception.

// What utoipa generates for `params(…)` trips the lint.
#[allow(unused_qualifications)]
mod api;
mod catalogue;
mod churn;
mod clock;
mod events;
mod extract;
mod features;
mod health;
mod lists;
mod middleware;
mod page;
mod problem;
mod serve;
mod slot;
mod state;
mod telemetry;
mod value;
mod watcher;

pub use clock::Clock;
pub use events::{EventDoor, EventLog, KeyedEvent, NotTaken};
pub use problem::{FieldProblem, Problem};
pub use serve::{Limits, ServeError, openapi, router, serve, serve_metrics};
pub use slot::{Availability, ModelSlot, Served};
pub use state::AppState;
pub use telemetry::{MetricsError, install_metrics};
pub use watcher::{Champion, watch};
