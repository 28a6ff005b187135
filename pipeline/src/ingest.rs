//! The pipeline as a whole: opens source and lake, copies what must be copied, streams, and begins again after a
//! passing failure.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use backon::BackoffBuilder;
use lakeward_cdc::{Offsets, PostgresOptions, PostgresSource, SlotState};
use lakeward_change::{Lsn, StopCause, StoppedTable, TableId, TableSchema};
use lakeward_lakehouse::{Lake, Watermark};
use lakeward_postgres::Control;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    Event, Handle, Observer, PipelineError,
    copies::Copies,
    copy::{Copied, Copying, SLOT_WAIT},
    error::{LONGEST_DELAY, chain, retry_delays},
    handle::Command,
    owner::Owner,
    plan::Begun,
    start::{Origin, Start, decide},
    streaming::{Streaming, Subscribers},
    upkeep::Maintenance,
};

/// An attempt that ran this long was healthy: the waiting time starts over.
const HEALTHY: Duration = Duration::from_secs(60);

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
    /// Tables copied at the same time, and sessions that read their parts.
    pub copy_parallel: usize,
    /// For so long after a table has stopped the source keeps what it missed.
    pub stopped_grace: Duration,
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
    pub(crate) copies: Copies,
    pub(crate) owner: Owner,
    told: HashSet<String>,
    /// Why all is to be copied anew.
    lost: Option<String>,
}

impl Pipeline {
    pub fn new(lake: Arc<Lake>, control: Arc<Control>, options: Options, observer: Observer) -> Self {
        let (handle, commands) = Handle::new();
        Self {
            lake,
            control,
            options,
            observer,
            handle,
            commands,
            subscribers: Vec::new(),
            copies: Copies::default(),
            owner: Owner::default(),
            told: HashSet::new(),
            lost: None,
        }
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until `shutdown`, or until idle if asked to; passing failures are retried without end.
    ///
    /// # Errors
    /// Those that trying again does not mend.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), PipelineError> {
        let ended = self.attempts(&shutdown).await;
        self.owner.release(&self.control).await;
        ended
    }

    async fn attempts(&mut self, shutdown: &CancellationToken) -> Result<(), PipelineError> {
        let mut backoff = retry_delays().build();
        loop {
            let began = std::time::Instant::now();
            let error = match self.attempt(shutdown).await {
                Ok(Ended::Again) if !shutdown.is_cancelled() => {
                    // What a table missed meanwhile is in its copy alone: followers load their state anew.
                    self.subscribers.clear();
                    continue;
                }
                Ok(_) => return Ok(()),
                Err(ref error) if let Some(table) = error.lacks_rows() => {
                    let reason = match error {
                        PipelineError::Source(lost) => lost.to_string(),
                        _ => "a change builds on a row that the lake lacks".to_owned(),
                    };
                    self.copies.want(table.clone(), reason, None);
                    self.subscribers.clear();
                    continue;
                }
                Err(ref error) if let Some(lost) = error.loss() => {
                    self.lost = Some(lost);
                    self.subscribers.clear();
                    continue;
                }
                Err(error) if error.is_retryable() && !shutdown.is_cancelled() => error,
                Err(error) => return Err(error),
            };
            if began.elapsed() > HEALTHY {
                backoff = retry_delays().build();
            }
            let delay = backoff.next().unwrap_or(LONGEST_DELAY);
            (self.observer)(Event::Retrying { reason: chain(&error), seconds: delay.as_secs_f64() });
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    async fn attempt(&mut self, shutdown: &CancellationToken) -> Result<Ended, PipelineError> {
        let begun = tokio::select! {
            () = shutdown.cancelled() => return Ok(Ended::Stopped),
            begun = self.begin() => begun?,
        };
        let streaming = Streaming::begin(self, begun).await?;
        let Self { commands, subscribers, copies, .. } = self;
        streaming.run(commands, subscribers, copies, shutdown).await
    }

    /// Opens source and lake, copies what must be copied before anything can be followed, and says how to go on.
    async fn begin(&mut self) -> Result<Begun, PipelineError> {
        self.lake.probe().await?;
        let mut source = PostgresSource::open(self.options.postgres.clone()).await?;
        let term = self.owner.own(&source, &self.lake, &self.control).await?;
        for table in source.skipped() {
            self.tell_once(Event::Skipped { table: table.id.clone(), reason: table.reason.clone() });
        }
        for table in source.histories() {
            self.tell_once(Event::BronzeOnly { table: table.id.clone(), reason: table.reason.clone() });
        }
        for (table, column) in source.omitted_columns() {
            self.tell_once(Event::ColumnSkipped { table: table.clone(), column: column.clone() });
        }
        if source.tables().is_empty() {
            return Err(nothing_to_capture(&source));
        }
        let copying = Copying {
            lake: Arc::clone(&self.lake),
            options: self.options.clone(),
            observer: Arc::clone(&self.observer),
            term,
        };
        let mut newest = self.lake.latest_watermark(Some(source.name())).await?;
        if let Some(reason) = self.lost.take() {
            (self.observer)(Event::Lost { reason });
            newest = None;
        }
        if source.has_topics() {
            let known = self.known_offsets(&source, newest.as_ref()).await?;
            source.reach(known).await?;
        }
        let slot = source.slot().await?;
        let origin = Origin {
            system_id: source.system_id(),
            timeline: source.timeline(),
            flushed: source.flush_lsn().await?,
            gone: source.gone(),
        };
        match decide(newest.as_ref(), &slot, &origin) {
            Start::Resume => {
                for table in source.tables_without_partitions() {
                    let reason = "its changes did not say in which partition they were".to_owned();
                    self.copies.want(table.clone(), reason, None);
                }
                source.prepare().await?;
            }
            Start::Anew { lost } => {
                if let Some(reason) = lost {
                    (self.observer)(Event::Lost { reason });
                }
                newest = None;
                if source.has_topics() {
                    source.reach(Vec::new()).await?;
                } else {
                    self.copy_all(&source, &slot, &copying).await?;
                }
            }
        }
        loop {
            let SlotState::Present { confirmed, .. } = source.slot().await? else {
                return Err(PipelineError::Stopped("the replication slot"));
            };
            let plan = self.plan(&mut source, newest.as_ref(), confirmed, &copying).await?;
            let alone = newest.is_none() || plan.follow.is_empty();
            if plan.copy.is_empty() || !alone {
                return self.begun(source, plan, newest, confirmed, copying).await;
            }
            // A first copy that did not finish, or the first one with another slot: there is no watermark until all its
            // tables are in.
            let tables: BTreeSet<TableId> = plan.copy.into_keys().collect();
            let copied = copying.clone().anew(tables.clone()).await?;
            let finished = self.copies.conclude(tables, copied);
            finished.tell(&self.control, &self.observer).await;
        }
    }

    /// The watermarks from which the source's topics can perhaps be read on, if its newest one is of theirs.
    async fn known_offsets(
        &self,
        source: &PostgresSource,
        newest: Option<&Watermark>,
    ) -> Result<Vec<(Lsn, Offsets)>, PipelineError> {
        let is_ours = |watermark: &Watermark| watermark.system_id == source.system_id();
        if !newest.is_some_and(is_ours) {
            return Ok(Vec::new());
        }
        let all = self.lake.watermarks(source.name()).await?;
        Ok(all.into_iter().filter(is_ours).map(|watermark| (watermark.lsn, watermark.offsets)).collect())
    }

    /// Copies everything at the snapshot of a new slot, which holds everything after it.
    async fn copy_all(
        &mut self,
        source: &PostgresSource,
        slot: &SlotState,
        copying: &Copying,
    ) -> Result<(), PipelineError> {
        source.prepare().await?;
        let taken_at = source.now().await?;
        match slot {
            SlotState::Missing => {}
            SlotState::Present { lost: true, .. } if source.has_named_slot() => {
                return Err(PipelineError::SlotLost { slot: source.slot_name().to_owned() });
            }
            // A slot of the user's stays: each table is copied at a snapshot beyond it.
            SlotState::Present { .. } if source.has_named_slot() => return Ok(()),
            SlotState::Present { .. } => source.drop_slot().await?,
        }
        let snapshot = source.create_slot(SLOT_WAIT).await?;
        let tables = copying.open_tables(source, None).await?;
        let mut copied = Copied::default();
        copying.at(&snapshot, tables, taken_at, &mut copied).await?;
        copied.unfit.into_iter().for_each(|table| self.stop(table));
        Ok(())
    }

    pub(crate) fn stop(&mut self, table: StoppedTable) {
        if !self.copies.is_halted(&table.id) {
            (self.observer)(Event::Stopped(table.clone()));
            self.copies.halt(table);
        }
    }

    /// Attempts follow each other; what they all find is told once.
    pub(crate) fn tell_once(&mut self, event: Event) {
        if self.told.insert(format!("{event:?}")) {
            (self.observer)(event);
        }
    }
}

/// Why a stream ended without an error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// As it was told to.
    Stopped,
    /// To begin again with other tables.
    Again,
}

pub(crate) fn changed(schema: &TableSchema, difference: &str) -> StoppedTable {
    StoppedTable {
        id: schema.id.clone(),
        reason: format!("its definition is not the lake's: {difference}"),
        cause: StopCause::Definition,
        complete_to: Lsn(0),
    }
}

fn nothing_to_capture(source: &PostgresSource) -> PipelineError {
    let reasons: Vec<String> =
        source.skipped().iter().map(|table| format!("{}: {}", table.id, table.reason)).collect();
    let reasons =
        if reasons.is_empty() { "no table matches the patterns".to_owned() } else { reasons.join("; ") };
    PipelineError::NothingToCapture { source_name: source.name().to_owned(), reasons }
}
