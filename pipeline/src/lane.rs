//! A lane: the one task that writes one table.
//!
//! Messages arrive in stream order, so a mark in the inbox splits the table's changes exactly where the cut lies.

use chrono::Utc;
use lakeward_change::{ChangeBatch, DeadLetter, coalesce};
use lakeward_lakehouse::{CapturedTable, LakeError, Repaired, WatermarkTable};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::{
    budget::{self, Share},
    repair::Repair,
    replay::{Outcomes, Replay},
    telemetry,
    upkeep::{Chore, Maintained, Maintenance, Upkeep},
};

pub(crate) enum Message {
    /// Changes that cannot be taken in: sent before the batch of the same stretch, whose write may pass them.
    Letters { letters: Vec<DeadLetter>, share: Share },
    Changes {
        batch: ChangeBatch,
        share: Share,
        /// The batch does not end inside a transaction.
        complete: bool,
    },
    /// Write what is buffered, to free memory.
    Flush,
    /// A transaction's end: write what is buffered, then answer with the versions that hold it.
    Mark(oneshot::Sender<WatermarkTable>),
    /// Put keys right as of a point that the table has passed; what is buffered comes after it, and may wait. The
    /// answer may be an error: the lane goes on, and its next write reads anew what is durable.
    Repair(Repair, oneshot::Sender<Result<Repaired, LakeError>>),
    /// Put letters in after all, after what is buffered; an answer may be an error, as with a repair.
    Replay(Replay, oneshot::Sender<Result<Outcomes, LakeError>>),
    /// Someone asks for maintenance of the table; it is answered when it is done.
    Maintain { chore: Chore, reply: oneshot::Sender<Result<Maintained, LakeError>> },
}

/// When a lane writes without being asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
    pub(crate) maintenance: Maintenance,
}

/// Runs until the inbox closes; what is buffered then was not marked and is read again from the source.
pub(crate) async fn run(
    mut table: CapturedTable,
    mut inbox: mpsc::UnboundedReceiver<Message>,
    limits: Limits,
) -> Result<(), LakeError> {
    let (mut batches, mut letters) = (Vec::new(), Vec::new());
    let mut shares: Vec<Share> = Vec::new();
    let (mut rows, mut bytes, mut whole) = (0, 0, true);
    let mut upkeep = Upkeep::new(limits.maintenance);
    while let Some(message) = inbox.recv().await {
        let mut replay = None;
        let reply = match message {
            Message::Letters { letters: new, share } => {
                letters.extend(new);
                bytes += share.bytes();
                shares.push(share);
                continue;
            }
            Message::Changes { batch, share, complete } => {
                whole = complete;
                rows += batch.num_rows();
                bytes += share.bytes();
                batches.push(batch);
                shares.push(share);
                if rows < limits.rows && bytes < limits.bytes {
                    continue;
                }
                None
            }
            Message::Flush => None,
            Message::Mark(reply) => {
                whole = true;
                Some(reply)
            }
            Message::Repair(repair, reply) => {
                let repaired = Box::pin(repair.apply(&mut table)).await;
                // Who asked may have given up.
                let _ = reply.send(repaired);
                continue;
            }
            Message::Replay(asked, reply) => {
                replay = Some((asked, reply));
                None
            }
            Message::Maintain { chore, reply } => {
                upkeep.answer(&mut table, chore, reply).await;
                continue;
            }
        };
        let turn = budget::turn(&mut shares).await;
        let now = Utc::now().timestamp_micros();
        if !letters.is_empty() {
            table.set_aside(&letters, now).await?;
            letters.clear();
        }
        if !batches.is_empty() {
            // A busy source gives a batch for each of its transactions.
            let joined = coalesce(&batches)
                .map_err(|source| LakeError::Arrow { table: table.id().to_string(), source })?;
            let begun = Instant::now();
            table.flush(&joined, whole, now).await?;
            telemetry::flushed(table.id(), rows as u64, begun.elapsed());
            batches.clear();
        }
        drop(turn);
        shares.clear();
        (rows, bytes) = (0, 0);
        if let Some((replay, reply)) = replay {
            let replayed = Box::pin(replay.apply(&mut table)).await;
            // Who asked may have given up.
            let _ = reply.send(replayed);
        }
        if let Some(reply) = reply {
            // The receiver is gone only when the pipeline stops.
            let _ = reply.send(table.watermark_entry());
            upkeep.after_mark(&mut table).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use lakeward_change::{Column, ColumnType, TableId, TableSchema};
    use lakeward_lakehouse::{Compacted, Lake, SourceRef, Vacuumed};

    use super::*;

    #[tokio::test]
    async fn maintenance_is_answered_and_the_lane_goes_on() {
        let lake = Lake::open("memory:///", BTreeMap::new()).expect("a lake in memory");
        let column =
            Column { name: "id".into(), column_type: ColumnType::Int8, source_type: "bigint".into() };
        let id = TableId::new("public", "t");
        let schema =
            Arc::new(TableSchema { id, columns: vec![column], key: vec![0], origin: Default::default() });
        let source = SourceRef { name: "shop".into(), system_id: "1".into() };
        let table = CapturedTable::open(&lake, &source, schema).await.expect("an empty table");
        let (lane, inbox) = mpsc::unbounded_channel();
        let limits = Limits { rows: 1, bytes: 1, maintenance: Maintenance::default() };
        let running = tokio::spawn(run(table, inbox, limits));
        let nothing =
            [Maintained::Optimized(Compacted::default()), Maintained::Vacuumed(Vacuumed::default())];
        for (chore, expected) in Chore::ALL.into_iter().zip(nothing) {
            let (reply, answer) = oneshot::channel();
            assert!(lane.send(Message::Maintain { chore, reply }).is_ok());
            assert_eq!(answer.await.expect("an answer").expect("it is done"), expected);
        }
        let (reply, mark) = oneshot::channel();
        assert!(lane.send(Message::Mark(reply)).is_ok());
        assert_eq!(mark.await.expect("an answer").bronze_version, -1);
        drop(lane);
        running.await.expect("no panic").expect("it ends well");
    }
}
