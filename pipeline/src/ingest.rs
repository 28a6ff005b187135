//! The pipeline as a whole: opens source and lake, copies what must be copied, streams, and begins again after a
//! passing failure.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use chrono::Utc;
use lakeward_cdc::{PostgresOptions, PostgresSource, SlotState};
use lakeward_change::{StoppedTable, TableId, TableSchema};
use lakeward_lakehouse::{CapturedTable, Lake, LakeError, SourceRef, Watermark, WatermarkTable};
use lakeward_postgres::Control;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    Event, Handle, Observer, PipelineError,
    copy::copy_all,
    handle::Command,
    start::{Origin, Start, decide},
    streaming::{Streaming, Subscribers},
};

/// An attempt that ran this long was healthy: the waiting time starts over.
const HEALTHY: Duration = Duration::from_secs(60);
/// A new slot waits for every transaction that is open: this long, then it is said who holds it up.
const SLOT_WAIT: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub struct Options {
    pub postgres: PostgresOptions,
    /// A lane writes when it holds this many changes …
    pub flush_rows: usize,
    /// … or this many bytes; all lanes write, and a watermark follows, at this age.
    pub flush_bytes: usize,
    pub flush_age: Duration,
    /// Memory for changes that wait for their commit, in bytes, over all lanes.
    pub memory_bytes: usize,
    /// Tables copied at the same time.
    pub copy_parallel: usize,
    /// End once everything the server had flushed, at the moment the pipeline caught up, is durable.
    pub until_idle: bool,
}

/// Captures one source into one lake.
pub struct Pipeline {
    pub(crate) lake: Arc<Lake>,
    pub(crate) control: Arc<Control>,
    pub(crate) options: Options,
    pub(crate) observer: Observer,
    handle: Handle,
    commands: mpsc::Receiver<Command>,
    subscribers: Subscribers,
}

impl Pipeline {
    pub fn new(lake: Arc<Lake>, control: Arc<Control>, options: Options, observer: Observer) -> Self {
        let (handle, commands) = Handle::new();
        Self { lake, control, options, observer, handle, commands, subscribers: Vec::new() }
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until `shutdown`, or until idle if asked to; passing failures are retried without end.
    ///
    /// # Errors
    /// Those that trying again does not mend.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), PipelineError> {
        let delays = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(250))
            .with_max_delay(Duration::from_secs(15))
            .with_jitter()
            .without_max_times();
        let mut backoff = delays.build();
        loop {
            let began = std::time::Instant::now();
            let error = match self.attempt(&shutdown).await {
                Err(error) if error.is_retryable() && !shutdown.is_cancelled() => error,
                ended => return ended,
            };
            if began.elapsed() > HEALTHY {
                backoff = delays.build();
            }
            let delay = backoff.next().unwrap_or(HEALTHY);
            (self.observer)(Event::Retrying { reason: chain(&error), seconds: delay.as_secs_f64() });
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    async fn attempt(&mut self, shutdown: &CancellationToken) -> Result<(), PipelineError> {
        let source = PostgresSource::open(self.options.postgres.clone()).await?;
        for (table, reason) in source.skipped() {
            (self.observer)(Event::Skipped { table: table.clone(), reason: reason.clone() });
        }
        if source.tables().is_empty() {
            return Err(nothing_to_capture(&source));
        }
        let slot = source.slot().await?;
        if let SlotState::Present { active_pid: Some(pid), .. } = slot {
            return Err(PipelineError::SlotInUse { slot: source.slot_name().to_owned(), pid });
        }
        let (tables, changed) = open_tables(&self.lake, &source).await?;
        let newest = self.lake.latest_watermark(Some(source.name())).await?;
        let origin = Origin {
            system_id: source.system_id(),
            timeline: source.timeline(),
            flushed: source.flush_lsn().await?,
        };
        let next_epoch = tables.iter().filter_map(CapturedTable::epoch).max().map_or(1, |seen| seen + 1);
        let (tables, watermark) = match decide(newest.as_ref(), &slot, &origin, next_epoch) {
            Start::Resume { from: _, epoch } => {
                let watermark = newest.ok_or(PipelineError::Stopped("the start"))?;
                let (tables, watermark) = self.captured(tables, changed, watermark, epoch);
                (tables, Arc::new(watermark))
            }
            Start::Copy { epoch, drop_slot, lost } => {
                if let Some(reason) = lost {
                    (self.observer)(Event::Lost { reason });
                }
                if drop_slot {
                    source.drop_slot().await?;
                }
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    copied = self.first_copy(&source, tables, changed, epoch) => copied?,
                }
            }
        };
        let streaming = Streaming::begin(self, &source, tables, watermark).await?;
        let Self { commands, subscribers, .. } = self;
        streaming.run(commands, subscribers, shutdown).await
    }

    /// Copies everything at a fresh slot's snapshot; the first watermark stands at that snapshot.
    async fn first_copy(
        &self,
        source: &PostgresSource,
        tables: Vec<CapturedTable>,
        changed: Vec<StoppedTable>,
        epoch: i64,
    ) -> Result<(Vec<CapturedTable>, Arc<Watermark>), PipelineError> {
        for table in &changed {
            (self.observer)(Event::Stopped(table.clone()));
        }
        source.prepare().await?;
        let snapshot = source.create_slot(SLOT_WAIT).await?;
        let tables = copy_all(&snapshot, tables, epoch, self.options.copy_parallel, &self.observer).await?;
        let watermark = Arc::new(Watermark {
            source: source.name().to_owned(),
            system_id: source.system_id().to_owned(),
            timeline: source.timeline(),
            epoch,
            lsn: snapshot.lsn(),
            stream_time: Some(Utc::now().timestamp_micros()),
            reason: "copy".to_owned(),
            tables: tables.iter().map(watermark_table).collect(),
            stopped: changed,
        });
        self.lake.append_watermark(&watermark).await?;
        if snapshot.nulled() > 0 {
            (self.observer)(Event::Nulled { values: snapshot.nulled() });
        }
        (self.observer)(Event::Committed(Arc::clone(&watermark)));
        Ok((tables, watermark))
    }

    /// The tables that the watermark's generation holds, and the watermark without those that cannot go on: what has
    /// another definition now, or is gone, is stopped; what came later is said to be left out.
    fn captured(
        &self,
        tables: Vec<CapturedTable>,
        mut changed: Vec<StoppedTable>,
        mut watermark: Watermark,
        epoch: i64,
    ) -> (Vec<CapturedTable>, Watermark) {
        let (captured, left_out): (Vec<_>, Vec<_>) = tables.into_iter().partition(|table| {
            table.durable().is_some_and(|durable| durable.epoch == epoch)
                && watermark.tables.contains_key(table.id())
        });
        for table in left_out {
            if watermark.stopped.iter().all(|stopped| stopped.id != *table.id()) {
                let reason = "it is newer than the first copy: `lakeward source drop`, then `lakeward ingest` \
                              copies anew";
                (self.observer)(Event::Skipped { table: table.id().clone(), reason: reason.to_owned() });
            }
        }
        let gone = watermark.tables.extract_if(.., |id, _| captured.iter().all(|table| table.id() != id));
        for (id, _) in gone {
            let told =
                changed.iter().position(|table| table.id == id).map(|found| changed.swap_remove(found));
            let gone = || "the source has no such table any more, or it is no longer chosen".to_owned();
            watermark.stopped.push(told.unwrap_or_else(|| StoppedTable { id, reason: gone() }));
        }
        for table in &watermark.stopped {
            (self.observer)(Event::Stopped(table.clone()));
        }
        (captured, watermark)
    }
}

/// What the watermark records of a table.
fn watermark_table(table: &CapturedTable) -> (TableId, WatermarkTable) {
    (table.id().clone(), table.watermark_entry())
}

/// The tables as the lake has them; those apart that the lake has with another definition.
async fn open_tables(
    lake: &Lake,
    source: &PostgresSource,
) -> Result<(Vec<CapturedTable>, Vec<StoppedTable>), PipelineError> {
    let reference = SourceRef { name: source.name().to_owned(), system_id: source.system_id().to_owned() };
    let (mut tables, mut others) = (Vec::new(), Vec::new());
    for schema in source.tables() {
        match CapturedTable::open(lake, &reference, Arc::clone(schema)).await {
            Ok(table) => tables.push(table),
            Err(LakeError::SchemaChanged { difference, .. }) => others.push(changed(schema, &difference)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((tables, others))
}

pub(crate) fn changed(schema: &TableSchema, difference: &str) -> StoppedTable {
    StoppedTable { id: schema.id.clone(), reason: format!("its definition is not the lake's: {difference}") }
}

fn nothing_to_capture(source: &PostgresSource) -> PipelineError {
    let reasons: Vec<String> =
        source.skipped().iter().map(|(table, reason)| format!("{table}: {reason}")).collect();
    let reasons =
        if reasons.is_empty() { "no table matches the patterns".to_owned() } else { reasons.join("; ") };
    PipelineError::NothingToCapture { source_name: source.name().to_owned(), reasons }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
