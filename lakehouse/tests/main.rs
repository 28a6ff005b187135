//! Captured tables against a naive model, on stores that fail.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod commits;
mod faults;
mod features;
mod fingerprints;
mod gold;
mod histories;
mod letters;
mod loads;
mod maintenance;
mod merges;
mod repair;
mod source;
mod storms;
mod tables;
mod watermarks;
