//! `lakeward validate`

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;

use crate::{config::Config, exit::Outcome};

/// Reads `tracking.raw_user_behavior`. What conforms to the contract goes to `tracking.user_behavior.validated` as it is, the
/// rest to `tracking.user_behavior.invalid` with the reasons in a header: each event once, whatever is killed. A changed
/// contract takes effect without a restart. Stop it with Ctrl-C at any moment. docs/events.md has the rest.
#[derive(clap::Args)]
pub struct Arguments {
    /// Kafka, host:port [default: from the configuration]
    #[arg(long, value_name = "HOSTS")]
    brokers: Option<String>,
    /// The contract, YAML in the Open Data Contract Standard [default: the one that is shipped]
    #[arg(long, value_name = "FILE")]
    contract: Option<PathBuf>,
    /// Stop once all that is in the topic is sorted
    #[arg(long)]
    until_idle: bool,
    /// Where Prometheus finds /metrics [default: from the configuration, nowhere]
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
}

#[cfg(not(feature = "kafka"))]
pub async fn run(_: Arguments, _: Config, _: bool) -> Result<Outcome> {
    anyhow::bail!("this build is without Kafka");
}

#[cfg(feature = "kafka")]
pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    use std::time::Duration;

    use anyhow::Context;
    use lakeward_events::{ContractFile, Validator};

    use crate::{
        events::topics,
        exit::Interrupted,
        session::{serve_metrics, shutdown_token},
    };

    /// What is under way has this long to be committed; what is not then was never done.
    const DRAIN: Duration = Duration::from_secs(5);

    let Arguments { brokers, contract, until_idle, metrics } = arguments;
    config.events.brokers = brokers.or(config.events.brokers);
    config.events.contract = contract.or(config.events.contract);
    let contract = ContractFile::open(config.events.contract.as_deref())?;
    let topics = topics(&config);
    let shutdown = shutdown_token()?;
    serve_metrics(metrics.or(config.events.metrics_address), &shutdown).await?;
    if !json {
        let (id, version) = (contract.contract().id(), contract.contract().version());
        eprintln!("Sorting {} by contract {id} {version}", topics.raw);
    }
    let validator = Validator::new(topics, contract);
    let token = shutdown.clone();
    let mut working = tokio::task::spawn_blocking(move || validator.run(until_idle, &token));
    let drained = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    let tally = tokio::select! {
        ended = &mut working => ended.context("the validator broke")??,
        () = drained => {
            tracing::warn!("Kafka did not answer in time: the transaction under way is not committed, and is done again");
            return Err(Interrupted.into());
        }
    };
    if json {
        println!("{}", serde_json::to_string(&tally)?);
    } else {
        println!("{} events are valid, {} invalid", tally.valid, tally.invalid);
    }
    if until_idle && shutdown.is_cancelled() {
        return Err(Interrupted.into());
    }
    Ok(Outcome::Done)
}
