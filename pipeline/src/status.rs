//! How the capture of a source stands, and what to do where it is stuck.

use std::{collections::BTreeMap, time::Duration};

use lakeward_cdc::{PostgresSource, SlotState, SlotWal};
use lakeward_change::{StopCause, StoppedTable, TableId};
use lakeward_lakehouse::{Lake, Watermark};
use lakeward_postgres::Control;
use serde::Serialize;

use crate::{Options, PipelineError, Progress, owner::is_read};

/// An ingester reports about once a second: after this long its report says nothing any more.
const STALE: Duration = Duration::from_secs(10);

/// How the capture of a source stands.
#[derive(Debug, Serialize)]
pub struct Status {
    pub source: String,
    pub slot: String,
    /// Where the server's log ends now.
    pub server: String,
    /// Everything that committed before this is durable in the lake; none before the first copy.
    pub durable: Option<String>,
    /// Of the server's log, bytes beyond what is durable: they hold other databases' changes, too.
    pub behind_bytes: Option<u64>,
    /// What the server keeps for the slot.
    pub wal: Option<SlotWal>,
    /// What a running ingester says of itself.
    pub ingester: Option<Progress>,
    pub tables: Vec<TableStatus>,
    pub stopped: Vec<StoppedTable>,
    /// What is wrong, and what to do about it.
    pub findings: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct TableStatus {
    #[serde(flatten)]
    pub table: TableId,
    pub silver_version: i64,
    pub bronze_version: i64,
    /// Rows that have been read and are not durable yet, and the age of the oldest, in seconds.
    pub rows_behind: u64,
    pub seconds_behind: f64,
    /// Why there is bronze alone, which lacks the table's updates and deletes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bronze_only: Option<String>,
    /// Rows that cannot be taken in and are open as dead letters.
    pub dead_letters: u64,
}

/// Looks at source, lake and control database; changes nothing.
///
/// # Errors
/// If one of them cannot be read.
pub async fn status(lake: &Lake, control: &Control, options: &Options) -> Result<Status, PipelineError> {
    let source = PostgresSource::open(options.postgres.clone()).await?;
    let server = source.flush_lsn().await?;
    let slot = if source.has_topics() { None } else { Some(source.slot().await?) };
    let running = is_read(&source, control).await?;
    let wal = source.slot_wal().await?;
    let watermark = lake.latest_watermark(Some(source.name())).await?;
    let ingester = control
        .ingester(source.name())
        .await?
        .filter(|(_, age)| *age < STALE && running)
        .and_then(|(state, _)| serde_json::from_value::<Progress>(state).ok());
    let letters = match &watermark {
        Some(watermark) => lake.open_letters(watermark).await?,
        None => BTreeMap::new(),
    };
    let mut findings = findings(watermark.as_ref(), slot.as_ref(), wal.as_ref(), ingester.as_ref());
    let entries = watermark.iter().flat_map(|watermark| &watermark.tables);
    findings.extend(entries.filter(|(_, entry)| entry.is_history()).map(|(id, _)| {
        format!("{id} is in bronze alone, without its updates and deletes: {}", lacking(&source, id))
    }));
    findings.extend(letters.iter().map(|(table, letters)| {
        format!(
            "{} rows of {table} cannot be taken in: `lakeward dead-letters list --table {table}` says why. Once they are \
             right in the source, `lakeward table resync {table}`; where a newer Lakeward can read them, `lakeward \
             dead-letters replay --table {table}`",
            letters.values().sum::<u64>()
        )
    }));
    let tables = watermark.iter().flat_map(|watermark| &watermark.tables).map(|(id, entry)| {
        let behind = ingester.iter().flat_map(|ingester| &ingester.behind).find(|behind| behind.table == *id);
        TableStatus {
            table: id.clone(),
            silver_version: entry.silver_version,
            bronze_version: entry.bronze_version,
            rows_behind: behind.map_or(0, |behind| behind.rows),
            seconds_behind: behind.map_or(0.0, |behind| behind.seconds),
            bronze_only: entry.is_history().then(|| lacking(&source, id)),
            dead_letters: letters.get(id).map_or(0, |letters| letters.values().sum()),
        }
    });
    Ok(Status {
        source: source.name().to_owned(),
        slot: source.slot_name().to_owned(),
        durable: watermark.as_ref().map(|watermark| watermark.lsn.to_string()),
        behind_bytes: watermark.as_ref().map(|watermark| server.0.saturating_sub(watermark.lsn.0)),
        server: server.to_string(),
        wal,
        tables: tables.collect(),
        stopped: watermark.as_ref().map(|watermark| watermark.stopped.clone()).unwrap_or_default(),
        ingester,
        findings,
    })
}

/// Why a captured table is a history.
pub(crate) fn lacking(source: &PostgresSource, table: &TableId) -> String {
    let known = source.histories().iter().find(|history| history.id == *table);
    known.map_or_else(|| "it had no usable key when it was captured".to_owned(), |found| found.reason.clone())
}

fn findings(
    watermark: Option<&Watermark>,
    slot: Option<&SlotState>,
    wal: Option<&SlotWal>,
    ingester: Option<&Progress>,
) -> Vec<String> {
    let mut findings = Vec::new();
    match (watermark, slot) {
        (None, _) => findings.push("nothing is captured yet: run `lakeward ingest`".to_owned()),
        (Some(_), None) if ingester.is_none() => findings.push(
            "nobody reads the topics: run `lakeward ingest` before Kafka removes what it has not read".to_owned(),
        ),
        (Some(_), Some(SlotState::Missing)) => findings.push(
            "the replication slot is gone: the next `lakeward ingest` says what was lost and copies anew".to_owned(),
        ),
        (Some(_), Some(SlotState::Present { lost: true, .. })) => findings.push(
            "the server has removed log that the slot needs: the next `lakeward ingest` copies anew".to_owned(),
        ),
        (Some(_), Some(SlotState::Present { active_pid: None, .. })) => findings.push(
            "nobody reads the slot, and the server keeps its log until somebody does: run `lakeward ingest`, or \
             `lakeward source drop` to give up"
                .to_owned(),
        ),
        (Some(_), Some(SlotState::Present { active_pid: Some(pid), .. })) if ingester.is_none() => {
            findings.push(format!(
                "process {pid} of the server reads the slot, but no ingester of this lake tells of itself: it may hang, \
                 or be another's"
            ));
        }
        _ => {}
    }
    if let Some(SlotWal { limit_bytes: None, .. }) = wal {
        findings.push(
            "max_slot_wal_keep_size is unlimited: while nobody reads, the log can fill the server's disk"
                .to_owned(),
        );
    }
    if let Some(reason) = ingester.and_then(|ingester| ingester.waiting.as_deref()) {
        findings.push(format!("reading stands still: {reason}"));
    }
    let stopped = watermark.iter().flat_map(|watermark| &watermark.stopped);
    for table in stopped.filter(|table| table.cause != StopCause::Copying) {
        findings.push(format!(
            "{} is not in the newest cut: {}; `lakeward table resync {}` copies it anew",
            table.id, table.reason, table.id
        ));
    }
    findings
}
