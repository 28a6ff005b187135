//! The first copy of all tables, within one exported snapshot.

use std::sync::Arc;

use chrono::Utc;
use futures::{StreamExt, TryStreamExt, stream};
use lakeward_cdc::Snapshot;
use lakeward_lakehouse::CapturedTable;

use crate::{Event, Observer, PipelineError};

/// Rows a batch of the copy holds.
const BATCH_ROWS: usize = 32 * 1024;

/// Copies every table at the slot's snapshot, `parallel` at a time; each lands whole in one commit or not at all.
pub(crate) async fn copy_all(
    snapshot: &Snapshot,
    tables: Vec<CapturedTable>,
    epoch: i64,
    parallel: usize,
    observer: &Observer,
) -> Result<Vec<CapturedTable>, PipelineError> {
    observer(Event::CopyStarted { tables: tables.len(), snapshot: snapshot.lsn() });
    let taken_at = Utc::now().timestamp_micros();
    stream::iter(tables)
        .map(async |mut table| {
            let id = table.id().clone();
            let rows = snapshot.copy(&id, BATCH_ROWS).await?;
            let progress = {
                let (observer, id) = (Arc::clone(observer), id.clone());
                move |rows| observer(Event::CopyProgress { table: id.clone(), rows })
            };
            let rows = table.copy(epoch, snapshot.lsn(), taken_at, rows, &progress).await?;
            observer(Event::CopyFinished { table: id, rows });
            Ok::<_, PipelineError>(table)
        })
        .buffered(parallel)
        .try_collect()
        .await
}
