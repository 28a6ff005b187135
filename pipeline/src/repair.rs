//! Differing keys are put right by their table's one writer, with the rows that the comparison's snapshot has.
//!
//! Where an ingester runs, its lane is the writer: the asker files a request with the snapshot's name, and holds the
//! snapshot until the answer. Otherwise a lane is opened for it here.

use std::{sync::Arc, time::Duration};

use arrow::array::RecordBatch;
use lakeward_cdc::{PostgresSource, Snapshot};
use lakeward_change::{Lsn, TableId, TableSchema};
use lakeward_lakehouse::{CapturedTable, Lake, LakeError, Repaired};
use lakeward_postgres::{Control, Lease};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::{
    PipelineError,
    copy::reference,
    lane::{self, Limits, Message},
    upkeep::Maintenance,
};

/// The action of a repair's request.
pub(crate) const ACTION: &str = "repair";
/// Keys of one request. Their rows come as one batch, and can be long.
const KEYS_AT_A_TIME: usize = 4096;
/// Keys of a table that are repaired in one run: what differs in more is better copied anew.
pub(crate) const MOST_KEYS: usize = 16 * KEYS_AT_A_TIME;
/// How long one request may take: the source is scanned for the rows, bronze for later changes.
const ANSWER_WAIT: Duration = Duration::from_secs(600);

/// Some keys of a table, as a request has them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RepairRequest {
    /// The name by which the asker has exported its snapshot.
    pub(crate) snapshot: String,
    pub(crate) lsn: Lsn,
    /// Of the table's copy.
    pub(crate) epoch: i64,
    /// Canonical texts.
    pub(crate) keys: Vec<String>,
}

/// Keys, and the rows that the source had of them at a snapshot.
pub(crate) struct Repair {
    epoch: i64,
    snapshot: Lsn,
    keys: Vec<String>,
    rows: RecordBatch,
}

impl RepairRequest {
    /// Reads the rows in `snapshot`, which is the request's, and has the table's lane put them in.
    ///
    /// # Errors
    /// If the snapshot is gone with its asker, the source or the lake fails, or the lane has ended.
    pub(crate) async fn carry_out(
        self,
        snapshot: &Snapshot,
        table: &TableId,
        lane: &mpsc::UnboundedSender<Message>,
    ) -> Result<Repaired, PipelineError> {
        let rows = snapshot.rows_by_key(table, &self.keys).await?;
        let repair = Repair { epoch: self.epoch, snapshot: self.lsn, keys: self.keys, rows };
        let (reply, answer) = oneshot::channel();
        let stopped = || PipelineError::Stopped("a lane");
        lane.send(Message::Repair(repair, reply)).map_err(|_| stopped())?;
        Ok(answer.await.map_err(|_| stopped())??)
    }
}

impl Repair {
    pub(crate) async fn apply(self, table: &mut CapturedTable) -> Result<Repaired, LakeError> {
        table.repair(self.epoch, self.snapshot, &self.keys, &self.rows).await
    }
}

/// Who puts the keys right.
pub(crate) enum Writer<'a> {
    /// The ingester that runs, asked through the control database.
    Ingester(&'a Control),
    /// Nobody else ingests meanwhile: `source` has claimed the slot, and the lease is ours.
    Own { lake: &'a Lake, source: &'a PostgresSource, lease: Lease },
}

/// Repairs a table's keys, given by their texts, as of a snapshot at which it was durable in `epoch`.
pub(crate) async fn repair(
    writer: &Writer<'_>,
    source_name: &str,
    snapshot: &Snapshot,
    schema: &Arc<TableSchema>,
    epoch: i64,
    keys: &[String],
) -> Result<Repaired, PipelineError> {
    let requests = keys.chunks(KEYS_AT_A_TIME).map(|keys| RepairRequest {
        snapshot: snapshot.name().to_owned(),
        lsn: snapshot.lsn(),
        epoch,
        keys: keys.to_vec(),
    });
    let mut repaired = Repaired::default();
    match writer {
        Writer::Ingester(control) => {
            for request in requests {
                repaired += ask(control, source_name, &schema.id, &request).await?;
            }
        }
        Writer::Own { lake, source, lease } => {
            let mut table = CapturedTable::open(lake, &reference(source), Arc::clone(schema)).await?;
            table.own(lease.term, lease.taken_over).await?;
            let (lane, inbox) = mpsc::unbounded_channel();
            let limits = Limits { rows: 1, bytes: 1, maintenance: Maintenance::default() };
            let running = tokio::spawn(lane::run(table, inbox, limits));
            for request in requests {
                repaired += request.carry_out(snapshot, &schema.id, &lane).await?;
            }
            drop(lane);
            running.await.map_err(|_| PipelineError::Stopped("a lane"))??;
        }
    }
    Ok(repaired)
}

async fn ask(
    control: &Control,
    source_name: &str,
    table: &TableId,
    request: &RepairRequest,
) -> Result<Repaired, PipelineError> {
    let refused = |error: serde_json::Error| PipelineError::RepairRefused {
        table: table.to_string(),
        reason: format!("the answer is of another version of Lakeward: {error}"),
    };
    let argument = serde_json::to_value(request).map_err(refused)?;
    let id =
        control.request_table(source_name, (&table.schema, &table.name), ACTION, Some(&argument)).await?;
    let answer = control.wait_table_request(id, ANSWER_WAIT).await?;
    serde_json::from_value(answer).map_err(refused)
}
