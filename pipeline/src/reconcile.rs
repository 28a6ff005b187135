//! Proof that the lake equals the source, at one exact point, while the source moves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lakeward_cdc::{HistoryTable, PostgresSource, SchemaPolicy, Snapshot};
use lakeward_change::{Lsn, StopCause, StoppedTable, TableId, TableSchema};
use lakeward_lakehouse::{Hold, Lake, LakeError, Watermark};
use lakeward_postgres::{Control, CutState};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{
    Observer, Options, Pipeline, PipelineError, TableRepair, TableReport,
    compare::{Compared, compare},
    ingest::changed,
    owner::is_read,
    repair::{Writer, repair},
    status::lacking,
};

/// What a comparison may take, show and do.
#[derive(Debug, Clone, Copy)]
pub struct Reconcile {
    /// How long old open transactions may hold up the snapshot.
    pub snapshot_wait: Duration,
    /// How long the pipeline may take to the cut.
    pub cut_wait: Duration,
    /// Values of rows that differ are shown, not only their columns' names.
    pub show_values: bool,
    /// Put right what differs, then compare those tables again at a second point.
    pub repair: bool,
}

/// What a comparison found.
#[derive(Debug, Serialize)]
pub struct ReconcileReport {
    pub source: String,
    /// The point of comparison: everything that committed before it, nothing after.
    pub lsn: String,
    /// No ingester was running, so one ran to the point.
    pub ran_ingester: bool,
    pub tables: Vec<TableReport>,
    /// Tables that were not compared: their capture has stopped, or they cannot be read.
    pub not_compared: Vec<StoppedTable>,
    /// Tables that were not compared since they have bronze alone, with the reason: no more is known of them.
    pub bronze_only: Vec<HistoryTable>,
}

impl ReconcileReport {
    /// Every table that has current rows was compared, nothing differs any more, and no row waits as a dead letter.
    pub fn is_clean(&self) -> bool {
        let equal = |table: &TableReport| {
            let left = table.repair.as_ref().map_or(table.differing, |repair| repair.left);
            left == 0 && table.dead_letters.is_empty()
        };
        self.not_compared.is_empty() && self.tables.iter().all(equal)
    }
}

/// Compares every captured table.
///
/// # Errors
/// If nothing was captured yet, a transaction holds up the snapshot too long, no cut could be had in time, or a repair
/// failed: what it had not reached is as it was.
pub async fn reconcile(
    lake: &Arc<Lake>,
    control: &Arc<Control>,
    options: &Options,
    wanted: Reconcile,
    observer: &Observer,
) -> Result<ReconcileReport, PipelineError> {
    let mut source = PostgresSource::open(options.postgres.clone()).await?;
    let Some(newest) = lake.latest_watermark(Some(source.name())).await? else {
        return Err(PipelineError::NothingCaptured { source_name: source.name().to_owned() });
    };
    for (id, entry) in &newest.tables {
        if source.policy(id) == SchemaPolicy::Ignore
            && let Some(captured) = lake.definition(entry.defined_at()).await?
        {
            source.ignore_other_columns(&captured);
        }
    }
    let run = Run { lake, control, options, wanted, observer, source };
    let mut first = run.compare_at_cut(None).await?;
    let differing: BTreeSet<TableId> =
        first.tables.iter().filter(|(_, found)| !found.keys.is_empty()).map(|(id, _)| id.clone()).collect();
    if wanted.repair && !differing.is_empty() {
        let mut repaired = run.repair(&first).await?;
        // Its slot makes room for the next one's.
        drop(first.snapshot);
        let second = run.compare_at_cut(Some(&differing)).await?;
        for (id, found) in &mut first.tables {
            // A table that stopped meanwhile is as it was, for all that is known.
            let left = second.tables.get(id).map_or(found.report.differing, |again| again.report.differing);
            found.report.repair = repaired.remove(id).map(|repair| TableRepair { left, ..repair });
        }
    }
    Ok(ReconcileReport {
        source: run.source.name().to_owned(),
        lsn: first.watermark.lsn.to_string(),
        ran_ingester: !first.running,
        tables: first.tables.into_values().map(|found| found.report).collect(),
        not_compared: first.not_compared,
        bronze_only: first.bronze_only,
    })
}

struct Run<'a> {
    lake: &'a Arc<Lake>,
    control: &'a Arc<Control>,
    options: &'a Options,
    wanted: Reconcile,
    observer: &'a Observer,
    source: PostgresSource,
}

/// Tables as they were found at one point.
struct Found {
    snapshot: Snapshot,
    watermark: Watermark,
    _hold: Hold,
    /// An ingester was running.
    running: bool,
    tables: BTreeMap<TableId, Compared>,
    not_compared: Vec<StoppedTable>,
    bronze_only: Vec<HistoryTable>,
}

impl Run<'_> {
    /// Has a cut made, and compares all tables there, or some.
    async fn compare_at_cut(&self, only: Option<&BTreeSet<TableId>>) -> Result<Found, PipelineError> {
        let running = is_read(&self.source, self.control).await?;
        let asked = cut_at_snapshot(self.control, &self.source, &self.wanted);
        let (snapshot, watermark) =
            if running { asked.await? } else { self.run_ingester_during(asked).await? };
        let hold = self.lake.hold(&watermark).await;
        let mut tables = BTreeMap::new();
        let mut not_compared = watermark.stopped.clone();
        let mut bronze_only = Vec::new();
        for (id, entry) in &watermark.tables {
            if only.is_some_and(|only| !only.contains(id)) {
                continue;
            }
            if entry.is_history() {
                bronze_only.push(HistoryTable { id: id.clone(), reason: lacking(&self.source, id) });
                continue;
            }
            let Some(schema) = self.schema(id) else {
                let reason =
                    "it is not there, not chosen or not to be read, for the role and the patterns given here";
                not_compared.push(StoppedTable {
                    id: id.clone(),
                    reason: reason.to_owned(),
                    cause: StopCause::Rows,
                    complete_to: watermark.lsn,
                });
                continue;
            };
            match self.lake.check_definition(&entry.silver_path, schema).await {
                Ok(()) => {
                    let show = self.wanted.show_values;
                    tables.insert(id.clone(), compare(self.lake, &snapshot, schema, entry, show).await?);
                }
                // The stream has not met a change of the table since.
                Err(LakeError::SchemaChanged { difference, .. }) => {
                    not_compared.push(changed(schema, &difference));
                }
                Err(error) => return Err(error.into()),
            }
        }
        for (id, letters) in self.lake.open_letters(&watermark).await? {
            if let Some(found) = tables.get_mut(&id) {
                found.report.dead_letters = letters;
            }
        }
        Ok(Found { snapshot, watermark, _hold: hold, running, tables, not_compared, bronze_only })
    }

    /// Puts right what differs, as far as the stream has not done so.
    async fn repair(&self, found: &Found) -> Result<BTreeMap<TableId, TableRepair>, PipelineError> {
        if found.running {
            return self.repair_by(&Writer::Ingester(self.control), found).await;
        }
        // Its connection holds the claim, and gives it back when the repair is done.
        let source = PostgresSource::open(self.options.postgres.clone()).await?;
        let _claim = source.claim().await?;
        let holder = format!("process {}, for a repair", std::process::id());
        let lease = self.control.take_lease(source.name(), &holder, true).await?;
        let repaired = self.repair_by(&Writer::Own { lake: self.lake, source: &source, lease }, found).await;
        self.control.release_lease(source.name(), lease.term).await?;
        repaired
    }

    async fn repair_by(
        &self,
        writer: &Writer<'_>,
        found: &Found,
    ) -> Result<BTreeMap<TableId, TableRepair>, PipelineError> {
        let mut repairs = BTreeMap::new();
        for (id, compared) in found.tables.iter().filter(|(_, compared)| !compared.keys.is_empty()) {
            let (Some(schema), Some(entry)) = (self.schema(id), found.watermark.tables.get(id)) else {
                continue;
            };
            let name = self.source.name();
            let done = repair(writer, name, &found.snapshot, schema, entry.epoch, &compared.keys).await?;
            let repaired = TableRepair { keys: done.keys, passed_over: done.passed_over, left: 0 };
            repairs.insert(id.clone(), repaired);
        }
        Ok(repairs)
    }

    fn schema(&self, id: &TableId) -> Option<&Arc<TableSchema>> {
        self.source.tables().iter().find(|schema| schema.id == *id)
    }

    /// Where no ingester runs, one runs as long as `asked` needs it.
    async fn run_ingester_during<T>(
        &self,
        asked: impl Future<Output = Result<T, PipelineError>>,
    ) -> Result<T, PipelineError> {
        let options = Options { until_idle: false, ..self.options.clone() };
        let pipeline = Pipeline::new(
            Arc::clone(self.lake),
            Arc::clone(self.control),
            options,
            Arc::clone(self.observer),
        );
        let shutdown = CancellationToken::new();
        let mut running = Box::pin(pipeline.run(shutdown.clone()));
        let answer = tokio::select! {
            ended = &mut running => {
                ended?;
                return Err(PipelineError::Stopped("the ingester"));
            }
            answer = asked => answer,
        };
        shutdown.cancel();
        running.await?;
        answer
    }
}

/// The ingester pauses, the snapshot is taken, the ingester goes on to it and cuts there.
async fn cut_at_snapshot(
    control: &Control,
    source: &PostgresSource,
    wanted: &Reconcile,
) -> Result<(Snapshot, Watermark), PipelineError> {
    let id = control.announce_cut(source.name()).await?;
    let cut = async {
        control.wait_cut(id, CutState::Paused, wanted.cut_wait).await?;
        let snapshot = source.temporary_snapshot(wanted.snapshot_wait).await?;
        control.set_cut_lsn(id, snapshot.lsn().0).await?;
        let request = control.wait_cut(id, CutState::Done, wanted.cut_wait).await?;
        let watermark = answered(request.answer, snapshot.lsn())?;
        Ok((snapshot, watermark))
    }
    .await;
    // Also after a failure, so that the ingester reads on at once.
    control.withdraw_cut(id).await?;
    cut
}

fn answered(answer: Option<serde_json::Value>, at: Lsn) -> Result<Watermark, PipelineError> {
    let refused = |reason: &str| PipelineError::CutRefused { lsn: at, reason: reason.to_owned() };
    let answer = answer.ok_or_else(|| refused("the answer is empty"))?;
    let watermark: Watermark = serde_json::from_value(answer)
        .map_err(|_| refused("the answer is of another version of Lakeward"))?;
    if watermark.lsn == at { Ok(watermark) } else { Err(refused("the cut lies elsewhere")) }
}
