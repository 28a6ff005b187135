//! The copy of a source table, as a snapshot saw it.

use std::pin::pin;

use arrow::{array::RecordBatch, error::ArrowError};
use deltalake::datafile::writer::DeltaWriter;
use futures::{Stream, TryStreamExt};
use lakeward_change::{CopiedRows, Evolution, Lsn, Position};
use lakeward_faults::failpoint;

use crate::{
    CapturedTable, LakeError, bronze,
    commit::Work,
    runs::RunLength,
    silver,
    table::{Table, abandon},
};

impl CapturedTable {
    /// Copies the table: files are written beside what there is, then one commit a half puts them in its place (in
    /// bronze: adds them) under the new epoch; what cannot be taken in is kept as dead letters, before these commits.
    /// `rows` are batches in [`TableSchema::arrow`] as the snapshot at
    /// `snapshot` saw them at `taken_at` (microseconds UTC); `progress` hears how many have been written. Returns how
    /// many there were.
    ///
    /// # Errors
    /// If `epoch` is less than [`Self::next_epoch`], `rows` gives an error, or the store fails.
    ///
    /// [`TableSchema::arrow`]: lakeward_change::TableSchema::arrow
    pub async fn copy<R, E>(
        &mut self,
        epoch: i64,
        snapshot: Lsn,
        taken_at: i64,
        rows: impl Stream<Item = Result<R, E>> + Send,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<u64, LakeError>
    where
        R: Into<CopiedRows>,
        E: std::error::Error + Send + Sync + 'static,
    {
        self.refresh_if_stale().await?;
        if epoch < self.next_epoch() {
            let (table, seen) = (self.schema.id.to_string(), self.next_epoch() - 1);
            return Err(LakeError::Epoch { table, epoch: seen, found: epoch });
        }
        self.stale = true;
        self.create().await?;
        self.extend_bronze().await?;
        let at = Position { epoch, commit: snapshot.as_i64(), order: 0 };
        let mut bronze = Files::new(&self.bronze.table, bronze::schema(&self.schema, &self.bronze_names()))?;
        let mut silver = match self.schema.is_history() {
            true => None,
            false => Some(Files::new(&self.silver.table, silver::schema(&self.schema))?),
        };
        let mut runs = RunLength::default();
        let names = self.bronze_names();
        let copied = async {
            let (mut copied, mut letters) = (0, Vec::new());
            let mut rows = pin!(rows);
            while let Some(batch) = rows.try_next().await.map_err(|error| self.rows_failed(error))? {
                let CopiedRows { rows: batch, letters: dead } = batch.into();
                let arrow = LakeError::arrow(&self.silver.table.path);
                // Letters take their places among the rows: no two of either share one.
                let first = copied as i64 + letters.len() as i64;
                let changes =
                    bronze::copied(&self.schema, &names, &batch, at, first, taken_at).map_err(&arrow)?;
                let current = self.current(&mut runs, &batch, at).map_err(&arrow)?;
                let silver = async {
                    match (&mut silver, current) {
                        (Some(silver), Some(current)) => silver.write(current).await,
                        _ => Ok(()),
                    }
                };
                futures::try_join!(bronze.write(changes), silver)?;
                copied += batch.num_rows() as u64;
                for mut letter in dead {
                    let order = -(copied as i64 + letters.len() as i64 + 1);
                    letter.position = Position { order, ..at };
                    letter.lsn = at.commit;
                    letters.push(letter);
                }
                progress(copied);
                failpoint("chunk_copied").await?;
            }
            if let (Some(silver), Some(last)) = (&mut silver, runs.finish()) {
                let arrow = LakeError::arrow(&self.silver.table.path);
                silver.write(silver::copied_counts(&self.schema, &last, at).map_err(arrow)?).await?;
            }
            Ok((copied, letters))
        };
        let (copied, letters) = match copied.await {
            Ok(copied) => copied,
            Err(error) => {
                bronze.abandon().await;
                if let Some(silver) = silver {
                    silver.abandon().await;
                }
                return Err(error);
            }
        };
        let changes = bronze.close().await?;
        let current = match silver {
            Some(silver) => Some(silver.close().await?),
            None => None,
        };
        failpoint("file_put").await?;
        self.set_aside_copied(&letters, taken_at).await?;
        self.bronze.commit(&self.source, &Work::Append(changes), at).await?;
        if let Some(files) = current {
            let definition = match &self.evolution {
                Evolution::Same => None,
                _ => Some(Box::new(self.silver.table.redefined(&self.silver_definition())?)),
            };
            self.silver.commit(&self.source, &Work::Replace { files, definition }, at).await?;
        }
        self.evolution = Evolution::Same;
        self.stale = false;
        Ok(copied)
    }

    /// What a batch of the copy adds to silver.
    fn current(
        &self,
        runs: &mut RunLength,
        batch: &RecordBatch,
        at: Position,
    ) -> Result<Option<RecordBatch>, ArrowError> {
        if self.schema.counts_rows() {
            let runs = runs.push(&self.schema, batch)?;
            return runs.map(|runs| silver::copied_counts(&self.schema, &runs, at)).transpose();
        }
        if self.schema.is_history() { Ok(None) } else { silver::copied(&self.schema, batch, at).map(Some) }
    }

    fn rows_failed(&self, error: impl std::error::Error + Send + Sync + 'static) -> LakeError {
        LakeError::Rows { table: self.schema.id.to_string(), source: Box::new(error) }
    }

    async fn create(&mut self) -> Result<(), LakeError> {
        let definition = self.bronze_definition();
        self.bronze.table.create(&definition).await?;
        if self.schema.is_history() {
            return Ok(());
        }
        let definition = self.silver_definition();
        self.silver.table.create(&definition).await
    }
}

/// Files being written for a table.
struct Files {
    path: String,
    /// Out only while a batch is written.
    writer: Option<DeltaWriter>,
}

impl Files {
    fn new(table: &Table, schema: arrow::datatypes::SchemaRef) -> Result<Self, LakeError> {
        Ok(Self { path: table.path.clone(), writer: Some(table.writer(schema)?) })
    }

    /// Encodes in a task of its own, so that several tables' files are written on several cores.
    async fn write(&mut self, batch: RecordBatch) -> Result<(), LakeError> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let written = tokio::spawn(async move {
            let result = writer.write(&batch).await;
            (writer, result)
        });
        let (writer, result) = written
            .await
            .map_err(|error| LakeError::Rows { table: self.path.clone(), source: Box::new(error) })?;
        self.writer = Some(writer);
        result.map_err(LakeError::delta(&self.path, "written to"))
    }

    async fn close(self) -> Result<Vec<deltalake::kernel::Add>, LakeError> {
        match self.writer {
            Some(writer) => writer.close().await.map_err(LakeError::delta(&self.path, "written to")),
            None => Ok(Vec::new()),
        }
    }

    async fn abandon(self) {
        if let Some(writer) = self.writer {
            abandon(writer).await;
        }
    }
}
