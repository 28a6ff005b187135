//! The pipeline as a whole: opens source and lake, copies what must be copied, streams, and begins again after a
//! passing failure.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use lakeward_cdc::{PostgresOptions, PostgresSource, SlotState};
use lakeward_change::{StoppedTable, TableId, TableSchema};
use lakeward_lakehouse::{CapturedTable, Lake, LakeError, SourceRef, Watermark};
use lakeward_postgres::Control;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    Event, Handle, Observer, PipelineError,
    copy::copy_all,
    error::chain,
    handle::Command,
    start::{Origin, Start, decide},
    streaming::{Streaming, Subscribers},
    upkeep::Maintenance,
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
    pub maintenance: Maintenance,
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
        let (source, tables, watermark) = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            begun = self.begin() => begun?,
        };
        let streaming = Streaming::begin(self, &source, tables, watermark).await?;
        let Self { commands, subscribers, .. } = self;
        streaming.run(commands, subscribers, shutdown).await
    }

    /// Opens source and lake and copies what must be copied: from the watermark on, all is in the stream.
    async fn begin(&self) -> Result<(PostgresSource, Vec<CapturedTable>, Arc<Watermark>), PipelineError> {
        let source = PostgresSource::open(self.options.postgres.clone()).await?;
        source.claim().await?;
        for table in source.skipped() {
            (self.observer)(Event::Skipped { table: table.id.clone(), reason: table.reason.clone() });
        }
        for (table, column) in source.omitted_columns() {
            (self.observer)(Event::ColumnSkipped { table: table.clone(), column: column.clone() });
        }
        if source.tables().is_empty() {
            return Err(nothing_to_capture(&source));
        }
        let slot = source.slot().await?;
        let (tables, changed) = self.open_tables(&source).await?;
        let newest = self.lake.latest_watermark(Some(source.name())).await?;
        let origin = Origin {
            system_id: source.system_id(),
            timeline: source.timeline(),
            flushed: source.flush_lsn().await?,
        };
        let next_epoch = tables.iter().filter_map(CapturedTable::epoch).max().map_or(1, |seen| seen + 1);
        let (tables, watermark) = match (decide(newest.as_ref(), &slot, &origin, next_epoch), newest) {
            (Start::Resume, Some(watermark)) => self.captured(&source, tables, changed, watermark)?,
            (Start::Resume, None) => return Err(PipelineError::Stopped("the start")),
            (Start::Copy { epoch, lost }, _) => {
                if let Some(reason) = lost {
                    (self.observer)(Event::Lost { reason });
                }
                self.first_copy(&source, &slot, tables, changed, epoch).await?
            }
        };
        Ok((source, tables, Arc::new(watermark)))
    }

    /// Copies everything at a snapshot; the first watermark stands there, and the slot holds everything after it.
    async fn first_copy(
        &self,
        source: &PostgresSource,
        slot: &SlotState,
        tables: Vec<CapturedTable>,
        mut stopped: Vec<StoppedTable>,
        epoch: i64,
    ) -> Result<(Vec<CapturedTable>, Watermark), PipelineError> {
        source.prepare().await?;
        let taken_at = source.now().await?;
        let snapshot = match slot {
            SlotState::Missing => source.create_slot(SLOT_WAIT).await?,
            SlotState::Present { lost: true, .. } if source.has_named_slot() => {
                return Err(PipelineError::SlotLost { slot: source.slot_name().to_owned() });
            }
            // A slot of the user's stays; what it holds from before the snapshot is passed over.
            SlotState::Present { .. } if source.has_named_slot() => {
                source.temporary_snapshot(SLOT_WAIT).await?
            }
            SlotState::Present { .. } => {
                source.drop_slot().await?;
                source.create_slot(SLOT_WAIT).await?
            }
        };
        let parallel = self.options.copy_parallel;
        let (tables, unfit) = copy_all(&snapshot, tables, epoch, taken_at, parallel, &self.observer).await?;
        stopped.extend(unfit);
        for table in &stopped {
            (self.observer)(Event::Stopped(table.clone()));
        }
        let watermark = Watermark {
            source: source.name().to_owned(),
            system_id: source.system_id().to_owned(),
            timeline: source.timeline(),
            epoch,
            lsn: snapshot.lsn(),
            stream_time: Some(taken_at),
            reason: "copy".to_owned(),
            tables: tables.iter().map(|table| (table.id().clone(), table.watermark_entry())).collect(),
            stopped,
        };
        self.lake.append_watermark(&watermark).await?;
        if snapshot.nulled() > 0 {
            (self.observer)(Event::Nulled { values: snapshot.nulled() });
        }
        (self.observer)(Event::Committed(Arc::new(watermark.clone())));
        Ok((tables, watermark))
    }

    /// The tables that the watermark's generation holds, and the watermark without those that cannot go on: what has
    /// another definition now, or is gone, is stopped; what came later is said to be left out.
    ///
    /// # Errors
    /// A table could go on, but is not chosen any more, or we may not: then a start would lose it for good.
    fn captured(
        &self,
        source: &PostgresSource,
        tables: Vec<CapturedTable>,
        changed: Vec<StoppedTable>,
        mut watermark: Watermark,
    ) -> Result<(Vec<CapturedTable>, Watermark), PipelineError> {
        let (captured, new): (Vec<_>, Vec<_>) = tables.into_iter().partition(|table| {
            table.durable().is_some_and(|durable| durable.epoch == watermark.epoch)
                && watermark.tables.contains_key(table.id())
        });
        for table in new.iter().filter(|table| watermark.stopped.iter().all(|old| old.id != *table.id())) {
            let reason =
                "it is newer than the first copy: `lakeward source drop`, then `lakeward ingest` copies anew";
            (self.observer)(Event::Skipped { table: table.id().clone(), reason: reason.to_owned() });
        }
        let mut left_out = Vec::new();
        let missing: Vec<TableId> = watermark
            .tables
            .keys()
            .filter(|id| captured.iter().all(|table| table.id() != *id))
            .cloned()
            .collect();
        for id in missing {
            let reason = if let Some(changed) = changed.iter().find(|table| table.id == id) {
                changed.reason.clone()
            } else if let Some(skipped) = source.skipped().iter().find(|table| table.id == id) {
                if !skipped.by_definition {
                    left_out.push(format!("{id} ({})", skipped.reason));
                    continue;
                }
                skipped.reason.clone()
            } else if source.is_unselected(&id) {
                left_out.push(id.to_string());
                continue;
            } else {
                "the source has no such table any more".to_owned()
            };
            watermark.tables.remove(&id);
            watermark.stopped.push(StoppedTable { id, reason });
        }
        if !left_out.is_empty() {
            return Err(PipelineError::LeftOut { tables: left_out });
        }
        for table in &watermark.stopped {
            (self.observer)(Event::Stopped(table.clone()));
        }
        Ok((captured, watermark))
    }

    /// The tables as the lake has them; those apart that the lake has with another definition.
    async fn open_tables(
        &self,
        source: &PostgresSource,
    ) -> Result<(Vec<CapturedTable>, Vec<StoppedTable>), PipelineError> {
        let reference =
            SourceRef { name: source.name().to_owned(), system_id: source.system_id().to_owned() };
        let (mut tables, mut others) = (Vec::new(), Vec::new());
        for schema in source.tables() {
            match CapturedTable::open(&self.lake, &reference, Arc::clone(schema)).await {
                Ok(table) => tables.push(table),
                Err(LakeError::SchemaChanged { difference, .. }) => others.push(changed(schema, &difference)),
                Err(error @ LakeError::Column { .. }) => {
                    (self.observer)(Event::Skipped { table: schema.id.clone(), reason: error.to_string() });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok((tables, others))
    }
}

pub(crate) fn changed(schema: &TableSchema, difference: &str) -> StoppedTable {
    StoppedTable { id: schema.id.clone(), reason: format!("its definition is not the lake's: {difference}") }
}

fn nothing_to_capture(source: &PostgresSource) -> PipelineError {
    let reasons: Vec<String> =
        source.skipped().iter().map(|table| format!("{}: {}", table.id, table.reason)).collect();
    let reasons =
        if reasons.is_empty() { "no table matches the patterns".to_owned() } else { reasons.join("; ") };
    PipelineError::NothingToCapture { source_name: source.name().to_owned(), reasons }
}
