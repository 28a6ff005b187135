//! The stream at work: chunks into lanes, cuts, confirmations.

use std::{future::pending, sync::Arc, time::Duration};

use chrono::Utc;
use futures::future::{BoxFuture, OptionFuture};
use lakeward_cdc::{
    Boundary, CdcError, ChangeStream, Chunk, Offsets, PostgresSource, SchemaPolicy, SlotState,
};
use lakeward_change::{Lsn, StopCause, StoppedTable, TableId};
use lakeward_lakehouse::{CapturedTable, Lake, Watermark, WatermarkTable};
use lakeward_postgres::{Control, TableRequest};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Event, Observer, Options, Pipeline, PipelineError,
    budget::Budget,
    cadence::Cadence,
    copies::Copies,
    errand::Errands,
    handle::Command,
    ingest::Ended,
    lane::Limits,
    lanes::Lanes,
    plan::Begun,
    progress::Progress,
    request::{Request, Requests, answer_table},
    telemetry::{self, Lag},
};

/// How often ages and requests are looked at.
const TICK: Duration = Duration::from_millis(100);
/// A source without changes still moves its slot forward, this often at most.
const IDLE_WATERMARK: Duration = Duration::from_secs(60);
/// How often the source's catalog is compared with what is captured; also whenever the stream gives reason to.
const DEFINITIONS: Duration = Duration::from_secs(5);

pub(crate) type Subscribers = Vec<mpsc::Sender<Arc<Chunk>>>;

pub(crate) struct Streaming {
    source: PostgresSource,
    lake: Arc<Lake>,
    control: Arc<Control>,
    observer: Observer,
    options: Options,
    requests: Requests,
    stream: Box<dyn ChangeStream>,
    lanes: Lanes,
    /// Everything that committed before this has been routed.
    routed: Lsn,
    /// Where topics go on there; `None` as long as that is not known.
    offsets: Option<Arc<Offsets>>,
    /// The stream stands inside a transaction.
    open: bool,
    cadence: Cadence,
    stream_time: Option<i64>,
    /// Tables stand beyond: no cut can be made earlier.
    not_before: Lsn,
    /// The tables are not those of the newest watermark.
    unmarked: bool,
    /// Other tables are to be followed: the stream begins again.
    again: bool,
    errands: Errands,
    /// When the source's definitions were looked at.
    looked_at: Instant,
    /// Values that became null and were told of.
    nulled: u64,
    lag: Lag,
    watermark: Arc<Watermark>,
    watermark_at: Instant,
    cut: Option<BoxFuture<'static, Result<Arc<Watermark>, PipelineError>>>,
    /// Who waits for the next cut, and for the one under way.
    next_waiters: Vec<oneshot::Sender<Arc<Watermark>>>,
    cut_waiters: Vec<oneshot::Sender<Arc<Watermark>>>,
    /// Subscriptions begin between transactions.
    joining: Vec<(mpsc::Sender<Arc<Chunk>>, oneshot::Sender<()>)>,
    idle: Idle,
}

/// How far a run that ends when idle has come.
enum Idle {
    /// Runs until told to stop.
    Never,
    /// Not caught up yet with what the server had when the stream began.
    CatchingUp(Lsn),
    /// Caught up; ends when this is durable.
    Draining(Lsn),
}

impl Streaming {
    pub(crate) async fn begin(pipeline: &Pipeline, begun: Begun) -> Result<Self, PipelineError> {
        let Begun { source, tables, watermark, from, not_before } = begun;
        let options = pipeline.options.clone();
        let maintenance = options.maintenance;
        let limits = Limits { rows: options.flush_rows, bytes: options.flush_bytes, maintenance };
        let idle = if options.until_idle { Idle::CatchingUp(source.flush_lsn().await?) } else { Idle::Never };
        let position = |table: &CapturedTable| Some((table.id().clone(), table.durable()?));
        let stream = source.stream(from, &tables.iter().filter_map(position).collect()).await?;
        let unmarked = tables.len() != watermark.tables.len()
            || tables.iter().any(|table| {
                let entry = watermark.tables.get(table.id());
                entry.map(|entry| entry.epoch) != table.epoch()
            });
        let budget = Budget::new(options.memory_bytes);
        let lanes = Lanes::begin(tables, limits, budget, Arc::clone(&pipeline.observer));
        telemetry::describe();
        (pipeline.observer)(Event::Streaming { from });
        Ok(Self {
            lake: Arc::clone(&pipeline.lake),
            control: Arc::clone(&pipeline.control),
            observer: Arc::clone(&pipeline.observer),
            requests: Requests::new(Arc::clone(&pipeline.control), source.name(), pipeline.owner.term()),
            source,
            stream,
            lanes,
            routed: from,
            offsets: None,
            not_before,
            unmarked,
            open: false,
            cadence: Cadence::new(options.flush_age, Instant::now()),
            stream_time: watermark.stream_time,
            again: false,
            errands: Errands::default(),
            looked_at: Instant::now(),
            nulled: 0,
            lag: Lag::default(),
            watermark,
            watermark_at: Instant::now(),
            cut: None,
            next_waiters: Vec::new(),
            cut_waiters: Vec::new(),
            joining: Vec::new(),
            idle,
            options,
        })
    }

    /// Streams until told to stop, or idle. On a stop between two transactions what has been read becomes durable first;
    /// a transaction that is open then is read again at the next start.
    pub(crate) async fn run(
        mut self,
        commands: &mut mpsc::Receiver<Command>,
        subscribers: &mut Subscribers,
        copies: &mut Copies,
        shutdown: &CancellationToken,
    ) -> Result<Ended, PipelineError> {
        let streamed = self.stream(commands, subscribers, copies, shutdown).await;
        let ended = match streamed {
            Ok(ended) => ended,
            Err(error) => {
                self.lanes.give_up().await;
                return Err(error);
            }
        };
        self.lanes.end().await?;
        self.stream.close().await;
        Ok(ended)
    }

    async fn stream(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        subscribers: &mut Subscribers,
        copies: &mut Copies,
        shutdown: &CancellationToken,
    ) -> Result<Ended, PipelineError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.again && self.cut.is_none() {
                // What has been read and not marked is read again: the tables know what they have.
                return Ok(Ended::Again);
            }
            if self.ends(shutdown.is_cancelled(), copies.is_running()) {
                return Ok(Ended::Stopped);
            }
            if !self.open {
                for (sender, reply) in self.joining.drain(..) {
                    subscribers.push(sender);
                    // A subscriber that has gone is dropped at the next chunk.
                    let _ = reply.send(());
                }
            }
            if let Some(reason) = self.cut_due(shutdown.is_cancelled()) {
                self.begin_cut(reason, copies).await?;
            }
            let full = self.lanes.budget.is_full();
            let reading =
                !full && !self.again && !self.requests.hold_reading(self.open) && !shutdown.is_cancelled();
            let (cut, budget) = (self.cut.as_mut(), Arc::clone(&self.lanes.budget));
            tokio::select! {
                biased;
                Some(made) = OptionFuture::from(cut) => match made {
                    Ok(watermark) => self.finish_cut(watermark, copies).await?,
                    Err(PipelineError::Stopped(_)) => return Err(self.lanes.failure().await),
                    Err(error) => return Err(error),
                },
                Some(error) = self.lanes.failed() => return Err(error),
                (request, answer) = self.errands.answered() => {
                    answer_table(&self.control, request, answer.as_ref().map_err(String::as_str)).await;
                }
                finished = copies.finished() => {
                    finished?.tell(&self.control, &self.observer).await;
                    self.again = true;
                }
                Some(command) = commands.recv() => self.obey(command),
                () = shutdown.cancelled(), if !shutdown.is_cancelled() => {}
                _ = tick.tick() => self.look_around(copies).await?,
                () = budget.has_room(), if full => {}
                chunk = next_chunk(&mut *self.stream, reading) => match chunk {
                    Ok(chunk) => self.route(chunk, subscribers, copies).await?,
                    // The catalog knows by now what it is.
                    Err(PipelineError::Source(CdcError::NewRelation { .. })) => self.again = true,
                    Err(error) => return Err(error),
                },
            }
            if !full && self.lanes.budget.must_flush() {
                self.lanes.flush().await?;
            }
        }
    }

    /// Whether the loop is done: nothing is under way, and nothing whole is left to make durable.
    fn ends(&self, stopping: bool, copying: bool) -> bool {
        if self.cut.is_some() {
            return false;
        }
        match self.idle {
            Idle::Draining(target) if self.watermark.lsn >= target && !self.unmarked && !copying => true,
            _ => stopping && (self.open || !self.cadence.is_dirty()),
        }
    }

    /// Why a cut should begin now, if one should: never inside a transaction, one at a time.
    fn cut_due(&self, stopping: bool) -> Option<&'static str> {
        if self.open || self.cut.is_some() || self.again || self.routed < self.not_before {
            return None;
        }
        if self.offsets.is_none() && self.source.has_topics() {
            return None;
        }
        if self.unmarked {
            return Some("copy");
        }
        if self.requests.cut_at().is_some_and(|lsn| self.routed >= lsn) {
            return Some("requested");
        }
        if !self.next_waiters.is_empty() {
            return Some("requested");
        }
        let draining = matches!(self.idle, Idle::Draining(target) if self.routed >= target);
        if self.cadence.is_dirty() {
            return (stopping || draining || self.cadence.is_due(Instant::now())).then_some("cut");
        }
        let waited = self.watermark_at.elapsed() >= IDLE_WATERMARK;
        (self.routed > self.watermark.lsn && (draining || waited)).then_some("idle")
    }

    /// Marks every lane at this point of the stream; the rest happens while reading goes on.
    async fn begin_cut(&mut self, reason: &'static str, copies: &Copies) -> Result<(), PipelineError> {
        let replies = self.lanes.mark().await?;
        self.cadence.begin_cut(Instant::now());
        self.lanes.behind.begin_cut();
        self.cut_waiters.append(&mut self.next_waiters);
        self.requests.begin_cut(self.routed);
        let mut watermark = Watermark::clone(&self.watermark);
        watermark.lsn = self.routed;
        watermark.offsets = self.offsets.as_deref().cloned().unwrap_or_default();
        watermark.stream_time = self.stream_time;
        watermark.stopped = copies.stopped();
        watermark.tables.retain(|id, _| self.lanes.contains(id));
        reason.clone_into(&mut watermark.reason);
        self.cut = Some(Box::pin(complete_cut(Arc::clone(&self.lake), watermark, replies)));
        Ok(())
    }

    /// The watermark is durable: now, and only now, the source may forget.
    async fn finish_cut(&mut self, watermark: Arc<Watermark>, copies: &Copies) -> Result<(), PipelineError> {
        self.cut = None;
        self.cadence.finish_cut(Instant::now());
        telemetry::cut(&watermark, self.lanes.behind.finish_cut());
        let hold = copies.hold(self.options.stopped_grace);
        lakeward_faults::failpoint("confirm_sent").await?;
        let confirmed = hold.map_or(watermark.lsn, |hold| hold.min(watermark.lsn));
        self.stream.confirm(confirmed, Some(&watermark.offsets));
        self.unmarked = false;
        self.watermark_at = Instant::now();
        self.watermark = Arc::clone(&watermark);
        for waiter in self.cut_waiters.drain(..) {
            // Whoever no longer waits needs no answer.
            let _ = waiter.send(Arc::clone(&watermark));
        }
        if self.requests.answer(&watermark).await {
            self.stream.stop_before(None);
        }
        (self.observer)(Event::Committed(watermark));
        Ok(())
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Cut(reply) => self.next_waiters.push(reply),
            Command::Subscribe(sender, reply) => self.joining.push((sender, reply)),
        }
    }

    async fn look_around(&mut self, copies: &mut Copies) -> Result<(), PipelineError> {
        if let Idle::CatchingUp(target) = self.idle
            && !self.open
            && self.routed >= target
        {
            self.idle = Idle::Draining(self.source.flush_lsn().await?);
        }
        self.requests.renew_lease().await?;
        for request in self.requests.table_requests().await {
            self.obey_request(request, copies).await;
        }
        if self.looked_at.elapsed() >= DEFINITIONS || self.stream.take_described_anew() {
            self.look_at_definitions(copies).await?;
        }
        match self.requests.poll(self.routed, self.open).await {
            Request::Nothing => {}
            Request::CutAt(lsn) => self.stream.stop_before(Some(lsn)),
            Request::Withdrawn => self.stream.stop_before(None),
        }
        let budget = &self.lanes.budget;
        telemetry::memory(budget.used(), self.options.memory_bytes, budget.is_full());
        let behind = self.lanes.behind.tables(Instant::now());
        telemetry::behind(self.lanes.tables(), &behind);
        let progress = || Progress {
            pid: std::process::id(),
            read: self.routed.to_string(),
            durable: self.watermark.lsn.to_string(),
            buffered_bytes: budget.used(),
            memory_bytes: self.options.memory_bytes,
            waiting: budget.is_full().then(|| {
                "memory is at its limit ([ingest] memory_mib): what is held must be written first".to_owned()
            }),
            behind,
        };
        self.requests.report(progress).await;
        Ok(())
    }

    /// Whatever came, went or changed in the source's catalog is seen to by a new beginning.
    async fn look_at_definitions(&mut self, copies: &Copies) -> Result<(), PipelineError> {
        self.looked_at = Instant::now();
        if !self.source.has_topics()
            && !matches!(self.source.slot().await?, SlotState::Present { active_pid: Some(_), .. })
        {
            // The server has ended the session, and the news did not get through.
            return Err(CdcError::Ended.into());
        }
        self.lag.seen(self.source.flush_lsn().await?, self.watermark.lsn, self.looked_at);
        let changed = self.source.changed_tables().await?;
        self.again |= changed.iter().any(|table| !copies.copies(table));
        Ok(())
    }

    async fn obey_request(&mut self, request: TableRequest, copies: &mut Copies) {
        if copies.has_request(request.id) || self.errands.is_running(request.id) {
            return;
        }
        let (schema, name) = request.table.clone();
        let table = TableId { schema, name };
        let known = self.source.tables().iter().any(|schema| schema.id == table);
        match request.action.as_str() {
            "resync" if known => {
                copies.want(table, "it was asked for".to_owned(), Some(request.id));
                self.again = true;
            }
            "resync" => {
                let refusal = format!("{table} is not captured from this source");
                answer_table(&self.control, request.id, Err(&refusal)).await;
            }
            _ => {
                let lane = self.lanes.inbox(&table);
                self.errands.begin(request, table, &self.source, &self.lake, lane);
            }
        }
    }

    async fn route(
        &mut self,
        chunk: Chunk,
        subscribers: &mut Subscribers,
        copies: &mut Copies,
    ) -> Result<(), PipelineError> {
        let was_open = self.open;
        match chunk.boundary {
            Boundary::Open { .. } => self.open = true,
            Boundary::Closed { end } => {
                self.open = false;
                self.routed = self.routed.max(end);
                self.offsets = chunk.offsets.clone().or(self.offsets.take());
            }
        }
        if chunk.batches.is_empty() && chunk.letters.is_empty() && chunk.stopped.is_empty() && !was_open {
            return Ok(());
        }
        self.stream_time = self.stream_time.max(chunk.committed_at);
        let late = chunk.committed_at.map(|time| Utc::now().timestamp_micros().saturating_sub(time));
        let late = late.map(|late| Duration::from_micros(late.try_into().unwrap_or_default()));
        self.cadence.read(late, Instant::now());
        let chunk = Arc::new(chunk);
        subscribers.retain(|subscriber| subscriber.try_send(Arc::clone(&chunk)).is_ok());
        self.lanes.route(&chunk, !self.open).await?;
        for table in &chunk.stopped {
            self.stop(table, copies).await?;
        }
        let nulled = self.stream.nulled();
        if nulled > self.nulled {
            (self.observer)(Event::Nulled { values: nulled - self.nulled });
            self.nulled = nulled;
        }
        Ok(())
    }

    /// Writes what came before, then closes the table's lane: until it is copied anew, or for good.
    async fn stop(&mut self, table: &StoppedTable, copies: &mut Copies) -> Result<(), PipelineError> {
        if !self.lanes.close(&table.id).await? {
            return Ok(());
        }
        if table.cause == StopCause::Definition && self.source.policy(&table.id) != SchemaPolicy::Stop {
            self.again = true;
            return Ok(());
        }
        copies.halt(table.clone());
        (self.observer)(Event::Stopped(table.clone()));
        Ok(())
    }
}

/// Waits until every lane is durable up to its mark, then writes the watermark.
async fn complete_cut(
    lake: Arc<Lake>,
    mut watermark: Watermark,
    replies: Vec<(TableId, oneshot::Receiver<WatermarkTable>)>,
) -> Result<Arc<Watermark>, PipelineError> {
    for (table, answer) in replies {
        let entry = answer.await.map_err(|_| PipelineError::Stopped("a lane"))?;
        watermark.epoch = watermark.epoch.max(entry.epoch);
        watermark.tables.insert(table, entry);
    }
    watermark.written_at = Utc::now().timestamp_micros();
    lake.append_watermark(&watermark).await?;
    Ok(Arc::new(watermark))
}

async fn next_chunk(stream: &mut dyn ChangeStream, reading: bool) -> Result<Chunk, PipelineError> {
    if !reading {
        return pending().await;
    }
    Ok(stream.next().await?)
}
