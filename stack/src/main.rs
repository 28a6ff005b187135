//! `make stack` and `make stack-down`.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use lakeward_stack::{ACCESS_KEY, Address, BUCKET, Ports, SECRET_KEY, Stack};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::signal::unix::{SignalKind, signal};

/// Postgres, Kafka, Kafka Connect with Debezium, MinIO and Redis, started natively: no Docker, no root.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the services keep data and logs
    #[arg(long, default_value = ".data/stack", env = "LAKEWARD_STACK")]
    folder: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start all of them, say where they are, and keep them until interrupted
    Up {
        /// Take any free ports instead of the usual ones
        #[arg(long)]
        free_ports: bool,
        /// Start a schema registry, too, for connectors that write Avro
        #[arg(long)]
        registry: bool,
    },
    /// Stop those that another `up` keeps, and wait until they are gone
    Down,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { folder, command } = Arguments::parse();
    match command {
        Command::Up { free_ports, registry } => {
            let ports = if free_ports { Ports::free()? } else { Ports::USUAL };
            up(folder, if registry { ports.with_registry()? } else { ports }).await
        }
        Command::Down => down(folder).await,
    }
}

async fn up(folder: PathBuf, ports: Ports) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stopped = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::pin!(stopped);
    let began = Instant::now();
    let stack = tokio::select! {
        stack = Stack::start(&folder, ports, &|doing| eprintln!("{doing}")) => stack?,
        // Their guards end those that have been started.
        () = &mut stopped => bail!("stopped before all services were ready"),
    };
    let Ports { kafka, connect, minio, redis, registry, .. } = stack.ports;
    let postgres = stack.postgres.url(lakeward_stack::DATABASE);
    println!(
        "Ready after {:.1} s; data and logs are in {}.",
        began.elapsed().as_secs_f64(),
        folder.display()
    );
    println!("  Postgres  {postgres}");
    println!("  Kafka     127.0.0.1:{kafka}");
    println!("  Connect   http://127.0.0.1:{connect}");
    println!("  MinIO     http://127.0.0.1:{minio}, bucket {BUCKET}, keys {ACCESS_KEY} and {SECRET_KEY}");
    println!("  Redis     127.0.0.1:{redis}");
    if let Some(registry) = registry {
        println!("  Registry  http://127.0.0.1:{registry}/apis/ccompat/v7");
    }
    println!("Ctrl-C, or `make stack-down` elsewhere, stops them.");
    stopped.await;
    stack.stop().await
}

async fn down(folder: PathBuf) -> Result<()> {
    let Some(address) = Address::find(&folder)? else {
        println!("No stack runs on {}.", folder.display());
        return Ok(());
    };
    match kill(Pid::from_raw(i32::try_from(address.pid)?), Signal::SIGTERM) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => return Err(error).with_context(|| format!("stop process {}", address.pid)),
    }
    while Address::find(&folder)?.is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    println!("Stopped.");
    Ok(())
}
