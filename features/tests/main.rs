#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
mod activity;
mod history;
mod interactions;
mod leakage;
mod restart;
mod rows;
mod scale;
mod store;
mod views;
