//! A lane: the one task that writes one table.
//!
//! Messages arrive in stream order, so a mark in the inbox splits the table's changes exactly where the cut lies.

use chrono::Utc;
use lakeward_change::ChangeBatch;
use lakeward_lakehouse::{CapturedTable, LakeError, Repaired, WatermarkTable};
use tokio::sync::{mpsc, oneshot};

use crate::{budget::Share, repair::Repair};

pub(crate) enum Message {
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
}

/// When a lane writes without being asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
}

/// Runs until the inbox closes; what is buffered then was not marked and is read again from the source.
pub(crate) async fn run(
    mut table: CapturedTable,
    mut inbox: mpsc::Receiver<Message>,
    limits: Limits,
) -> Result<(), LakeError> {
    let mut batches = Vec::new();
    let mut shares: Vec<Share> = Vec::new();
    let mut whole = true;
    while let Some(message) = inbox.recv().await {
        let reply = match message {
            Message::Changes { batch, share, complete } => {
                whole = complete;
                batches.push(batch);
                shares.push(share);
                let rows: usize = batches.iter().map(ChangeBatch::num_rows).sum();
                let bytes: usize = shares.iter().map(Share::bytes).sum();
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
        };
        if !batches.is_empty() {
            table.flush(&batches, whole, Utc::now().timestamp_micros()).await?;
            batches.clear();
            shares.clear();
        }
        if let Some(reply) = reply {
            // The receiver is gone only when the pipeline stops.
            let _ = reply.send(table.watermark_entry());
        }
    }
    Ok(())
}
