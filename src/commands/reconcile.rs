//! `lakeward reconcile`

use std::time::Duration;

use anyhow::Result;
use lakeward_pipeline::{DifferenceKind, ReconcileReport, Waits, reconcile};

use crate::{
    config::Config,
    exit::Outcome,
    output::{Progress, pipeline_observer, table},
    session::{ControlSession, Places, lake, pipeline_options},
};

/// Sums every captured table in Postgres, in a snapshot, and in the lake, at exactly the snapshot's point, by ranges of
/// keys; names the keys that differ. A running ingester makes the cut; without one, one is run to that point.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    places: Places,
    /// Seconds that old open transactions may hold up the snapshot
    #[arg(long, value_name = "SECONDS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=55))]
    wait: u64,
}

pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    arguments.places.apply(&mut config);
    let options = pipeline_options(&config)?;
    let lake = lake(&config)?;
    let session = ControlSession::open(&config, &lake).await?;
    let waits = Waits { snapshot: Duration::from_secs(arguments.wait), cut: Duration::from_secs(120) };
    let observer = pipeline_observer(&Progress::new());
    let report = reconcile(&lake, &session.control, &options, waits, &observer).await;
    session.close().await?;
    let report = report?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print_report(&report);
    }
    Ok(if report.is_clean() { Outcome::Done } else { Outcome::Found })
}

fn print_report(report: &ReconcileReport) {
    println!("{} at {}", report.source, report.lsn);
    let rows = report.tables.iter().map(|found| {
        let differing = if found.differing == 0 {
            "equal".to_owned()
        } else {
            format!("{} keys differ", found.differing)
        };
        [found.table.clone(), found.source_rows.to_string(), found.lake_rows.to_string(), differing]
    });
    println!("{}", table(["table", "rows in Postgres", "rows in the lake", ""], rows));
    for found in report.tables.iter().filter(|found| found.differing > 0) {
        for difference in &found.differences {
            let kind = match difference.kind {
                DifferenceKind::MissingInLake => "missing in the lake",
                DifferenceKind::OnlyInLake => "only in the lake",
                DifferenceKind::DifferentValues => "different values",
            };
            let key: Vec<&str> =
                difference.key.iter().map(|part| part.as_deref().unwrap_or("null")).collect();
            println!("  {} ({}): {kind}", found.table, key.join(", "));
        }
    }
    for table in &report.not_compared {
        println!("  {} was not compared: {}", table.id, table.reason);
    }
    if report.is_clean() {
        println!("No difference: the lake equals the source at this point.");
    }
}
