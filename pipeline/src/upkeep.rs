//! Upkeep of captured tables: always by their one writer, which is a lane, or who holds the slot when nobody ingests.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use lakeward_cdc::{CdcError, PostgresSource};
use lakeward_change::TableId;
use lakeward_lakehouse::{
    CapturedTable, Compacted, Compaction, Lake, LakeError, Retention, TableVersions, Vacuumed,
};
use lakeward_postgres::Control;
use serde::{Deserialize, Serialize};
use tokio::{sync::oneshot, task::JoinSet, time::Instant};

use crate::{Options, PipelineError, copy::reference, error::chain};

/// Old files are looked for this often, and a few small ones put together that are not worth it earlier.
const VACUUM_EVERY: Duration = Duration::from_secs(3600);
/// A process that just began has better things to do.
const FIRST_VACUUM: Duration = Duration::from_secs(600);
/// So often it is seen to that past states do not take too much.
const RELIEVE_EVERY: Duration = Duration::from_secs(10);
/// A table's changes wait while its files are rewritten: this many bytes at a time.
const BYTES_AT_ONCE: u64 = 64 << 20;

/// How captured tables are maintained while they are written.
#[derive(Debug, Clone, Copy)]
pub struct Maintenance {
    /// Files are put together when this many can be.
    pub small_files: usize,
    pub retention: Retention,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self { small_files: 50, retention: Retention::default() }
    }
}

/// What can be asked for a table; its names are those of requests in the control database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chore {
    Optimize,
    Vacuum,
}

impl Chore {
    pub const ALL: [Self; 2] = [Self::Optimize, Self::Vacuum];

    pub fn name(self) -> &'static str {
        match self {
            Self::Optimize => "optimize",
            Self::Vacuum => "vacuum",
        }
    }
}

/// What came of a chore: the answer to its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Maintained {
    Optimized(Compacted),
    Vacuumed(Vacuumed),
}

/// When a lane's table is due for what.
pub(crate) struct Upkeep {
    maintenance: Maintenance,
    vacuum_at: Instant,
    relieve_at: Instant,
    /// As it was when its past states took little.
    relieved: Option<TableVersions>,
    /// Under way beside the lane; they end with it.
    vacuums: JoinSet<()>,
}

impl Upkeep {
    pub(crate) fn new(maintenance: Maintenance) -> Self {
        let now = Instant::now();
        let (vacuum_at, relieve_at) = (now + FIRST_VACUUM, now + RELIEVE_EVERY);
        Self { maintenance, vacuum_at, relieve_at, relieved: None, vacuums: JoinSet::new() }
    }

    /// What is due, and no more than a lane may wait for. A failure is told and tried again another time: capture does
    /// not depend on it.
    pub(crate) async fn after_mark(&mut self, table: &mut CapturedTable) {
        let hourly = Instant::now() >= self.vacuum_at;
        let files = if hourly { 2 } else { self.maintenance.small_files };
        if let Err(error) = table.optimize(Compaction::Due { files, bytes: BYTES_AT_ONCE }).await {
            tracing::warn!(table = %table.id(), "files were not put together: {}", chain(&error));
        }
        while self.vacuums.try_join_next().is_some() {}
        let written = self.relieved != Some(table.versions());
        if written && Instant::now() >= self.relieve_at && self.vacuums.is_empty() {
            self.relieve_at = Instant::now() + RELIEVE_EVERY;
            let now = Utc::now().timestamp_micros();
            match table.relieve(self.maintenance.retention, now).await {
                Ok(None) => self.relieved = Some(table.versions()),
                Ok(Some(_)) => {}
                Err(error) => {
                    tracing::warn!(table = %table.id(), "old files were not removed: {}", chain(&error));
                }
            }
        }
        if hourly {
            self.vacuum_at = Instant::now() + VACUUM_EVERY;
            let id = table.id().clone();
            self.vacuum(table, move |done| {
                if let Err(error) = done {
                    tracing::warn!(table = %id, "old files were not removed: {}", chain(&error));
                }
            });
        }
    }

    /// Does what was asked for; the table's changes wait for an optimize, not for a vacuum.
    pub(crate) async fn answer(
        &mut self,
        table: &mut CapturedTable,
        chore: Chore,
        reply: oneshot::Sender<Result<Maintained, LakeError>>,
    ) {
        // Whoever no longer waits needs no answer.
        match chore {
            Chore::Optimize => {
                let _ = reply.send(table.optimize(Compaction::Whole).await.map(Maintained::Optimized));
            }
            Chore::Vacuum => self.vacuum(table, |done| {
                let _ = reply.send(done.map(Maintained::Vacuumed));
            }),
        }
    }

    fn vacuum(
        &mut self,
        table: &CapturedTable,
        then: impl FnOnce(Result<Vacuumed, LakeError>) + Send + 'static,
    ) {
        let vacuum = table.vacuum(self.maintenance.retention, Utc::now().timestamp_micros());
        self.vacuums.spawn(async { then(vacuum.await) });
    }
}

/// Does a chore for one captured table: here if nobody ingests its source, else the ingester is asked, and has
/// `patience` for its answer.
///
/// # Errors
/// If the table is not captured, the lake or the source fails, or the ingester does not answer in time; it may do the
/// chore yet.
pub async fn maintain(
    lake: &Lake,
    control: &Arc<Control>,
    options: &Options,
    table: &TableId,
    chore: Chore,
    patience: Duration,
) -> Result<Maintained, PipelineError> {
    let source = PostgresSource::open(options.postgres.clone()).await?;
    let _claim = match source.claim().await {
        Ok(claim) => claim,
        Err(CdcError::SlotInUse { .. }) => {
            let of = (table.schema.as_str(), table.name.as_str());
            let request = control.request_table(source.name(), of, chore.name(), None).await?;
            let answer = control.wait_table_request(request, patience).await?;
            return Ok(serde_json::from_value(answer)?);
        }
        Err(error) => return Err(error.into()),
    };
    let missing = || PipelineError::NotCaptured { table: table.clone() };
    let schema = source.tables().iter().find(|schema| schema.id == *table).ok_or_else(missing)?;
    let mut captured = CapturedTable::open(lake, &reference(&source), Arc::clone(schema)).await?;
    if captured.durable().is_none() {
        return Err(missing());
    }
    let holder = format!("process {}", std::process::id());
    let lease = control.take_lease(source.name(), &holder, true).await?;
    captured.own(lease.term, lease.taken_over).await?;
    let done = match chore {
        Chore::Optimize => captured.optimize(Compaction::Whole).await.map(Maintained::Optimized),
        Chore::Vacuum => {
            let now = Utc::now().timestamp_micros();
            captured.vacuum(options.maintenance.retention, now).await.map(Maintained::Vacuumed)
        }
    };
    control.release_lease(source.name(), lease.term).await?;
    Ok(done?)
}
