//! Against real servers: every test starts its own PostgreSQL and stops it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod control;
mod embedded;
mod fetch;
mod holders;
mod tls;

use lakeward_postgres::{EmbeddedOptions, EmbeddedPostgres};
use tempfile::TempDir;

/// A server without fsync in a folder of its own. The folder must outlive it.
async fn server() -> (TempDir, EmbeddedPostgres) {
    let folder = tempfile::tempdir().unwrap();
    let server = EmbeddedPostgres::start(options(&folder)).await.unwrap();
    (folder, server)
}

fn options(folder: &TempDir) -> EmbeddedOptions {
    EmbeddedOptions { fsync: false, ..EmbeddedOptions::new(folder.path()) }
}

/// The one text of a one-row query.
async fn text(client: &tokio_postgres::Client, query: &str) -> String {
    client.query_one(query, &[]).await.unwrap().get(0)
}
