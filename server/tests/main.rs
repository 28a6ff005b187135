//! The server as its clients see it, over the real live store and real small models.

mod app;
mod document;
mod endpoints;
mod live;
mod models;
mod operations;
mod problems;
mod shop;
