//! The `lakeward` command.

mod cli;
mod commands;
mod config;
mod demo;
mod events;
mod exit;
mod files;
mod live;
mod models;
mod output;
mod session;
mod streams;
mod time;

use std::process::ExitCode;

use clap::Parser;
use tikv_jemallocator::Jemalloc;

/// Gives memory back that the C library's would keep in pieces: a sixth less of it for a lake that is written to.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    // What still talks to Kafka at the end must not find OpenSSL taken down under it.
    #[cfg(feature = "kafka")]
    openssl_sys::init();
    let cli = cli::Cli::parse();
    output::start_logging(cli.global.verbose);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&error.into(), cli.global.json),
    };
    let json = cli.global.json;
    if let Ok(spec) = std::env::var("FAILPOINTS")
        && let Err(error) = lakeward_faults::arm(&spec)
    {
        return exit::report(&error.into(), json);
    }
    let ended = runtime.block_on(commands::run(cli));
    // What still runs in the background must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match ended {
        Ok(outcome) => outcome.into(),
        Err(error) => exit::report(&error, json),
    }
}
