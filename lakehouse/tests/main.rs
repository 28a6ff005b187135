//! Captured tables against a naive model, on stores that fail.

mod commits;
mod faults;
mod features;
mod fingerprints;
mod histories;
mod source;
mod tables;
mod watermarks;
