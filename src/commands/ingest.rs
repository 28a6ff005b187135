//! `lakeward ingest`

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use anyhow::{Result, bail};
use lakeward_cdc::{PostgresOptions, PostgresSource};
use lakeward_lakehouse::Watermark;
use lakeward_pipeline::{Event, Observer, Pipeline};

use crate::{
    config::Config,
    exit::{Interrupted, Outcome},
    output::{Progress, mib, pipeline_observer},
    session::{ControlSession, Places, lake, pipeline_options, serve_metrics, shutdown_token},
    streams::Streams,
};

/// Needs no configuration: every table is copied once, then its changes are followed; without a key, its inserts.
/// Stop it with Ctrl-C at any moment; the next start goes on where it stopped. Several tables may be chosen by patterns.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    places: Places,
    /// Tables to capture: schema.table, * stands for anything; may be given several times [default: all]
    #[arg(long, value_name = "PATTERN")]
    tables: Vec<String>,
    /// Stop once everything the server had written, at the moment the copy caught up, is durable in the lake
    #[arg(long)]
    until_idle: bool,
    /// Where Prometheus finds /metrics [default: from the configuration, nowhere]
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
}

pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    arguments.places.apply(&mut config);
    if !arguments.tables.is_empty() {
        config.source.tables = arguments.tables;
    }
    let shutdown = shutdown_token()?;
    serve_metrics(arguments.metrics.or(config.ingest.metrics_address), &shutdown).await?;
    let mut options = pipeline_options(&config)?;
    options.until_idle = arguments.until_idle;
    let lake = lake(&config)?;
    let session = ControlSession::open(&config, &lake).await?;
    let newest = Arc::new(Mutex::new(None));
    let streams = Streams::start(&config, &lake);
    let observer = streams.observer(pipeline_observer(&Progress::new()));
    let observer = remembering(observer, Arc::clone(&newest));
    let kept = options.postgres.clone();
    let pipeline = Pipeline::new(lake, Arc::clone(&session.control), options, observer);
    let ended = pipeline.run(shutdown.clone()).await;
    streams.finish(&shutdown).await;
    session.close().await?;
    tell_kept_log(kept).await;
    ended?;

    let newest = newest.lock().ok().and_then(|newest| newest.clone());
    if json {
        println!("{}", serde_json::to_string(&newest.as_deref())?);
    } else if let Some(watermark) = &newest {
        println!("Durable up to {} in {} tables", watermark.lsn, watermark.tables.len());
    }
    if let Some(watermark) = &newest
        && !watermark.stopped.is_empty()
    {
        let names: Vec<String> = watermark.stopped.iter().map(|table| table.id.to_string()).collect();
        bail!("{} stopped: the lake holds an older state; the other tables are whole", names.join(", "));
    }
    if arguments.until_idle && shutdown.is_cancelled() {
        return Err(Interrupted.into());
    }
    Ok(Outcome::Done)
}

/// The server keeps its log for a slot that nobody reads: whoever stops an ingester should know how much that is.
async fn tell_kept_log(options: PostgresOptions) {
    // A server that cannot be asked was the reason for the end, or will be told at the next start.
    let Ok(source) = PostgresSource::open(options).await else { return };
    if let Ok(Some(wal)) = source.slot_wal().await {
        let slot = source.slot_name();
        eprintln!("The server keeps {} of its log for slot {slot} until the next start", mib(wal.kept_bytes));
    }
}

/// Passes events on and keeps the newest watermark.
fn remembering(inner: Observer, newest: Arc<Mutex<Option<Arc<Watermark>>>>) -> Observer {
    Arc::new(move |event| {
        if let Event::Committed(watermark) = &event
            && let Ok(mut newest) = newest.lock()
        {
            *newest = Some(Arc::clone(watermark));
        }
        inner(event);
    })
}
