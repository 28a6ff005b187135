//! The pipeline as a whole: opens source and lake, copies what must be copied, streams, and begins again after a
//! passing failure.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use backon::BackoffBuilder;
use lakeward_cdc::{CdcError, Claim, PostgresOptions, PostgresSource, SlotState};
use lakeward_change::{Evolution, Lsn, StopCause, StoppedTable, TableId, TableSchema};
use lakeward_lakehouse::{CapturedTable, Lake, LakeError, Watermark};
use lakeward_postgres::{Control, Error};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Event, Handle, Observer, PipelineError,
    copies::Copies,
    copy::{Copied, Copying, SLOT_WAIT, reference},
    error::{LONGEST_DELAY, chain, retry_delays},
    handle::Command,
    start::{Origin, Start, Step, complete_to, decide, step},
    streaming::{Streaming, Subscribers},
    upkeep::Maintenance,
};

/// An attempt that ran this long was healthy: the waiting time starts over.
const HEALTHY: Duration = Duration::from_secs(60);
/// How long the control database may take to take the lease back.
const PATIENCE: Duration = Duration::from_secs(2);

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
    /// The term of our ownership, and of which source.
    pub(crate) term: Option<i64>,
    source_name: Option<String>,
    /// Kept from attempt to attempt: nobody else may slip in between.
    claim: Option<Claim>,
    told: HashSet<String>,
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
            term: None,
            source_name: None,
            claim: None,
            told: HashSet::new(),
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
        if let (Some(name), Some(term)) = (&self.source_name, self.term) {
            // One that is not given back is taken over, which costs a commit a table.
            let _ = timeout(PATIENCE, self.control.release_lease(name, term)).await;
        }
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
        let mut source = PostgresSource::open(self.options.postgres.clone()).await?;
        let term = self.own(&source).await?;
        for table in source.skipped() {
            self.tell_once(Event::Skipped { table: table.id.clone(), reason: table.reason.clone() });
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
        let slot = source.slot().await?;
        let origin = Origin {
            system_id: source.system_id(),
            timeline: source.timeline(),
            flushed: source.flush_lsn().await?,
        };
        match decide(newest.as_ref(), &slot, &origin) {
            Start::Resume => source.prepare().await?,
            Start::Anew { lost } => {
                if let Some(reason) = lost {
                    (self.observer)(Event::Lost { reason });
                }
                newest = None;
                self.copy_all(&source, &slot, &copying).await?;
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

    /// Takes the source's lease, once, as whoever has claimed its slot; gives the term.
    async fn own(&mut self, source: &PostgresSource) -> Result<i64, PipelineError> {
        if let Some(term) = self.term
            && let Err(lost @ Error::LeaseLost { .. }) = self.control.renew_lease(source.name(), term).await
        {
            return Err(lost.into());
        }
        if !self.claim.as_ref().is_some_and(Claim::holds) {
            self.claim = Some(self.claim_slot(source).await?);
        }
        if let Some(term) = self.term {
            return Ok(term);
        }
        let holder = format!("process {}", std::process::id());
        // The claim says that no other owner's session lives.
        let lease = self.control.take_lease(source.name(), &holder, true).await?;
        if lease.taken_over {
            let reference = reference(source);
            for schema in source.tables() {
                match CapturedTable::open(&self.lake, &reference, Arc::clone(schema)).await {
                    Ok(mut table) => table.own(lease.term, true).await?,
                    Err(LakeError::Column { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.term = Some(lease.term);
        self.source_name = Some(source.name().to_owned());
        Ok(lease.term)
    }

    /// Takes the slot's claim, also from a process that stands still: such a one keeps its session. Once the server has
    /// ended its reader, and nobody renews its lease, it is replaced.
    async fn claim_slot(&self, source: &PostgresSource) -> Result<Claim, PipelineError> {
        let (slot, pid) = match source.claim().await {
            Err(CdcError::SlotInUse { slot, pid }) => (slot, pid),
            claimed => return Ok(claimed?),
        };
        let unread = matches!(source.slot().await?, SlotState::Present { active_pid: None, .. });
        if !unread || !self.control.lease_is_free(source.name()).await? {
            return Err(CdcError::SlotInUse { slot, pid }.into());
        }
        source.evict(pid).await?;
        Ok(source.claim().await?)
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

    /// What to do with each table.
    async fn plan(
        &mut self,
        source: &mut PostgresSource,
        newest: Option<&Watermark>,
        confirmed: Lsn,
        copying: &Copying,
    ) -> Result<Plan, PipelineError> {
        let mut plan = Plan::default();
        for mut table in copying.open_tables(source, None).await? {
            let id = table.id().clone();
            if self.copies.copies(&id) || self.copies.is_halted(&id) {
                continue;
            }
            let complete = complete_to(&id, table.durable(), newest);
            let policy = source.policy(&id);
            let next = match self.copies.wanted(&id) {
                Some(reason) => Step::Copy(reason.clone()),
                None => step(policy, table.evolution(), complete, confirmed),
            };
            let stopped = |reason: String| StoppedTable {
                id: id.clone(),
                reason,
                cause: StopCause::Definition,
                complete_to: complete.unwrap_or_default(),
            };
            match next {
                Step::Follow(at) => plan.follow.push((table, at)),
                Step::Extend(at) => {
                    table.extend().await?;
                    plan.follow.push((table, at));
                }
                Step::Copy(reason) => drop(plan.copy.insert(id, reason)),
                Step::Stop(reason) => self.stop(stopped(format!("its definition changed: {reason}"))),
                Step::Narrow(reason) => {
                    match self.narrow(source, table, complete.zip(Some(confirmed))).await? {
                        Some(followed) => plan.follow.push(followed),
                        None => self.stop(stopped(format!("its definition changed: {reason}"))),
                    }
                }
            }
        }
        if let Some(watermark) = newest {
            self.missing(source, watermark, &plan)?;
        }
        Ok(plan)
    }

    /// The table with the columns that the lake has of it; `None` if that does not make it whole.
    async fn narrow(
        &self,
        source: &mut PostgresSource,
        table: CapturedTable,
        complete: Option<(Lsn, Lsn)>,
    ) -> Result<Option<(CapturedTable, Lsn)>, PipelineError> {
        let stored = self.lake.definition(table.silver_path()).await?;
        let (Some((complete, confirmed)), Some(stored)) = (complete, stored) else { return Ok(None) };
        if complete < confirmed || !source.ignore_other_columns(&stored) {
            return Ok(None);
        }
        let schema = source.tables().iter().find(|schema| schema.id == *table.id()).cloned();
        let Some(schema) = schema else { return Ok(None) };
        let mut narrowed = CapturedTable::open(&self.lake, &reference(source), schema).await?;
        if let Some(term) = self.term {
            narrowed.own(term, false).await?;
        }
        Ok((*narrowed.evolution() == Evolution::Same).then_some((narrowed, complete)))
    }

    /// Stops the tables of the watermark that cannot be captured any more; those that are gone just leave it.
    ///
    /// # Errors
    /// A table could go on, but is not chosen any more, or we may not: then a start would lose it for good.
    fn missing(
        &mut self,
        source: &PostgresSource,
        watermark: &Watermark,
        plan: &Plan,
    ) -> Result<(), PipelineError> {
        let mut left_out = Vec::new();
        for id in watermark.tables.keys() {
            let planned = plan.copy.contains_key(id) || plan.follow.iter().any(|(table, _)| table.id() == id);
            if planned || self.copies.copies(id) || self.copies.is_halted(id) {
                continue;
            }
            let reason = if let Some(skipped) = source.skipped().iter().find(|table| table.id == *id) {
                if !skipped.by_definition {
                    left_out.push(format!("{id} ({})", skipped.reason));
                    continue;
                }
                skipped.reason.clone()
            } else if source.is_unselected(id) {
                left_out.push(id.to_string());
                continue;
            } else {
                let reason = "the source has no such table any more; the lake keeps its last rows".to_owned();
                self.tell_once(Event::Skipped { table: id.clone(), reason });
                continue;
            };
            let (id, complete_to) = (id.clone(), watermark.lsn);
            self.stop(StoppedTable { id, reason, cause: StopCause::Definition, complete_to });
        }
        if left_out.is_empty() { Ok(()) } else { Err(PipelineError::LeftOut { tables: left_out }) }
    }

    /// Begins the copies that run beside the stream, and says where that begins.
    async fn begun(
        &mut self,
        source: PostgresSource,
        plan: Plan,
        newest: Option<Watermark>,
        confirmed: Lsn,
        copying: Copying,
    ) -> Result<Begun, PipelineError> {
        let watermark = match newest {
            Some(watermark) => watermark,
            None => Watermark {
                source: source.name().to_owned(),
                system_id: source.system_id().to_owned(),
                timeline: source.timeline(),
                epoch: 0,
                lsn: confirmed,
                stream_time: Some(source.now().await?),
                reason: "copy".to_owned(),
                tables: BTreeMap::new(),
                stopped: Vec::new(),
            },
        };
        self.copies.release();
        let from = plan.follow.iter().map(|(_, complete)| *complete).min().unwrap_or(watermark.lsn);
        let from =
            self.copies.hold(self.options.stopped_grace).map_or(from, |hold| hold.min(from)).max(confirmed);
        // Tables that stand beyond the watermark are ahead of the others until the stream is there.
        let not_before = plan.follow.iter().map(|(table, _)| table.reached()).fold(watermark.lsn, Lsn::max);
        if !plan.copy.is_empty() {
            for (table, reason) in &plan.copy {
                (self.observer)(Event::Copying { table: table.clone(), reason: reason.clone() });
            }
            self.copies.begin(copying, plan.copy, from);
        }
        Ok(Begun {
            source,
            tables: plan.follow.into_iter().map(|(table, _)| table).collect(),
            watermark: Arc::new(watermark),
            from,
            not_before,
        })
    }

    fn stop(&mut self, table: StoppedTable) {
        if !self.copies.is_halted(&table.id) {
            (self.observer)(Event::Stopped(table.clone()));
            self.copies.halt(table);
        }
    }

    /// Attempts follow each other; what they all find is told once.
    fn tell_once(&mut self, event: Event) {
        if self.told.insert(format!("{event:?}")) {
            (self.observer)(event);
        }
    }
}

/// What to do with the source's tables.
#[derive(Default)]
struct Plan {
    /// Tables, and up to where they are complete.
    follow: Vec<(CapturedTable, Lsn)>,
    /// Tables, and why they are copied.
    copy: BTreeMap<TableId, String>,
}

/// How a stream begins.
pub(crate) struct Begun {
    pub(crate) source: PostgresSource,
    pub(crate) tables: Vec<CapturedTable>,
    /// The newest one, or what it would be.
    pub(crate) watermark: Arc<Watermark>,
    pub(crate) from: Lsn,
    /// No cut can be made earlier.
    pub(crate) not_before: Lsn,
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
