//! The server as its clients see it, over the real live store and real small models.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod app;
mod document;
mod endpoints;
mod events;
mod features;
mod live;
mod models;
mod operations;
mod problems;
mod shop;
