//! The command from end to end, as its users run it, on a real Postgres.

mod capture;
mod chaos;
mod command;
mod demo;
mod failpoints;
mod keyless;
mod kills;
mod letters;
mod live_store;
mod maintenance;
mod owners;
mod partitions;
mod proxy;
mod readers;
mod reconcile;
mod s3;
mod schema;
mod serving;
mod slots;
mod stand;
mod status;
mod surroundings;
mod topics;
mod transactions;
mod types;
mod watermarks;
