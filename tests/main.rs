//! The command from end to end, as its users run it, on a real Postgres.

mod capture;
mod chaos;
mod command;
mod demo;
mod failpoints;
mod kills;
mod maintenance;
mod owners;
mod readers;
mod reconcile;
mod schema;
mod serving;
mod slots;
mod stand;
mod status;
mod types;
