//! The online store on a real Redis.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod access;
mod lake;
mod live;
mod order;
#[allow(dead_code, reason = "the rows of another crate's tests")]
#[path = "../../features/tests/rows.rs"]
mod rows;
mod scale;
mod server;
mod times;
