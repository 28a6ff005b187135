//! The lanes of one stream, a task for each table, and what waits in them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arrow::{array::Array, compute::min};
use lakeward_cdc::Chunk;
use lakeward_change::{ChangeBatch, DeadLetter, TableId};
use lakeward_lakehouse::{CapturedTable, LakeError, WatermarkTable};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinError, JoinSet},
    time::{Instant, timeout},
};

use crate::{
    Event, Observer, PipelineError,
    budget::Budget,
    lane::{self, Limits, Message},
    progress::Behind,
    telemetry,
};

/// After a failure lanes may take this long to end what they have begun.
const LANES_END: Duration = Duration::from_secs(30);
/// Operation, commit, ordinal, LSN, transaction and commit time of one change.
const BOOKKEEPING_BYTES: usize = 48;

type LaneEnded = Result<Result<(), LakeError>, JoinError>;

pub(crate) struct Lanes {
    /// The budget bounds what waits in them: whoever reads the stream never waits for a lane that writes.
    inboxes: BTreeMap<TableId, mpsc::UnboundedSender<Message>>,
    tasks: JoinSet<Result<(), LakeError>>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) behind: Behind,
    observer: Observer,
}

impl Lanes {
    pub(crate) fn begin(
        tables: Vec<CapturedTable>,
        limits: Limits,
        budget: Arc<Budget>,
        observer: Observer,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let inboxes = tables.into_iter().map(|table| {
            let (sender, inbox) = mpsc::unbounded_channel();
            let id = table.id().clone();
            tasks.spawn(lane::run(table, inbox, limits));
            (id, sender)
        });
        let inboxes = inboxes.collect();
        Self { inboxes, tasks, budget, behind: Behind::default(), observer }
    }

    pub(crate) fn contains(&self, table: &TableId) -> bool {
        self.inboxes.contains_key(table)
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = &TableId> {
        self.inboxes.keys()
    }

    pub(crate) fn inbox(&self, table: &TableId) -> Option<mpsc::UnboundedSender<Message>> {
        self.inboxes.get(table).cloned()
    }

    /// Gives each lane its part of a chunk; `complete` if no transaction is open at its end.
    pub(crate) async fn route(&mut self, chunk: &Chunk, complete: bool) -> Result<(), PipelineError> {
        self.set_aside(chunk).await?;
        let now = Instant::now();
        for batch in &chunk.batches {
            let Some(lane) = self.inboxes.get(&batch.table.id) else { continue };
            let rows = batch.num_rows() as u64;
            telemetry::read(&batch.table.id, rows);
            self.behind.read(&batch.table.id, rows, min(&batch.committed_at), now);
            let share = self.budget.take(memory_size(batch));
            // Of a table that stops here, the rest of the transaction is still to come.
            let complete = complete && chunk.stopped.iter().all(|table| table.id != batch.table.id);
            if lane.send(Message::Changes { batch: batch.clone(), share, complete }).is_err() {
                return Err(self.failure().await);
            }
        }
        Ok(())
    }

    /// Letters go to their lanes before the changes of the same stretch, whose writes may pass them.
    async fn set_aside(&mut self, chunk: &Chunk) -> Result<(), PipelineError> {
        let mut by_table: BTreeMap<&TableId, Vec<DeadLetter>> = BTreeMap::new();
        for letter in &chunk.letters {
            by_table.entry(&letter.table).or_default().push(letter.clone());
        }
        for (table, letters) in by_table {
            let Some(lane) = self.inboxes.get(table) else { continue };
            let rows = letters.len() as u64;
            telemetry::set_aside(&letters);
            (self.observer)(Event::SetAside { table: table.clone(), rows });
            self.behind.read(table, rows, None, Instant::now());
            let bytes = letters.iter().map(|letter| letter.message.len() + letter.relation.len()).sum();
            let share = self.budget.take(bytes);
            if lane.send(Message::Letters { letters, share }).is_err() {
                return Err(self.failure().await);
            }
        }
        Ok(())
    }

    /// Marks every lane at this point of the stream; each answers once it is durable up to there.
    pub(crate) async fn mark(
        &mut self,
    ) -> Result<Vec<(TableId, oneshot::Receiver<WatermarkTable>)>, PipelineError> {
        let mut replies = Vec::with_capacity(self.inboxes.len());
        for (table, lane) in &self.inboxes {
            let (reply, answer) = oneshot::channel();
            if lane.send(Message::Mark(reply)).is_err() {
                return Err(self.failure().await);
            }
            replies.push((table.clone(), answer));
        }
        Ok(replies)
    }

    /// Has every lane write what it holds.
    pub(crate) async fn flush(&mut self) -> Result<(), PipelineError> {
        for lane in self.inboxes.values() {
            if lane.send(Message::Flush).is_err() {
                return Err(self.failure().await);
            }
        }
        Ok(())
    }

    /// Has a table's lane write what it holds, and end; `false` if it has none.
    pub(crate) async fn close(&mut self, table: &TableId) -> Result<bool, PipelineError> {
        let Some(lane) = self.inboxes.remove(table) else { return Ok(false) };
        if lane.send(Message::Flush).is_err() {
            return Err(self.failure().await);
        }
        self.behind.forget(table);
        Ok(true)
    }

    /// The error of a lane that failed; `None` once all have ended.
    pub(crate) async fn failed(&mut self) -> Option<PipelineError> {
        while let Some(ended) = self.tasks.join_next().await {
            if !matches!(ended, Ok(Ok(()))) {
                return Some(lane_error(ended));
            }
        }
        None
    }

    /// A lane's inbox is closed: its task has ended, and says why.
    pub(crate) async fn failure(&mut self) -> PipelineError {
        self.failed().await.unwrap_or(PipelineError::Stopped("a lane"))
    }

    /// Lets the lanes write what they hold, and end.
    pub(crate) async fn end(mut self) -> Result<(), PipelineError> {
        self.inboxes.clear();
        self.failed().await.map_or(Ok(()), Err)
    }

    /// After a failure: a commit that is under way must not land behind the next attempt's back.
    pub(crate) async fn give_up(mut self) {
        self.inboxes.clear();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(LANES_END, ended).await.is_err() {
            self.tasks.shutdown().await;
        }
    }
}

/// What a batch holds in memory, in bytes, its bookkeeping columns included.
fn memory_size(batch: &ChangeBatch) -> usize {
    let old_keys = batch.old_keys.as_ref().map_or(0, |keys| array_bytes(keys));
    let values: usize = batch.values.columns().iter().map(|column| array_bytes(column.as_ref())).sum();
    values + old_keys + batch.num_rows() * BOOKKEEPING_BYTES
}

/// A slice of a larger array counts for what it shows, with as much again for what builders allocate ahead: the array's other
/// slices are counted with their own batches.
fn array_bytes(array: &dyn Array) -> usize {
    let whole = array.get_array_memory_size();
    array.to_data().get_slice_memory_size().map_or(whole, |shown| whole.min(2 * shown))
}

fn lane_error(ended: LaneEnded) -> PipelineError {
    match ended {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) | Err(_) => PipelineError::Stopped("a lane"),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn slices_count_for_what_they_show() {
        let numbers = Int64Array::from_iter_values(0..100_000);
        let texts: StringArray = (0..100_000).map(|number| Some(format!("text {number}"))).collect();
        for array in [&numbers as &dyn Array, &texts] {
            let whole = array_bytes(array);
            let parts: usize =
                (0..100).map(|part| array_bytes(array.slice(part * 1_000, 1_000).as_ref())).sum();
            assert!((whole / 2..=3 * whole).contains(&parts), "{parts} of {whole} bytes");
        }
    }
}
