//! Churn risk: the probability that a customer places no kept order in the next H days.
//!
//! A [`Window`] is one labelled look into the past: every customer's activity as known at `t0`, and whether no
//! order followed in the horizon. [`train()`] uses only windows whose horizon has ended, [`evaluate()`] tests on a
//! later window than it trains on. Where the activity comes from is the caller's business: any numeric columns do.
//!
//! Nothing here is random or depends on the order of rows or on threads: the same windows give the same bytes.

mod error;
mod evaluate;
mod format;
mod logistic;
mod metrics;
mod model;
mod table;
mod window;

pub use error::{Error, Result};
pub use evaluate::{Evaluation, Rows, Scores, Windows, evaluate};
pub use format::FORMAT;
pub use metrics::{Metrics, ReliabilityBin};
pub use model::{Backtest, Direction, Feature, Model, Params, Reason, Training, train};
pub use table::Table;
pub use window::{Window, training_times, windows};
