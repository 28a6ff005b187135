//! Recommendations from purchases.
//!
//! Four scorers: popularity, personal frequency, implicit ALS and their blend, whose weights are chosen on
//! baskets held out of the training data. Where people buy the same again, frequency and recency lead; where
//! they do not, ALS does. [`train()`] makes a [`Model`], which answers [`Model::recommend`] for a history given
//! with the question; [`evaluate()`] measures on anyone's data.
//!
//! The crate is pure: no I/O, no clock. Heavy work runs on rayon's current pool, and its result does not
//! depend on the number of threads.

mod als;
mod blend;
mod catalogue;
mod columns;
mod error;
mod evaluate;
mod format;
mod hold_out;
mod ids;
mod interactions;
mod measure;
mod metrics;
mod model;
mod options;
mod reasons;
mod scorers;
mod top_k;
mod train;

pub use error::{RecommenderError, Result};
pub use evaluate::{Counts, EvaluateOptions, EvaluationReport, evaluate};
pub use interactions::Interactions;
pub use metrics::Metrics;
pub use model::{HistoryItem, Model, ModelInfo, Recommendation, Request};
pub use options::{RepeatPolicy, TrainOptions};
pub use reasons::Reason;
pub use scorers::Scorer;
pub use train::train;
