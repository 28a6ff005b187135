//! The stream at work: chunks into lanes, cuts, confirmations.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use futures::future::{BoxFuture, OptionFuture};
use lakeward_cdc::{Boundary, ChangeStream, Chunk, PostgresSource, PostgresStream};
use lakeward_change::{ChangeBatch, Lsn, StoppedTable, TableId};
use lakeward_lakehouse::{CapturedTable, Lake, LakeError, Watermark, WatermarkTable};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Event, Observer, Options, Pipeline, PipelineError,
    budget::Budget,
    handle::Command,
    lane::{self, Limits, Message},
    progress::{Behind, Progress},
    request::{Request, Requests},
};

/// How often ages and requests are looked at.
const TICK: Duration = Duration::from_millis(100);
/// A source without changes still moves its slot forward, this often at most.
const IDLE_WATERMARK: Duration = Duration::from_secs(60);
/// After a failure lanes may take this long to end what they have begun.
const LANES_END: Duration = Duration::from_secs(30);
/// Operation, commit, ordinal, LSN, transaction and commit time of one change.
const BOOKKEEPING_BYTES: usize = 48;
/// Batches a lane may have waiting.
const INBOX: usize = 64;

pub(crate) type Subscribers = Vec<mpsc::Sender<Arc<Chunk>>>;

pub(crate) struct Streaming<'a> {
    source: &'a PostgresSource,
    lake: Arc<Lake>,
    observer: Observer,
    options: Options,
    requests: Requests,
    stream: PostgresStream,
    lanes: BTreeMap<TableId, mpsc::Sender<Message>>,
    tasks: JoinSet<Result<(), LakeError>>,
    budget: Arc<Budget>,
    behind: Behind,
    /// Everything that committed before this has been routed.
    routed: Lsn,
    /// The stream stands inside a transaction.
    open: bool,
    /// Changes were routed that no cut covers yet, since when.
    dirty: Option<Instant>,
    stream_time: Option<i64>,
    /// Tables that the next watermark lacks.
    stopped: Vec<StoppedTable>,
    /// Values that became null and were told of.
    nulled: u64,
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

impl<'a> Streaming<'a> {
    pub(crate) async fn begin(
        pipeline: &Pipeline,
        source: &'a PostgresSource,
        tables: Vec<CapturedTable>,
        watermark: Arc<Watermark>,
    ) -> Result<Self, PipelineError> {
        let options = pipeline.options.clone();
        let maintenance = options.maintenance;
        let limits = Limits { rows: options.flush_rows, bytes: options.flush_bytes, maintenance };
        let idle = if options.until_idle { Idle::CatchingUp(source.flush_lsn().await?) } else { Idle::Never };
        let stream = source.stream(watermark.lsn, watermark.epoch).await?;
        let mut tasks = JoinSet::new();
        let lanes = tables
            .into_iter()
            .map(|table| {
                let (sender, inbox) = mpsc::channel(INBOX);
                let id = table.id().clone();
                tasks.spawn(lane::run(table, inbox, limits));
                (id, sender)
            })
            .collect();
        (pipeline.observer)(Event::Streaming { from: watermark.lsn });
        Ok(Self {
            source,
            lake: Arc::clone(&pipeline.lake),
            observer: Arc::clone(&pipeline.observer),
            requests: Requests::new(Arc::clone(&pipeline.control), source.name()),
            stream,
            lanes,
            tasks,
            budget: Budget::new(options.memory_bytes),
            behind: Behind::default(),
            options,
            routed: watermark.lsn,
            open: false,
            dirty: None,
            stream_time: watermark.stream_time,
            stopped: watermark.stopped.clone(),
            nulled: 0,
            watermark,
            watermark_at: Instant::now(),
            cut: None,
            next_waiters: Vec::new(),
            cut_waiters: Vec::new(),
            joining: Vec::new(),
            idle,
        })
    }

    /// Streams until told to stop, or idle. On a stop between two transactions what has been read becomes durable first;
    /// a transaction that is open then is read again at the next start.
    pub(crate) async fn run(
        mut self,
        commands: &mut mpsc::Receiver<Command>,
        subscribers: &mut Subscribers,
        shutdown: &CancellationToken,
    ) -> Result<(), PipelineError> {
        let streamed = self.stream(commands, subscribers, shutdown).await;
        self.lanes.clear();
        if streamed.is_err() {
            // A commit that is under way must not land behind the next attempt's back.
            let ended = async { while self.tasks.join_next().await.is_some() {} };
            if timeout(LANES_END, ended).await.is_err() {
                self.tasks.shutdown().await;
            }
            return streamed;
        }
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(|_| PipelineError::Stopped("a lane"))??;
        }
        self.stream.close().await;
        Ok(())
    }

    async fn stream(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        subscribers: &mut Subscribers,
        shutdown: &CancellationToken,
    ) -> Result<(), PipelineError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.ends(shutdown.is_cancelled()) {
                break;
            }
            if !self.open {
                for (sender, reply) in self.joining.drain(..) {
                    subscribers.push(sender);
                    // A subscriber that has gone is dropped at the next chunk.
                    let _ = reply.send(());
                }
            }
            if let Some(reason) = self.cut_due(shutdown.is_cancelled()) {
                self.begin_cut(reason).await?;
            }
            let full = self.budget.is_full();
            let reading = !full && !self.requests.hold_reading(self.open) && !shutdown.is_cancelled();
            let cut = self.cut.as_mut();
            tokio::select! {
                biased;
                Some(made) = OptionFuture::from(cut) => match made {
                    Ok(watermark) => self.finish_cut(watermark).await?,
                    Err(PipelineError::Stopped(_)) => return Err(self.failed_lane().await),
                    Err(error) => return Err(error),
                },
                Some(ended) = self.tasks.join_next() => match ended {
                    // A stopped table's.
                    Ok(Ok(())) => {}
                    ended => return Err(lane_error(ended)),
                },
                Some(command) = commands.recv() => self.obey(command),
                () = shutdown.cancelled(), if !shutdown.is_cancelled() => {}
                _ = tick.tick() => self.look_around().await?,
                () = self.budget.has_room(), if full => {}
                chunk = next_chunk(&mut self.stream, reading) => self.route(chunk?, subscribers).await?,
            }
            if !full && self.budget.is_full() {
                self.tell_lanes(|| Message::Flush).await?;
            }
        }
        Ok(())
    }

    /// Whether the loop is done: nothing is under way, and nothing whole is left to make durable.
    fn ends(&self, stopping: bool) -> bool {
        if self.cut.is_some() {
            return false;
        }
        match self.idle {
            Idle::Draining(target) if self.watermark.lsn >= target => true,
            _ => stopping && (self.open || self.dirty.is_none()),
        }
    }

    /// Why a cut should begin now, if one should: never inside a transaction, one at a time.
    fn cut_due(&self, stopping: bool) -> Option<&'static str> {
        if self.open || self.cut.is_some() {
            return None;
        }
        if self.requests.cut_at().is_some_and(|lsn| self.routed >= lsn) {
            return Some("requested");
        }
        if !self.next_waiters.is_empty() {
            return Some("requested");
        }
        let draining = matches!(self.idle, Idle::Draining(target) if self.routed >= target);
        match self.dirty {
            Some(since) if stopping || draining || since.elapsed() >= self.options.flush_age => Some("cut"),
            None if draining && self.routed > self.watermark.lsn => Some("idle"),
            None if self.routed > self.watermark.lsn && self.watermark_at.elapsed() >= IDLE_WATERMARK => {
                Some("idle")
            }
            _ => None,
        }
    }

    /// Marks every lane at this point of the stream; the rest happens while reading goes on.
    async fn begin_cut(&mut self, reason: &'static str) -> Result<(), PipelineError> {
        let mut replies = Vec::with_capacity(self.lanes.len());
        for (table, lane) in &self.lanes {
            let (reply, answer) = oneshot::channel();
            if lane.send(Message::Mark(reply)).await.is_err() {
                return Err(self.failed_lane().await);
            }
            replies.push((table.clone(), answer));
        }
        self.dirty = None;
        self.behind.begin_cut();
        self.cut_waiters.append(&mut self.next_waiters);
        self.requests.begin_cut(self.routed);
        let mut watermark = Watermark::clone(&self.watermark);
        watermark.lsn = self.routed;
        watermark.stream_time = self.stream_time;
        watermark.stopped.clone_from(&self.stopped);
        watermark.tables.retain(|id, _| self.lanes.contains_key(id));
        reason.clone_into(&mut watermark.reason);
        self.cut = Some(Box::pin(complete_cut(Arc::clone(&self.lake), watermark, replies)));
        Ok(())
    }

    /// The watermark is durable: now, and only now, the source may forget.
    async fn finish_cut(&mut self, watermark: Arc<Watermark>) -> Result<(), PipelineError> {
        self.cut = None;
        self.behind.finish_cut();
        self.stream.confirm(watermark.lsn);
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

    async fn look_around(&mut self) -> Result<(), PipelineError> {
        if let Idle::CatchingUp(target) = self.idle
            && !self.open
            && self.routed >= target
        {
            self.idle = Idle::Draining(self.source.flush_lsn().await?);
        }
        match self.requests.poll(self.routed, self.open).await {
            Request::Nothing => {}
            Request::CutAt(lsn) => self.stream.stop_before(Some(lsn)),
            Request::Withdrawn => self.stream.stop_before(None),
        }
        let progress = || Progress {
            pid: std::process::id(),
            read: self.routed.to_string(),
            durable: self.watermark.lsn.to_string(),
            buffered_bytes: self.budget.used(),
            memory_bytes: self.options.memory_bytes,
            waiting: self.budget.is_full().then(|| {
                "memory is at its limit ([ingest] memory_mib): what is held must be written first".to_owned()
            }),
            behind: self.behind.tables(Instant::now()),
        };
        self.requests.report(progress).await;
        Ok(())
    }

    async fn route(&mut self, chunk: Chunk, subscribers: &mut Subscribers) -> Result<(), PipelineError> {
        let was_open = self.open;
        match chunk.boundary {
            Boundary::Open { .. } => self.open = true,
            Boundary::Closed { end } => {
                self.open = false;
                self.routed = self.routed.max(end);
            }
        }
        if chunk.batches.is_empty() && chunk.stopped.is_empty() && !was_open {
            return Ok(());
        }
        self.dirty.get_or_insert_with(Instant::now);
        self.stream_time = self.stream_time.max(chunk.committed_at);
        let chunk = Arc::new(chunk);
        subscribers.retain(|subscriber| subscriber.try_send(Arc::clone(&chunk)).is_ok());
        let now = Instant::now();
        for batch in &chunk.batches {
            let Some(lane) = self.lanes.get(&batch.table.id) else { continue };
            metrics::counter!("lakeward_changes_total", "table" => batch.table.id.to_string())
                .increment(batch.num_rows() as u64);
            self.behind.read(&batch.table.id, batch.num_rows() as u64, now);
            let share = self.budget.take(memory_size(batch));
            if lane
                .send(Message::Changes { batch: batch.clone(), share, complete: !self.open })
                .await
                .is_err()
            {
                return Err(self.failed_lane().await);
            }
        }
        for table in &chunk.stopped {
            self.stop(table).await?;
        }
        let nulled = self.stream.nulled();
        if nulled > self.nulled {
            (self.observer)(Event::Nulled { values: nulled - self.nulled });
            self.nulled = nulled;
        }
        metrics::gauge!("lakeward_buffered_bytes").set(self.budget.used() as f64);
        Ok(())
    }

    /// Writes what came before, then closes the table's lane; the next watermark says so.
    async fn stop(&mut self, table: &StoppedTable) -> Result<(), PipelineError> {
        let Some(lane) = self.lanes.remove(&table.id) else { return Ok(()) };
        if lane.send(Message::Flush).await.is_err() {
            return Err(self.failed_lane().await);
        }
        self.behind.forget(&table.id);
        self.stopped.push(table.clone());
        (self.observer)(Event::Stopped(table.clone()));
        Ok(())
    }

    async fn tell_lanes(&mut self, message: impl Fn() -> Message) -> Result<(), PipelineError> {
        for lane in self.lanes.values() {
            if lane.send(message()).await.is_err() {
                return Err(self.failed_lane().await);
            }
        }
        Ok(())
    }

    /// A lane's inbox is closed: its task has ended, and says why.
    async fn failed_lane(&mut self) -> PipelineError {
        while let Some(ended) = self.tasks.join_next().await {
            if !matches!(ended, Ok(Ok(()))) {
                return lane_error(ended);
            }
        }
        PipelineError::Stopped("a lane")
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
        watermark.tables.insert(table, entry);
    }
    lake.append_watermark(&watermark).await?;
    Ok(Arc::new(watermark))
}

/// What a batch holds in memory, in bytes, its bookkeeping columns included.
fn memory_size(batch: &ChangeBatch) -> usize {
    batch.values.get_array_memory_size() + batch.num_rows() * BOOKKEEPING_BYTES
}

async fn next_chunk(stream: &mut PostgresStream, reading: bool) -> Result<Chunk, PipelineError> {
    if !reading {
        return pending().await;
    }
    Ok(stream.next().await?)
}

fn lane_error(ended: Result<Result<(), LakeError>, tokio::task::JoinError>) -> PipelineError {
    match ended {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) | Err(_) => PipelineError::Stopped("a lane"),
    }
}
