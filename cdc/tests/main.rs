//! Against a real server: the private Postgres.

mod catalog;
mod doctor;
mod fingerprint;
mod operations;
mod order;
mod server;
mod slot;
mod snapshot;
mod speed;
mod stream;
mod tls;
mod types;
