//! `lakeward reconcile`

mod events;

use std::time::Duration;

use anyhow::Result;
use lakeward_pipeline::{Difference, DifferenceKind, Reconcile, ReconcileReport, TableReport, reconcile};

use crate::{
    config::Config,
    exit::Outcome,
    output::{Progress, pipeline_observer, table},
    session::{ControlSession, Places, lake, pipeline_options},
};

/// Sums every captured table in Postgres, in a snapshot, and in the lake, at exactly the snapshot's point, by 16,384 ranges
/// of keys; names the first keys that differ, and the columns. A running ingester makes the cut; without one, one is run
/// to that point.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    places: Places,
    /// Seconds that old open transactions may hold up the snapshot
    #[arg(long, value_name = "SECONDS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=55))]
    wait: u64,
    /// Show the values that differ, of Postgres and of the lake, instead of their columns' names alone
    #[arg(long)]
    show_values: bool,
    /// Put right what differs: read those keys in the same snapshot and have the table's one writer store their rows,
    /// then compare again. What the stream has changed since is left to it; bronze stays as it is, the history of what
    /// was read
    #[arg(long)]
    repair: bool,
    /// Instead of all that: whether each event of the shop's table is in silver/events/tracking/events, which `lakeward load
    /// topics` keeps. Those that are there now have --wait to come
    #[arg(long, conflicts_with_all = ["show_values", "repair"])]
    events: bool,
}

pub async fn run(arguments: Arguments, mut config: Config, json: bool) -> Result<Outcome> {
    arguments.places.apply(&mut config);
    if arguments.events {
        return events::run(&config, &*lake(&config)?, Duration::from_secs(arguments.wait), json).await;
    }
    let options = pipeline_options(&config)?;
    let lake = lake(&config)?;
    let session = ControlSession::open(&config, &lake).await?;
    let wanted = Reconcile {
        snapshot_wait: Duration::from_secs(arguments.wait),
        cut_wait: Duration::from_secs(120),
        show_values: arguments.show_values,
        repair: arguments.repair,
    };
    let observer = pipeline_observer(&Progress::new());
    let report = reconcile(&lake, &session.control, &options, wanted, &observer).await;
    session.close().await?;
    let report = report?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print_report(&report, arguments.repair);
    }
    Ok(if report.is_clean() { Outcome::Done } else { Outcome::Found })
}

/// `asked`: a repair was.
fn print_report(report: &ReconcileReport, asked: bool) {
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
    for found in &report.tables {
        for (reason, rows) in &found.dead_letters {
            println!("  {}: {rows} rows are dead letters: {reason}", found.table);
        }
    }
    for found in report.tables.iter().filter(|found| found.differing > 0) {
        for difference in &found.differences {
            print_difference(&found.table, difference);
        }
        print_repair(found);
        if asked && found.repair.is_none() {
            let name = &found.table;
            println!("  {name} has no key to repair it by: `lakeward table resync {name}` copies it anew");
        }
    }
    for table in &report.bronze_only {
        println!("  {} was not compared, it is in bronze alone: {}", table.id, table.reason);
    }
    for table in &report.not_compared {
        println!("  {} was not compared: {}", table.id, table.reason);
    }
    let repaired = report.tables.iter().any(|found| found.repair.is_some());
    match (report.is_clean(), repaired) {
        (true, false) if !report.bronze_only.is_empty() => {
            println!("No difference in the tables that were compared.");
        }
        (true, false) => println!("No difference: the lake equals the source at this point."),
        (true, true) => println!("No difference is left: the lake equals the source at a second point."),
        (false, _) => {}
    }
}

fn print_difference(table: &str, difference: &Difference) {
    let kind = match difference.kind {
        DifferenceKind::MissingInLake => "missing in the lake",
        DifferenceKind::OnlyInLake => "only in the lake",
        DifferenceKind::DifferentValues => "different values",
        DifferenceKind::DoubledInLake => "more than once in the lake",
    };
    let key: Vec<&str> = difference.key.iter().map(|part| part.as_deref().unwrap_or("null")).collect();
    println!("  {table} ({}): {kind}", key.join(", "));
    for column in &difference.columns {
        let [source, lake] = [&column.source, &column.lake]
            .map(|value| value.as_ref().map_or("null".to_owned(), |text| text.escape_debug().to_string()));
        println!("    {}: {source} in Postgres, {lake} in the lake", column.column);
    }
}

fn print_repair(found: &TableReport) {
    let Some(repair) = &found.repair else { return };
    println!("  {}: {} keys repaired, {} differ now", found.table, repair.keys, repair.left);
    if repair.passed_over > 0 {
        println!("    {} left alone: they have changed since the comparison", repair.passed_over);
    }
}
