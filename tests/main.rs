//! The command from end to end, as its users run it, on a real Postgres.

mod capture;
mod command;
mod demo;
mod kills;
mod maintenance;
mod readers;
mod serving;
mod slots;
mod stand;
mod status;
