//! The first copy of all tables, within one exported snapshot.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use lakeward_cdc::{CdcError, Snapshot};
use lakeward_change::StoppedTable;
use lakeward_lakehouse::{CapturedTable, LakeError};

use crate::{Event, Observer, PipelineError};

/// Rows a batch of the copy holds.
const BATCH_ROWS: usize = 32 * 1024;

/// Copies every table at a snapshot that was `taken_at` (microseconds UTC), `parallel` at a time; each lands whole in one
/// commit or not at all. A table whose keys the lake cannot hold is given back as stopped.
pub(crate) async fn copy_all(
    snapshot: &Snapshot,
    tables: Vec<CapturedTable>,
    epoch: i64,
    taken_at: i64,
    parallel: usize,
    observer: &Observer,
) -> Result<(Vec<CapturedTable>, Vec<StoppedTable>), PipelineError> {
    observer(Event::CopyStarted { tables: tables.len(), snapshot: snapshot.lsn() });
    let copied: Vec<Result<CapturedTable, StoppedTable>> = stream::iter(tables)
        .map(async |mut table| {
            let id = table.id().clone();
            let rows = snapshot.copy(&id, BATCH_ROWS).await?;
            let progress = {
                let (observer, id) = (Arc::clone(observer), id.clone());
                move |rows| observer(Event::CopyProgress { table: id.clone(), rows })
            };
            match table.copy(epoch, snapshot.lsn(), taken_at, rows, &progress).await {
                Ok(rows) => {
                    observer(Event::CopyFinished { table: id, rows });
                    Ok::<_, PipelineError>(Ok(table))
                }
                Err(LakeError::Rows { source, .. })
                    if matches!(source.downcast_ref(), Some(CdcError::Key { .. })) =>
                {
                    Ok(Err(StoppedTable { id, reason: source.to_string() }))
                }
                Err(error) => Err(error.into()),
            }
        })
        .buffered(parallel)
        .try_collect()
        .await?;
    let (mut tables, mut stopped) = (Vec::new(), Vec::new());
    for result in copied {
        match result {
            Ok(table) => tables.push(table),
            Err(table) => stopped.push(table),
        }
    }
    Ok((tables, stopped))
}
