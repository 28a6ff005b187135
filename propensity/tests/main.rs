#![allow(clippy::unwrap_used)]

mod evaluation;
mod metrics;
mod model;
mod shop;
mod tables;
