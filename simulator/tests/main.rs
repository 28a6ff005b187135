//! The shop on a private Postgres, as its users call it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod import;
mod replay;
mod run;
mod seed;
mod server;
mod wheel;
