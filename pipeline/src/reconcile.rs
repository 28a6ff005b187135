//! Proof that the lake equals the source, at one exact point, while the source moves.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use lakeward_cdc::{PostgresSource, SchemaPolicy, SlotState, Snapshot, key_values};
use lakeward_change::{Lsn, StopCause, StoppedTable, TableSchema};
use lakeward_lakehouse::{Lake, LakeError, Watermark, WatermarkTable};
use lakeward_postgres::{Control, CutState};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::{Observer, Options, Pipeline, PipelineError, ingest::changed};

/// Differing keys that are named; all are counted.
const NAMED_KEYS: usize = 20;

#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// How long old open transactions may hold up the snapshot.
    pub snapshot: Duration,
    /// How long the pipeline may take to the cut.
    pub cut: Duration,
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
}

#[derive(Debug, Serialize)]
pub struct TableReport {
    pub table: String,
    pub source_rows: u64,
    pub lake_rows: u64,
    pub differing: u64,
    /// The first differing keys.
    pub differences: Vec<Difference>,
}

#[derive(Debug, Serialize)]
pub struct Difference {
    /// The key's values in the key's order, as text; `None` is null.
    pub key: Vec<Option<String>>,
    pub kind: DifferenceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    MissingInLake,
    OnlyInLake,
    DifferentValues,
}

impl ReconcileReport {
    pub fn is_clean(&self) -> bool {
        self.not_compared.is_empty() && self.tables.iter().all(|table| table.differing == 0)
    }
}

/// Compares every captured table.
///
/// # Errors
/// If nothing was captured yet, a transaction holds up the snapshot too long, or no cut could be had in time.
pub async fn reconcile(
    lake: &Arc<Lake>,
    control: &Arc<Control>,
    options: &Options,
    waits: Waits,
    observer: &Observer,
) -> Result<ReconcileReport, PipelineError> {
    let mut source = PostgresSource::open(options.postgres.clone()).await?;
    let Some(newest) = lake.latest_watermark(Some(source.name())).await? else {
        return Err(PipelineError::NothingCaptured { source_name: source.name().to_owned() });
    };
    for (id, entry) in &newest.tables {
        if source.policy(id) == SchemaPolicy::Ignore
            && let Some(captured) = lake.definition(&entry.silver_path).await?
        {
            source.ignore_other_columns(&captured);
        }
    }
    let running = matches!(source.slot().await?, SlotState::Present { active_pid: Some(_), .. });
    let (snapshot, watermark) = if running {
        cut_at_snapshot(control, &source, waits).await?
    } else {
        let asked = cut_at_snapshot(control, &source, waits);
        run_ingester_during(asked, lake, control, options, observer).await?
    };
    let mut tables = Vec::new();
    let mut not_compared = watermark.stopped;
    for (id, entry) in &watermark.tables {
        let Some(schema) = source.tables().iter().find(|schema| schema.id == *id) else {
            let reason =
                "it is not there, not chosen or not to be read, for the role and the patterns given here";
            let (id, reason) = (id.clone(), reason.to_owned());
            not_compared.push(StoppedTable {
                id,
                reason,
                cause: StopCause::Rows,
                complete_to: watermark.lsn,
            });
            continue;
        };
        match lake.check_definition(&entry.silver_path, schema).await {
            Ok(()) => tables.push(compare(lake, &snapshot, schema, entry).await?),
            // The stream has not met a change of the table since.
            Err(LakeError::SchemaChanged { difference, .. }) => {
                not_compared.push(changed(schema, &difference));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ReconcileReport {
        source: source.name().to_owned(),
        lsn: watermark.lsn.to_string(),
        ran_ingester: !running,
        tables,
        not_compared,
    })
}

/// The ingester pauses, the snapshot is taken, the ingester goes on to it and cuts there.
async fn cut_at_snapshot(
    control: &Control,
    source: &PostgresSource,
    waits: Waits,
) -> Result<(Snapshot, Watermark), PipelineError> {
    let id = control.announce_cut(source.name()).await?;
    let cut = async {
        control.wait_cut(id, CutState::Paused, waits.cut).await?;
        let snapshot = source.temporary_snapshot(waits.snapshot).await?;
        control.set_cut_lsn(id, snapshot.lsn().0).await?;
        let request = control.wait_cut(id, CutState::Done, waits.cut).await?;
        let watermark = answered(request.answer, snapshot.lsn())?;
        Ok((snapshot, watermark))
    }
    .await;
    // Also after a failure, so that the ingester reads on at once.
    control.withdraw_cut(id).await?;
    cut
}

/// Where no ingester runs, one runs as long as `asked` needs it.
async fn run_ingester_during<T>(
    asked: impl Future<Output = Result<T, PipelineError>>,
    lake: &Arc<Lake>,
    control: &Arc<Control>,
    options: &Options,
    observer: &Observer,
) -> Result<T, PipelineError> {
    let options = Options { until_idle: false, ..options.clone() };
    let pipeline = Pipeline::new(Arc::clone(lake), Arc::clone(control), options, Arc::clone(observer));
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

fn answered(answer: Option<serde_json::Value>, at: Lsn) -> Result<Watermark, PipelineError> {
    let refused = |reason: &str| PipelineError::CutRefused { lsn: at, reason: reason.to_owned() };
    let answer = answer.ok_or_else(|| refused("the answer is empty"))?;
    let watermark: Watermark = serde_json::from_value(answer)
        .map_err(|_| refused("the answer is of another version of Lakeward"))?;
    if watermark.lsn == at { Ok(watermark) } else { Err(refused("the cut lies elsewhere")) }
}

async fn compare(
    lake: &Lake,
    snapshot: &Snapshot,
    schema: &TableSchema,
    entry: &WatermarkTable,
) -> Result<TableReport, PipelineError> {
    let theirs = snapshot.fingerprint(&schema.id).await?;
    let ours = lake.fingerprint(&entry.silver_path, entry.silver_version, schema).await?;
    let mut report = TableReport {
        table: schema.id.to_string(),
        source_rows: theirs.iter().map(|bucket| bucket.rows).sum(),
        lake_rows: ours.iter().map(|bucket| bucket.rows).sum(),
        differing: 0,
        differences: Vec::new(),
    };
    let theirs = theirs.iter().map(|bucket| (bucket.bucket, (bucket.rows, bucket.sum))).collect();
    let ours = ours.iter().map(|bucket| (bucket.bucket, (bucket.rows, bucket.sum))).collect();
    for bucket in differing_buckets(&theirs, &ours) {
        let theirs = snapshot.bucket_rows(&schema.id, bucket).await?;
        let ours = lake.bucket_rows(&entry.silver_path, entry.silver_version, schema, bucket).await?;
        for (key, kind) in differing_keys(theirs, ours) {
            report.differing += 1;
            if report.differences.len() < NAMED_KEYS {
                report.differences.push(Difference { key: key_values(&key), kind });
            }
        }
    }
    Ok(report)
}

/// Rows and sum of row hashes of each bucket that has rows.
type Buckets = BTreeMap<u8, (u64, i128)>;

fn differing_buckets(theirs: &Buckets, ours: &Buckets) -> Vec<u8> {
    (0..=u8::MAX).filter(|bucket| theirs.get(bucket) != ours.get(bucket)).collect()
}

/// Compares two lists of (key, row hash). A key that a list holds twice differs, too.
fn differing_keys(theirs: Vec<(String, i64)>, ours: Vec<(String, i64)>) -> Vec<(String, DifferenceKind)> {
    let mut keys: BTreeMap<String, (Vec<i64>, Vec<i64>)> = BTreeMap::new();
    for (key, hash) in theirs {
        keys.entry(key).or_default().0.push(hash);
    }
    for (key, hash) in ours {
        keys.entry(key).or_default().1.push(hash);
    }
    keys.into_iter()
        .filter_map(|(key, (mut theirs, mut ours))| {
            theirs.sort_unstable();
            ours.sort_unstable();
            let kind = match (theirs.is_empty(), ours.is_empty()) {
                (false, true) => DifferenceKind::MissingInLake,
                (true, false) => DifferenceKind::OnlyInLake,
                _ if theirs != ours => DifferenceKind::DifferentValues,
                _ => return None,
            };
            Some((key, kind))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[(&str, i64)]) -> Vec<(String, i64)> {
        rows.iter().map(|(key, hash)| ((*key).to_owned(), *hash)).collect()
    }

    #[test]
    fn names_every_kind_of_difference() {
        let found = differing_keys(
            rows(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)]),
            rows(&[("a", 1), ("b", 5), ("d", 4), ("d", 4), ("e", 6)]),
        );
        let expected = [
            ("b", DifferenceKind::DifferentValues),
            ("c", DifferenceKind::MissingInLake),
            ("d", DifferenceKind::DifferentValues),
            ("e", DifferenceKind::OnlyInLake),
        ];
        assert_eq!(found, expected.map(|(key, kind)| (key.to_owned(), kind)));
    }

    #[test]
    fn a_bucket_differs_by_sum_by_count_and_by_absence() {
        let theirs = Buckets::from([(0, (1, 10)), (1, (1, 10)), (2, (1, 10)), (3, (2, 0))]);
        let ours = Buckets::from([(0, (1, 10)), (1, (1, 11)), (3, (4, 0)), (9, (1, 1))]);
        assert_eq!(differing_buckets(&theirs, &ours), [1, 2, 3, 9]);
    }
}
