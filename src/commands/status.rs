//! `lakeward status`

#[cfg(feature = "kafka")]
mod topics;

use anyhow::Result;
use lakeward_pipeline::{Status, status};
use serde::Serialize;

use crate::{
    config::Config,
    exit::Outcome,
    output::{mib, table},
    session::{ControlSession, Places, lake, pipeline_options},
};

/// What is durable, what waits, how much log the server keeps for us, and what to do where something is stuck. Where a
/// Kafka is configured for behaviour events, also how many messages wait in their topics.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    places: Places,
}

pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    arguments.places.apply(&mut config);
    let options = pipeline_options(&config)?;
    let lake = lake(&config)?;
    let session = ControlSession::open(&config, &lake).await?;
    let found = status(&lake, &session.control, &options).await;
    session.close().await?;
    let found = found?;
    let events = topics::waiting(&config, &lake).await?;
    if json {
        let mut shown = serde_json::to_value(&found)?;
        shown["events"] = serde_json::to_value(events)?;
        println!("{shown}");
        return Ok(Outcome::Done);
    }
    print_status(&found);
    if let Some(events) = events {
        print_waiting(&events);
    }
    Ok(Outcome::Done)
}

fn print_waiting(events: &[Waiting]) {
    let messages = |waiting: &Waiting| {
        let more = if waiting.at_least { " or more" } else { "" };
        format!("{}{more}", waiting.messages)
    };
    let rows =
        events.iter().map(|waiting| [waiting.topic.clone(), messages(waiting), waiting.taken_by.to_owned()]);
    println!("{}", table(["topic", "messages that wait", "taken by lakeward …"], rows));
}

/// Messages of a topic that have not gone on.
#[derive(Serialize)]
struct Waiting {
    topic: String,
    /// The command that takes them.
    taken_by: &'static str,
    messages: u64,
    /// There may be more: that many were counted.
    at_least: bool,
}

/// There is no Kafka in this build.
#[cfg(not(feature = "kafka"))]
mod topics {
    use std::future::{Ready, ready};

    use super::{Config, Result, Waiting};

    pub(super) fn waiting(_: &Config, _: &lakeward_lakehouse::Lake) -> Ready<Result<Option<Vec<Waiting>>>> {
        ready(Ok(None))
    }
}

fn print_status(status: &Status) {
    let durable = status.durable.as_deref().unwrap_or("nothing");
    println!(
        "{} (slot {}): the server is at {}, durable before {durable}",
        status.source, status.slot, status.server
    );
    if let Some(bytes) = status.behind_bytes {
        println!("  behind by {} of the server's log", mib(bytes));
    }
    if let Some(wal) = &status.wal {
        let limit =
            wal.limit_bytes.map_or("without limit".to_owned(), |bytes| format!("at most {}", mib(bytes)));
        println!("  the server keeps {} of its log for the slot ({limit})", mib(wal.kept_bytes));
    }
    match &status.ingester {
        Some(ingester) => println!(
            "  process {} has read everything before {}; {} of {} in memory",
            ingester.pid,
            ingester.read,
            mib(ingester.buffered_bytes as u64),
            mib(ingester.memory_bytes as u64)
        ),
        None => println!("  no ingester is running"),
    }
    let rows = status.tables.iter().map(|row| {
        [
            row.table.to_string(),
            if row.bronze_only.is_some() { "none".to_owned() } else { row.silver_version.to_string() },
            row.bronze_version.to_string(),
            row.rows_behind.to_string(),
            format!("{:.1} s", row.seconds_behind),
            row.dead_letters.to_string(),
        ]
    });
    println!("{}", table(["table", "silver", "bronze", "rows not durable", "oldest", "dead letters"], rows));
    for finding in &status.findings {
        println!("! {finding}");
    }
}
