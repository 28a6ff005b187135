//! `lakeward load`: behaviour events, by whatever way they come, into the lake.

pub(super) mod files;
#[cfg(feature = "kafka")]
mod topics;

use anyhow::Result;
use arrow::datatypes::SchemaRef;
use lakeward_change::TableId;
use lakeward_events::{FIELDS, topic_schema};
use lakeward_lakehouse::{Lake, LakeError, LoadedRows, LoadedTable, Period, SourceRef};

use crate::{config::Config, exit::Outcome};

/// The lake's name for behaviour events, and for their tables.
pub(super) const SOURCE: &str = "events";
pub(super) const SCHEMA: &str = "tracking";
/// Bronze's tables of files, and of changes of the shop's own table.
pub(super) const FILES: &str = "files";
pub(super) const CHANGES: &str = "changes";
/// Bronze's table of checked events; and what invalid ones, which are in none, are called.
#[cfg(feature = "kafka")]
pub(super) const TOPIC: &str = "topic";
#[cfg(feature = "kafka")]
pub(super) const INVALID: &str = "invalid";

#[derive(clap::Subcommand)]
pub enum Arguments {
    /// Behaviour events: CSV files in the columns of the public REES46 data
    Events(files::Events),
    /// Behaviour events as they come: Kafka's topics of checked ones, and of changes of the shop's table
    #[cfg(feature = "kafka")]
    Topics(topics::Arguments),
}

pub async fn run(arguments: Arguments, config: Config, json: bool) -> Result<Outcome> {
    match arguments {
        Arguments::Events(arguments) => files::run(arguments, config, json).await,
        #[cfg(feature = "kafka")]
        Arguments::Topics(arguments) => topics::run(arguments, config, json).await,
    }
}

/// A topic's table, to be looked into or mended: what comes is taken in by whoever follows the topic.
pub(super) async fn events_table(lake: &Lake, config: &Config) -> Result<LoadedTable, LakeError> {
    let rows = topic_rows(CHANGES, config.events.partition);
    let source = SourceRef { name: SOURCE.to_owned(), system_id: String::new() };
    LoadedTable::open(lake, &source, rows).await
}

pub(super) fn topic_rows(table: &str, period: Period) -> LoadedRows {
    loaded_rows(table, topic_schema(), period, Some("_partition"), "_offset")
}

/// What there is of each event: `source` is how bronze's table is called, `partition` and `number` the columns that tell
/// rows of it apart.
fn loaded_rows(
    source: &str,
    schema: SchemaRef,
    period: Period,
    partition: Option<&'static str>,
    number: &'static str,
) -> LoadedRows {
    LoadedRows {
        bronze: TableId::new(SCHEMA, source),
        silver: TableId::new(SCHEMA, "events"),
        schema,
        columns: FIELDS.len() + 1,
        // Equal events have equal times, and files are skipped by those.
        key: &["event_time", "event_id"],
        period,
        partition,
        number,
    }
}
