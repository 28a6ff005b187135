//! `lakeward table list|describe|resync|optimize|vacuum`

use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, SecondsFormat, Utc};
use lakeward_change::TableId;
use lakeward_lakehouse::{Watermark, WatermarkTable};
use lakeward_pipeline::{Chore, Maintained, maintain};
use lakeward_postgres::Control;
use serde::Serialize;

use crate::{
    config::{Config, table_id},
    exit::Outcome,
    output::{mib, table},
    session::{ControlSession, LakePlace, Places, lake, newest_watermark, pipeline_options},
};

/// A running ingester tells of itself more often.
const ALIVE: Duration = Duration::from_secs(5);

const BRONZE_ONLY: &str = "bronze alone, without its updates and deletes: it has no usable key; add a primary key, or \
     ALTER TABLE … REPLICA IDENTITY FULL";

#[derive(clap::Subcommand)]
pub enum Arguments {
    /// The captured tables: name, path, key, versions and position of the newest watermark
    List {
        #[command(flatten)]
        place: LakePlace,
    },
    /// Copies one table anew while the others go on: after a doubt, or when it has stopped
    ///
    /// A running ingester does it at once; else the next `lakeward ingest` does.
    Resync {
        #[command(flatten)]
        place: LakePlace,
        /// The table's name: schema.table
        name: String,
    },
    /// One table's columns, and its versions at past watermarks: read at those of one watermark, tables fit together
    Describe {
        #[command(flatten)]
        place: LakePlace,
        /// The table's name: schema.table
        name: String,
        /// So many of the newest watermarks; --json gives all that are kept
        #[arg(long, value_name = "N", default_value_t = 10)]
        versions: usize,
    },
    /// Puts a table's small files together, in bronze and silver
    Optimize(Maintain),
    /// Removes what no kept watermark needs: old watermarks, the table's old files and log entries
    Vacuum(Maintain),
}

/// A running ingester does it, between two of its own writes; without one, this process does.
#[derive(clap::Args)]
pub struct Maintain {
    #[command(flatten)]
    places: Places,
    /// The table's name: schema.table
    name: String,
    /// Seconds that a running ingester may take
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    wait: u64,
}

/// The table in one watermark.
#[derive(Serialize)]
struct Version {
    /// Everything that committed before is in these versions.
    lsn: String,
    /// The newest commit in it.
    committed_at: Option<DateTime<Utc>>,
    epoch: i64,
    silver_version: i64,
    bronze_version: i64,
}

#[derive(Serialize)]
struct Listed<'a> {
    name: String,
    source: &'a str,
    key: &'a [String],
    silver_path: &'a str,
    silver_version: i64,
    /// There is no silver: updates and deletes are not captured.
    bronze_only: bool,
    bronze_path: &'a str,
    bronze_version: i64,
    epoch: i64,
    lsn: String,
}

pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    match arguments {
        Arguments::List { place } => {
            place.apply(&mut config);
            let watermark = newest_watermark(&config, &*lake(&config)?).await?;
            let rows: Vec<Listed> = watermark
                .tables
                .iter()
                .map(|(id, entry)| listed(&watermark, id.to_string(), entry))
                .collect();
            if json {
                println!("{}", serde_json::to_string_pretty(&rows)?);
            } else {
                let rows = rows.into_iter().map(|row| {
                    [
                        row.name,
                        row.key.join(", "),
                        if row.bronze_only { "none".to_owned() } else { row.silver_path.to_owned() },
                        if row.bronze_only { String::new() } else { row.silver_version.to_string() },
                        row.bronze_path.to_owned(),
                        row.lsn,
                    ]
                });
                println!(
                    "{}",
                    table(["table", "key", "silver", "version", "bronze", "everything before"], rows)
                );
                for (id, _) in watermark.tables.iter().filter(|(_, entry)| entry.is_history()) {
                    println!("{id}: {BRONZE_ONLY}");
                }
                for table in &watermark.stopped {
                    println!("{} has stopped: {}", table.id, table.reason);
                }
            }
        }
        Arguments::Resync { place, name } => {
            place.apply(&mut config);
            let lake = lake(&config)?;
            let watermark = newest_watermark(&config, &lake).await?;
            let stopped = watermark.stopped.iter().map(|table| &table.id);
            let table = watermark.tables.keys().chain(stopped).find(|id| id.to_string() == name);
            let table = table
                .with_context(|| format!("{name} is not captured; `lakeward table list` shows what is"))?;
            let session = ControlSession::open(&config, &lake).await?;
            let rows = resync(&session.control, &watermark.source, table).await;
            session.close().await?;
            match rows? {
                Some(answer) if json => println!("{answer}"),
                Some(answer) => println!("Copied {name} anew: {} rows", answer["rows"]),
                None if json => println!("{}", serde_json::json!({ "filed": true })),
                None => println!("No ingester is running: the next `lakeward ingest` copies {name} anew"),
            }
        }
        Arguments::Describe { place, name, versions } => {
            place.apply(&mut config);
            describe(&config, &name, versions, json).await?;
        }
        Arguments::Optimize(asked) => maintained(asked, Chore::Optimize, config, json).await?,
        Arguments::Vacuum(asked) => maintained(asked, Chore::Vacuum, config, json).await?,
    }
    Ok(Outcome::Done)
}

async fn describe(config: &Config, name: &str, newest: usize, json: bool) -> Result<()> {
    let lake = lake(config)?;
    let watermark = newest_watermark(config, &lake).await?;
    let (id, entry) = watermark
        .tables
        .iter()
        .find(|(id, _)| id.to_string() == name)
        .with_context(|| format!("{name} is not captured; `lakeward table list` shows what is"))?;
    let (path, version) = if entry.is_history() {
        (&entry.bronze_path, entry.bronze_version)
    } else {
        (&entry.silver_path, entry.silver_version)
    };
    let provider = lake.read(path, Some(version)).await?;
    let schema = provider.schema();
    let definition = lake.definition(path).await?;
    let source_name = |name: &str| {
        let definition = definition.as_ref()?;
        let column = definition.columns.iter().position(|column| column.name == name)?;
        Some(definition.source_name(column).to_owned())
    };
    let versions = versions(&lake.watermarks(&watermark.source).await?, id);
    if json {
        let columns: Vec<_> = schema
            .fields()
            .iter()
            .map(|field| {
                serde_json::json!({
                    "name": field.name(),
                    "type": field.data_type().to_string(),
                    "source_name": source_name(field.name()),
                })
            })
            .collect();
        let table = listed(&watermark, id.to_string(), entry);
        println!("{}", serde_json::json!({ "table": table, "columns": columns, "versions": versions }));
        return Ok(());
    }
    println!("{id}  key ({})  {path}", entry.key.join(", "));
    if entry.is_history() {
        println!("{BRONZE_ONLY}");
    }
    let rows = schema.fields().iter().map(|field| {
        let source_name = source_name(field.name()).unwrap_or_default();
        [field.name().clone(), field.data_type().to_string(), source_name]
    });
    println!("{}", table(["column", "type", "in the source"], rows));
    let rows = versions.iter().take(newest).map(|version| {
        [
            version.lsn.clone(),
            version
                .committed_at
                .map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
                .unwrap_or_default(),
            if entry.is_history() { String::new() } else { version.silver_version.to_string() },
            version.bronze_version.to_string(),
        ]
    });
    println!("{}", table(["everything before", "newest commit", "silver", "bronze"], rows));
    Ok(())
}

/// A table's versions at the watermarks that have it, newest first.
fn versions(watermarks: &[Watermark], id: &TableId) -> Vec<Version> {
    let version = |watermark: &Watermark| {
        let entry = watermark.tables.get(id)?;
        Some(Version {
            lsn: watermark.lsn.to_string(),
            committed_at: watermark.stream_time.and_then(DateTime::from_timestamp_micros),
            epoch: entry.epoch,
            silver_version: entry.silver_version,
            bronze_version: entry.bronze_version,
        })
    };
    watermarks.iter().rev().filter_map(version).collect()
}

/// Asks the ingester for a new copy and waits for its end; `None` if no ingester is there.
async fn resync(control: &Control, source: &str, table: &TableId) -> Result<Option<serde_json::Value>> {
    let id = control.request_table(source, (&table.schema, &table.name), "resync", None).await?;
    loop {
        match control.wait_table_request(id, ALIVE).await {
            Ok(answer) => return Ok(Some(answer)),
            Err(lakeward_postgres::Error::RequestTimeout { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if control.ingester(source).await?.is_none_or(|(_, age)| age > ALIVE) {
            return Ok(None);
        }
    }
}

async fn maintained(asked: Maintain, chore: Chore, mut config: Config, json: bool) -> Result<()> {
    asked.places.apply(&mut config);
    let options = pipeline_options(&config)?;
    let id = table_id(&asked.name)
        .with_context(|| format!("{:?} names no table: write schema.table", asked.name))?;
    let lake = lake(&config)?;
    let session = ControlSession::open(&config, &lake).await?;
    let patience = Duration::from_secs(asked.wait);
    let done = maintain(&lake, &session.control, &options, &id, chore, patience).await;
    session.close().await?;
    let done = done?;
    if json {
        println!("{}", serde_json::to_string(&done)?);
        return Ok(());
    }
    match done {
        Maintained::Optimized(done) if done.files_removed == 0 => println!("{id}: no small files"),
        Maintained::Optimized(done) => println!(
            "{id}: {} files of {} together became {}",
            done.files_removed,
            mib(done.bytes),
            done.files_added
        ),
        Maintained::Vacuumed(done) => {
            println!("{id}: {} old files and {} old log entries removed", done.files, done.log_entries);
        }
    }
    Ok(())
}

fn listed<'a>(watermark: &'a Watermark, name: String, entry: &'a WatermarkTable) -> Listed<'a> {
    Listed {
        name,
        source: &watermark.source,
        key: &entry.key,
        silver_path: &entry.silver_path,
        silver_version: entry.silver_version,
        bronze_only: entry.is_history(),
        bronze_path: &entry.bronze_path,
        bronze_version: entry.bronze_version,
        epoch: entry.epoch,
        lsn: watermark.lsn.to_string(),
    }
}
