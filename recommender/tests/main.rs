//! The crate through its public interface.

mod complete_journey;
mod evaluation;
mod input;
mod models;
mod support;
