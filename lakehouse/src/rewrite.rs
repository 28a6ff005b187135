//! Files written anew: with other rows in them, or the same rows in fewer files.

use std::sync::Arc;

use arrow::{array::RecordBatch, error::ArrowError};
use deltalake::{
    datafusion::{execution::SendableRecordBatchStream, logical_expr::Expr, prelude::SessionContext},
    kernel::{Add, Remove},
};
use futures::TryStreamExt;
use lakeward_faults::failpoint;
use object_store::path::Path;

use crate::{
    LakeError,
    table::{Table, abandon},
};

/// The column that names a row's file in what [`rows_by_file`] gives.
pub(crate) const FILE: &str = "_file";

/// A file that is to go.
pub(crate) struct OldFile {
    pub(crate) removed: Remove,
    pub(crate) bytes: u64,
    /// As its statistics say.
    rows: Option<usize>,
}

/// Files that take others' places.
#[derive(Default)]
pub(crate) struct Rewritten {
    pub(crate) removed: Vec<Remove>,
    pub(crate) added: Vec<Add>,
}

/// The loaded state's files that `chosen` names by their paths.
pub(crate) fn old_files(
    table: &Table,
    data_change: bool,
    chosen: impl Fn(&str) -> bool,
) -> Result<Vec<OldFile>, LakeError> {
    let log = table.snapshot()?.try_log_data().map_err(LakeError::delta(&table.path, "listed"))?;
    let files = log.iter().filter(|file| chosen(&file.path())).map(|file| OldFile {
        removed: file.remove_action(data_change),
        bytes: u64::try_from(file.size()).unwrap_or_default(),
        rows: file.num_records(),
    });
    Ok(files.collect())
}

/// Columns of the rows that may meet a condition, and the URLs of the files that they are in.
pub(crate) async fn rows_by_file(
    table: &Table,
    session: &SessionContext,
    condition: Expr,
    columns: Vec<Expr>,
) -> Result<SendableRecordBatchStream, LakeError> {
    let failed = || LakeError::query(&table.path, "searched");
    let rows = session
        .read_table(table.provider_with_files(session, FILE).await?)
        .and_then(|rows| rows.filter(condition))
        .and_then(|rows| rows.select(columns))
        .map_err(failed())?;
    rows.execute_stream().await.map_err(failed())
}

/// Writes the rows of some files anew in their order, each batch as `change` leaves it, and then those in `added`.
pub(crate) async fn rewrite(
    table: &Table,
    session: &SessionContext,
    files: &[OldFile],
    mut change: impl FnMut(RecordBatch) -> Result<RecordBatch, ArrowError>,
    added: Option<RecordBatch>,
) -> Result<Vec<Add>, LakeError> {
    let failed = || LakeError::query(&table.path, "rewritten");
    let paths = files.iter().map(|file| String::from(Path::from(file.removed.path.as_str())));
    let provider = table.files(session, paths).await?;
    let schema = provider.schema();
    let mut batches =
        session.read_table(provider).map_err(failed())?.execute_stream().await.map_err(failed())?;
    let mut writer = table.writer(Arc::clone(&schema))?;
    let written = async {
        let mut read = 0;
        let mut write = async |batch: RecordBatch| {
            let batch = RecordBatch::try_new(Arc::clone(&schema), batch.columns().to_vec())
                .map_err(LakeError::arrow(&table.path))?;
            writer.write(&batch).await.map_err(LakeError::delta(&table.path, "rewritten"))
        };
        while let Some(batch) = batches.try_next().await.map_err(failed())? {
            read += batch.num_rows();
            write(change(batch).map_err(LakeError::arrow(&table.path))?).await?;
        }
        let rows = files.iter().try_fold(0, |rows, file| Some(rows + file.rows?));
        if rows.is_some_and(|rows| rows != read) {
            let reason = format!("files of {rows:?} rows were read as {read}");
            return Err(LakeError::Damaged { table: table.path.clone(), reason });
        }
        if let Some(added) = added {
            write(added).await?;
        }
        Ok(())
    };
    if let Err(error) = written.await {
        abandon(writer).await;
        return Err(error);
    }
    let files = writer.close().await.map_err(LakeError::delta(&table.path, "rewritten"))?;
    failpoint("file_put").await?;
    Ok(files)
}
