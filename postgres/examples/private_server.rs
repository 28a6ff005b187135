//! A private PostgreSQL in a folder, for scripts: prints its URL and runs until its input ends.
//!
//! `cargo run --workspace --example private_server -- FOLDER`

use std::io::Read;

use lakeward_postgres::{EmbeddedOptions, EmbeddedPostgres};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).ok_or("which folder? Give it as the argument")?;
    let server = EmbeddedPostgres::start(EmbeddedOptions::new(folder)).await?;
    println!("{}", server.url("postgres"));
    let input = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    input.await??;
    server.stop().await?;
    Ok(())
}
