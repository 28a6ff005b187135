//! Everything Lakeward does with Postgres apart from reading its changes: a private server that the program starts by
//! itself, connections with TLS, and the control database.
//!
//! [`EmbeddedPostgres`] is a PostgreSQL 17 of one's own, shared by all processes that name the same folder and gone
//! when the last of them is. [`connect()`] opens a connection to any Postgres as the URL's `sslmode` says. [`Control`]
//! is the control database: its migrations, who owns a source, and what processes ask of each other.

mod account;
mod binaries;
mod cluster;
mod connection;
mod control;
mod cut;
mod embedded;
mod error;
mod guard;
mod ingester;
mod lease;
mod lock;
mod migration;
mod private_server;
mod table_request;
mod tls;

pub use connection::{Endpoint, connect, mask};
pub use control::Control;
pub use cut::{CutRequest, CutState};
pub use embedded::{EmbeddedOptions, EmbeddedPostgres};
pub use error::{Error, Result, is_retryable, is_retryable_code};
pub use lease::{LEASE, Lease};
pub use private_server::private_server;
pub use table_request::TableRequest;
pub use tls::{Roots, Verification};
