//! The stream at work: chunks into lanes, cuts, confirmations.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use arrow::array::Array;
use futures::future::{BoxFuture, OptionFuture};
use lakeward_cdc::{
    Boundary, CdcError, ChangeStream, Chunk, PostgresSource, PostgresStream, SchemaPolicy, SlotState,
};
use lakeward_change::{ChangeBatch, DeadLetter, Lsn, StopCause, StoppedTable, TableId};
use lakeward_lakehouse::{CapturedTable, Lake, LakeError, Watermark, WatermarkTable};
use lakeward_postgres::{Control, TableRequest};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Event, Observer, Options, Pipeline, PipelineError,
    budget::Budget,
    copies::Copies,
    errand::Errands,
    handle::Command,
    ingest::Ended,
    lane::{self, Limits, Message},
    plan::Begun,
    progress::{Behind, Progress},
    request::{Request, Requests, answer_table},
};

/// How often ages and requests are looked at.
const TICK: Duration = Duration::from_millis(100);
/// A source without changes still moves its slot forward, this often at most.
const IDLE_WATERMARK: Duration = Duration::from_secs(60);
/// How often the source's catalog is compared with what is captured; also whenever the stream gives reason to.
const DEFINITIONS: Duration = Duration::from_secs(5);
/// After a failure lanes may take this long to end what they have begun.
const LANES_END: Duration = Duration::from_secs(30);
/// Operation, commit, ordinal, LSN, transaction and commit time of one change.
const BOOKKEEPING_BYTES: usize = 48;
/// Batches a lane may have waiting.
const INBOX: usize = 64;

pub(crate) type Subscribers = Vec<mpsc::Sender<Arc<Chunk>>>;

pub(crate) struct Streaming {
    source: PostgresSource,
    lake: Arc<Lake>,
    control: Arc<Control>,
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
        (pipeline.observer)(Event::Streaming { from });
        Ok(Self {
            lake: Arc::clone(&pipeline.lake),
            control: Arc::clone(&pipeline.control),
            observer: Arc::clone(&pipeline.observer),
            requests: Requests::new(Arc::clone(&pipeline.control), source.name(), pipeline.owner.term()),
            source,
            stream,
            lanes,
            tasks,
            budget: Budget::new(options.memory_bytes),
            behind: Behind::default(),
            options,
            routed: from,
            not_before,
            unmarked,
            open: false,
            dirty: None,
            stream_time: watermark.stream_time,
            again: false,
            errands: Errands::default(),
            looked_at: Instant::now(),
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
        copies: &mut Copies,
        shutdown: &CancellationToken,
    ) -> Result<Ended, PipelineError> {
        let streamed = self.stream(commands, subscribers, copies, shutdown).await;
        self.lanes.clear();
        let ended = match streamed {
            Ok(ended) => ended,
            Err(error) => {
                // A commit that is under way must not land behind the next attempt's back.
                let lanes_end = async { while self.tasks.join_next().await.is_some() {} };
                if timeout(LANES_END, lanes_end).await.is_err() {
                    self.tasks.shutdown().await;
                }
                return Err(error);
            }
        };
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(|_| PipelineError::Stopped("a lane"))??;
        }
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
            let full = self.budget.is_full();
            let reading =
                !full && !self.again && !self.requests.hold_reading(self.open) && !shutdown.is_cancelled();
            let cut = self.cut.as_mut();
            tokio::select! {
                biased;
                Some(made) = OptionFuture::from(cut) => match made {
                    Ok(watermark) => self.finish_cut(watermark, copies).await?,
                    Err(PipelineError::Stopped(_)) => return Err(self.failed_lane().await),
                    Err(error) => return Err(error),
                },
                Some(ended) = self.tasks.join_next() => match ended {
                    // A stopped table's.
                    Ok(Ok(())) => {}
                    ended => return Err(lane_error(ended)),
                },
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
                () = self.budget.has_room(), if full => {}
                chunk = next_chunk(&mut self.stream, reading) => match chunk {
                    Ok(chunk) => self.route(chunk, subscribers, copies).await?,
                    // The catalog knows by now what it is.
                    Err(PipelineError::Source(CdcError::NewRelation { .. })) => self.again = true,
                    Err(error) => return Err(error),
                },
            }
            if !full && self.budget.is_full() {
                self.tell_lanes(|| Message::Flush).await?;
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
            _ => stopping && (self.open || self.dirty.is_none()),
        }
    }

    /// Why a cut should begin now, if one should: never inside a transaction, one at a time.
    fn cut_due(&self, stopping: bool) -> Option<&'static str> {
        if self.open || self.cut.is_some() || self.again || self.routed < self.not_before {
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
    async fn begin_cut(&mut self, reason: &'static str, copies: &Copies) -> Result<(), PipelineError> {
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
        watermark.stopped = copies.stopped();
        watermark.tables.retain(|id, _| self.lanes.contains_key(id));
        reason.clone_into(&mut watermark.reason);
        self.cut = Some(Box::pin(complete_cut(Arc::clone(&self.lake), watermark, replies)));
        Ok(())
    }

    /// The watermark is durable: now, and only now, the source may forget.
    async fn finish_cut(&mut self, watermark: Arc<Watermark>, copies: &Copies) -> Result<(), PipelineError> {
        self.cut = None;
        self.behind.finish_cut();
        let hold = copies.hold(self.options.stopped_grace);
        lakeward_faults::failpoint("confirm_sent").await?;
        self.stream.confirm(hold.map_or(watermark.lsn, |hold| hold.min(watermark.lsn)));
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

    /// Whatever came, went or changed in the source's catalog is seen to by a new beginning.
    async fn look_at_definitions(&mut self, copies: &Copies) -> Result<(), PipelineError> {
        self.looked_at = Instant::now();
        if !matches!(self.source.slot().await?, SlotState::Present { active_pid: Some(_), .. }) {
            // The server has ended the session, and the news did not get through.
            return Err(CdcError::Ended.into());
        }
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
                let lane = self.lanes.get(&table).cloned();
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
            }
        }
        if chunk.batches.is_empty() && chunk.letters.is_empty() && chunk.stopped.is_empty() && !was_open {
            return Ok(());
        }
        self.dirty.get_or_insert_with(Instant::now);
        self.stream_time = self.stream_time.max(chunk.committed_at);
        let chunk = Arc::new(chunk);
        subscribers.retain(|subscriber| subscriber.try_send(Arc::clone(&chunk)).is_ok());
        self.set_aside(&chunk).await?;
        let now = Instant::now();
        for batch in &chunk.batches {
            let Some(lane) = self.lanes.get(&batch.table.id) else { continue };
            metrics::counter!("lakeward_changes_total", "table" => batch.table.id.to_string())
                .increment(batch.num_rows() as u64);
            self.behind.read(&batch.table.id, batch.num_rows() as u64, now);
            let share = self.budget.take(memory_size(batch));
            // Of a table that stops here, the rest of the transaction is still to come.
            let stops = chunk.stopped.iter().any(|table| table.id == batch.table.id);
            let complete = !self.open && !stops;
            if lane.send(Message::Changes { batch: batch.clone(), share, complete }).await.is_err() {
                return Err(self.failed_lane().await);
            }
        }
        for table in &chunk.stopped {
            self.stop(table, copies).await?;
        }
        let nulled = self.stream.nulled();
        if nulled > self.nulled {
            (self.observer)(Event::Nulled { values: nulled - self.nulled });
            self.nulled = nulled;
        }
        metrics::gauge!("lakeward_buffered_bytes").set(self.budget.used() as f64);
        Ok(())
    }

    /// Letters go to their lanes before the changes of the same stretch, whose writes may pass them.
    async fn set_aside(&mut self, chunk: &Chunk) -> Result<(), PipelineError> {
        let mut by_table: BTreeMap<&TableId, Vec<DeadLetter>> = BTreeMap::new();
        for letter in &chunk.letters {
            by_table.entry(&letter.table).or_default().push(letter.clone());
        }
        for (table, letters) in by_table {
            let Some(lane) = self.lanes.get(table) else { continue };
            metrics::counter!("lakeward_dead_letters_total", "table" => table.to_string())
                .increment(letters.len() as u64);
            (self.observer)(Event::SetAside { table: table.clone(), rows: letters.len() as u64 });
            self.behind.read(table, letters.len() as u64, Instant::now());
            let bytes = letters.iter().map(|letter| letter.message.len() + letter.relation.len()).sum();
            let share = self.budget.take(bytes);
            if lane.send(Message::Letters { letters, share }).await.is_err() {
                return Err(self.failed_lane().await);
            }
        }
        Ok(())
    }

    /// Writes what came before, then closes the table's lane: until it is copied anew, or for good.
    async fn stop(&mut self, table: &StoppedTable, copies: &mut Copies) -> Result<(), PipelineError> {
        let Some(lane) = self.lanes.remove(&table.id) else { return Ok(()) };
        if lane.send(Message::Flush).await.is_err() {
            return Err(self.failed_lane().await);
        }
        self.behind.forget(&table.id);
        if table.cause == StopCause::Definition && self.source.policy(&table.id) != SchemaPolicy::Stop {
            self.again = true;
            return Ok(());
        }
        copies.halt(table.clone());
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
        watermark.epoch = watermark.epoch.max(entry.epoch);
        watermark.tables.insert(table, entry);
    }
    lake.append_watermark(&watermark).await?;
    Ok(Arc::new(watermark))
}

/// What a batch holds in memory, in bytes, its bookkeeping columns included.
fn memory_size(batch: &ChangeBatch) -> usize {
    let old_keys = batch.old_keys.as_ref().map_or(0, |keys| keys.get_array_memory_size());
    batch.values.get_array_memory_size() + old_keys + batch.num_rows() * BOOKKEEPING_BYTES
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
