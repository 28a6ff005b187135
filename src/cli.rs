//! The command line: one place that says what there is.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    completions, config, connector, dead_letters, demo, doctor, evaluate, features, ingest, load, reconcile,
    serve, simulate, source, status, table, train, validate,
};

/// From a shop's Postgres to a lakehouse that any engine can query, live customer features, recommendations and churn risk.
///
/// Try it: `lakeward demo`. With a Postgres of your own:
/// `lakeward doctor --postgres-url URL`, then `lakeward ingest --postgres-url URL --lake FOLDER`.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 try again later (or: a difference was found), 2 wrong usage, configuration or input."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args, Clone)]
pub struct Global {
    /// Configuration file [default: lakeward.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE", env = "LAKEWARD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print results as JSON, for machines
    #[arg(long, global = true)]
    pub json: bool,
    /// Log more: -v for what happens, -vv for details
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Subcommand)]
pub enum Command {
    /// Show everything at work on a real grocery shop's year: capture, features, models, live orders, a page to look at
    Demo(demo::Arguments),
    /// A shop to try things on: load history, import real orders, place live ones
    #[command(subcommand)]
    Simulate(simulate::Arguments),
    /// Capture a Postgres into the lake: copy it once, then follow its write-ahead log
    Ingest(ingest::Arguments),
    /// Load files into the lake
    #[command(subcommand)]
    Load(load::Arguments),
    /// Prove that the lake equals the source at one exact point, also while both move
    Reconcile(reconcile::Arguments),
    /// How far capture is, what waits, what is stuck and what to do
    Status(status::Arguments),
    /// What Lakeward left in a source
    #[command(subcommand)]
    Source(source::Arguments),
    /// Debezium's connectors in Kafka Connect
    #[command(subcommand)]
    Connector(connector::Arguments),
    /// Check behaviour events against their contract, and sort them into the topic of valid ones and that of invalid ones
    Validate(validate::Arguments),
    /// The captured tables
    #[command(subcommand)]
    Table(table::Arguments),
    /// Rows that could not be taken in: why, and putting them in after all
    #[command(subcommand)]
    DeadLetters(dead_letters::Arguments),
    /// Feature tables
    #[command(subcommand)]
    Features(features::Arguments),
    /// Train a model on the lake and put it in use
    #[command(subcommand)]
    Train(train::Arguments),
    /// Measure a model's quality, on the lake or on files of anyone's
    #[command(subcommand)]
    Evaluate(evaluate::Arguments),
    /// Serve the API and the page
    Serve(serve::Arguments),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(config::Arguments),
    /// Say what a Postgres lacks for capture, with the SQL that mends it
    Doctor(doctor::Arguments),
    /// Shell completions
    Completions(completions::Arguments),
}
