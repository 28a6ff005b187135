//! One file a subcommand.

pub mod completions;
pub mod config;
pub mod connector;
pub mod dead_letters;
pub mod demo;
pub mod doctor;
pub mod evaluate;
pub mod features;
pub mod ingest;
pub mod load;
pub mod reconcile;
pub mod serve;
pub mod simulate;
pub mod source;
pub mod status;
pub mod table;
pub mod train;
pub mod validate;

use anyhow::Result;

use crate::{
    cli::{Cli, Command},
    config::Config,
    exit::Outcome,
};

pub async fn run(cli: Cli) -> Result<Outcome> {
    let Cli { global, command } = cli;
    let load = || Config::load(global.config.as_deref());
    match command {
        Command::Config(arguments) => config::run(arguments, &global),
        Command::Completions(arguments) => Ok(completions::run(&arguments)),
        Command::Demo(arguments) => Box::pin(demo::run(arguments, load()?, global.json)).await,
        Command::Simulate(arguments) => Box::pin(simulate::run(arguments, load()?, global.json)).await,
        Command::Ingest(arguments) => Box::pin(ingest::run(arguments, load()?, global.json)).await,
        Command::Load(arguments) => Box::pin(load::run(arguments, load()?, global.json)).await,
        Command::Reconcile(arguments) => Box::pin(reconcile::run(arguments, load()?, global.json)).await,
        Command::Status(arguments) => Box::pin(status::run(arguments, load()?, global.json)).await,
        Command::Source(arguments) => Box::pin(source::run(arguments, load()?, global.json)).await,
        Command::Connector(arguments) => Box::pin(connector::run(arguments, load()?, global.json)).await,
        Command::Table(arguments) => Box::pin(table::run(arguments, load()?, global.json)).await,
        Command::DeadLetters(arguments) => Box::pin(dead_letters::run(arguments, load()?, global.json)).await,
        Command::Features(arguments) => Box::pin(features::run(arguments, load()?, global.json)).await,
        Command::Train(arguments) => Box::pin(train::run(arguments, load()?, global.json)).await,
        Command::Evaluate(arguments) => Box::pin(evaluate::run(arguments, load()?, global.json)).await,
        Command::Serve(arguments) => Box::pin(serve::run(arguments, load()?, global.json)).await,
        Command::Validate(arguments) => Box::pin(validate::run(arguments, load()?, global.json)).await,
        Command::Doctor(arguments) => Box::pin(doctor::run(arguments, load()?, global.json)).await,
    }
}
