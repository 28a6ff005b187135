//! `lakeward table list|describe|resync|optimize|vacuum`

use std::time::Duration;

use anyhow::{Context, Result};
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
    /// One table's columns
    Describe {
        #[command(flatten)]
        place: LakePlace,
        /// The table's name: schema.table
        name: String,
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

#[derive(Serialize)]
struct Listed<'a> {
    name: String,
    source: &'a str,
    key: &'a [String],
    silver_path: &'a str,
    silver_version: i64,
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
                        row.silver_path.to_owned(),
                        row.silver_version.to_string(),
                        row.bronze_path.to_owned(),
                        row.lsn,
                    ]
                });
                println!(
                    "{}",
                    table(["table", "key", "silver", "version", "bronze", "everything before"], rows)
                );
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
        Arguments::Describe { place, name } => {
            place.apply(&mut config);
            let lake = lake(&config)?;
            let watermark = newest_watermark(&config, &lake).await?;
            let (id, entry) =
                watermark.tables.iter().find(|(id, _)| id.to_string() == name).with_context(|| {
                    format!("{name} is not captured; `lakeward table list` shows what is")
                })?;
            let provider = lake.read(&entry.silver_path, Some(entry.silver_version)).await?;
            let schema = provider.schema();
            let definition = lake.definition(&entry.silver_path).await?;
            let source_name = |name: &str| {
                let definition = definition.as_ref()?;
                let column = definition.columns.iter().position(|column| column.name == name)?;
                Some(definition.source_name(column).to_owned())
            };
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
                println!(
                    "{}",
                    serde_json::json!({ "table": listed(&watermark, id.to_string(), entry), "columns": columns })
                );
            } else {
                println!("{id}  key ({})  {}", entry.key.join(", "), entry.silver_path);
                let rows = schema.fields().iter().map(|field| {
                    let source_name = source_name(field.name()).unwrap_or_default();
                    [field.name().clone(), field.data_type().to_string(), source_name]
                });
                println!("{}", table(["column", "type", "in the source"], rows));
            }
        }
        Arguments::Optimize(asked) => maintained(asked, Chore::Optimize, config, json).await?,
        Arguments::Vacuum(asked) => maintained(asked, Chore::Vacuum, config, json).await?,
    }
    Ok(Outcome::Done)
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
        bronze_path: &entry.bronze_path,
        bronze_version: entry.bronze_version,
        epoch: entry.epoch,
        lsn: watermark.lsn.to_string(),
    }
}
