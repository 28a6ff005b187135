//! `lakeward reconcile --events`: whether the lake has each event that the shop stores, by whatever way it came.

use std::{
    collections::HashSet,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use arrow::{
    array::{ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, TimestampMicrosecondArray},
    compute::{concat_batches, filter_record_batch},
    datatypes::{DataType, Field, Schema, TimeUnit},
};
use futures::TryStreamExt;
use lakeward_lakehouse::Lake;
use postgres_protocol::escape::escape_identifier;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use crate::{
    commands::load::{SOURCE, events_table},
    config::Config,
    exit::Outcome,
    session::{postgres_url, shop_names},
};

/// Rows that are looked for at once.
const ROWS: usize = 100_000;
/// From one look at what has not come yet to the next.
const PAUSE: Duration = Duration::from_secs(1);
const NAMED: usize = 10;

#[derive(Debug, Serialize)]
struct Report {
    table: String,
    source_rows: u64,
    /// Rows that the contract refused.
    dead_letters: u64,
    missing: u64,
    /// The first of them, by their identifiers.
    first_missing: Vec<String>,
}

/// Events that were there when this began have `wait` to come.
pub(super) async fn run(config: &Config, lake: &Lake, wait: Duration, json: bool) -> Result<Outcome> {
    let id = shop_names(config).events;
    let client = lakeward_postgres::connect(postgres_url(config)?).await?;
    let (schema, name) = (escape_identifier(&id.schema), escape_identifier(&id.name));
    let events = format!(
        "select event_id::text, (extract(epoch from event_time) * 1000000)::int8 from {schema}.{name}
         where isfinite(event_time)"
    );
    let failed = || format!("{id} cannot be read as a table of events");
    let rows = client.query_raw(&events, Vec::<String>::new()).await.with_context(failed)?;
    let mut silver = events_table(lake, config).await?;
    let (mut missing, mut source_rows) = (Vec::new(), 0);
    let mut chunks = pin!(rows.try_chunks(ROWS));
    while let Some(rows) = chunks.try_next().await.with_context(failed)? {
        source_rows += rows.len() as u64;
        missing.push(silver.absent(batch(&rows).with_context(failed)?).await?);
    }
    let mut missing = concat_batches(&keys(), &missing)?;
    let began = Instant::now();
    let mut letters = HashSet::new();
    while missing.num_rows() > letters.len() && began.elapsed() < wait {
        tokio::time::sleep(PAUSE).await;
        missing = silver.absent(missing).await?;
        letters = refused(lake, &missing).await?;
    }
    let is_lost = |id: Option<&str>| Some(id.is_some_and(|id| !letters.contains(id)));
    let lost: BooleanArray = missing.column(1).as_string::<i32>().iter().map(is_lost).collect();
    let lost = filter_record_batch(&missing, &lost)?;
    let named = lost.column(1).as_string::<i32>().iter().flatten().take(NAMED);
    let report = Report {
        table: id.to_string(),
        source_rows,
        dead_letters: letters.len() as u64,
        missing: lost.num_rows() as u64,
        first_missing: named.map(str::to_owned).collect(),
    };
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report);
    }
    Ok(if report.missing == 0 { Outcome::Done } else { Outcome::Found })
}

fn print(report: &Report) {
    let Report { table, source_rows, dead_letters, missing, first_missing } = report;
    println!("{table}: {source_rows} events in Postgres, {dead_letters} of them dead letters");
    if *missing == 0 {
        println!("Each of the others is in the lake.");
        return;
    }
    println!("{missing} are missing in the lake:");
    first_missing.iter().for_each(|id| println!("  {id}"));
}

fn keys() -> Arc<Schema> {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let fields = [("event_time", time), ("event_id", DataType::Utf8)];
    Arc::new(Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()))
}

fn batch(rows: &[Row]) -> Result<RecordBatch> {
    let ids = rows.iter().map(|row| row.try_get::<_, Option<String>>(0)).collect::<Result<Vec<_>, _>>()?;
    let times = rows.iter().map(|row| row.try_get::<_, Option<i64>>(1)).collect::<Result<Vec<_>, _>>()?;
    let columns: [ArrayRef; 2] = [
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
        Arc::new(StringArray::from(ids)),
    ];
    Ok(RecordBatch::try_new(keys(), columns.to_vec())?)
}

/// Which of these events are open dead letters.
async fn refused(lake: &Lake, missing: &RecordBatch) -> Result<HashSet<String>> {
    #[derive(Deserialize)]
    struct Change {
        after: After,
    }
    #[derive(Deserialize)]
    struct After {
        event_id: String,
    }
    let wanted: HashSet<&str> = missing.column(1).as_string::<i32>().iter().flatten().collect();
    let letters = lake.dead_letters(Some(SOURCE), true).await?;
    let open = letters.into_iter().filter(|stored| stored.replayed.is_none());
    let ids = open.filter_map(|stored| serde_json::from_slice::<Change>(&stored.letter.message).ok());
    Ok(ids.map(|change| change.after.event_id).filter(|id| wanted.contains(id.as_str())).collect())
}
