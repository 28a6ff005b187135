//! A captured table: bronze and silver of one source table, and their one writer.

use std::sync::Arc;

use backon::Retryable;
use lakeward_change::{
    ChangeBatch, Evolution, Lsn, Position, Segment, TableId, TableSchema, after, count, fold, halves,
    split_at_truncates,
};

use crate::{
    Lake, LakeError, Layer, WatermarkTable, bronze,
    columns::{check_columns, check_same},
    commit::{Work, backoff},
    definition,
    half::Half,
    letters::Letters,
    silver,
    table::Table,
    upsert::Upsert,
};

/// Stored rows that are read at a time for values which changes kept: such values are long.
const STORED_ROWS: usize = 4096;

/// Where changes come from; its names are part of the transaction identifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRef {
    pub name: String,
    /// The server's own identifier: a restored or another server is another source.
    pub system_id: String,
}

/// The versions that a table's two halves have; -1 where there is no table yet, and for silver of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableVersions {
    pub bronze: i64,
    pub silver: i64,
}

/// Bronze and silver of one source table; of a history ([`TableSchema::is_history`]) bronze alone. There must be one
/// value of this for a table at a time, in one process.
pub struct CapturedTable {
    pub(crate) lake: Lake,
    pub(crate) source: SourceRef,
    pub(crate) schema: Arc<TableSchema>,
    pub(crate) bronze: Half,
    pub(crate) silver: Half,
    pub(crate) letters: Letters,
    /// How `schema` relates to what the halves were captured under.
    pub(crate) evolution: Evolution,
    /// A call failed or was dropped midway: what is durable must be read anew.
    pub(crate) stale: bool,
}

impl Lake {
    /// Fails with [`LakeError::SchemaChanged`] if the silver table was captured with another definition.
    ///
    /// # Errors
    /// Also if the store fails.
    pub async fn check_definition(&self, silver_path: &str, schema: &TableSchema) -> Result<(), LakeError> {
        match Table::open(self, silver_path).await?.captured_schema()? {
            Some(stored) => check_same(silver_path, &stored, schema),
            None => Err(LakeError::NoTable { table: silver_path.to_owned() }),
        }
    }
}

impl CapturedTable {
    /// Reads what there is of the table; creates nothing.
    ///
    /// # Errors
    /// If the store fails, or the columns cannot be those of a Delta table. A changed definition is none:
    /// [`Self::evolution`] tells of it.
    pub async fn open(lake: &Lake, source: &SourceRef, schema: Arc<TableSchema>) -> Result<Self, LakeError> {
        check_columns(&schema)?;
        let half = async |layer| {
            let path = lake.table_path(layer, &source.name, &schema.id);
            Half::open(Table::open(lake, &path).await?, source).await
        };
        let (bronze, silver) = (half(Layer::Bronze).await?, half(Layer::Silver).await?);
        let evolution = definition::since([&bronze, &silver], &schema)?;
        let letters = Letters::open(lake, source, &schema.id, durable(&schema, &bronze, &silver)).await?;
        let (lake, source) = (lake.clone(), source.clone());
        Ok(Self { lake, source, schema, bronze, silver, letters, evolution, stale: false })
    }

    /// Makes this the writer of the owner with `term`, which every commit then carries: one with an earlier term fails
    /// at its next commit after one of ours. With `raise` we commit at once, for an earlier owner may still be alive.
    ///
    /// # Errors
    /// [`LakeError::OtherWriter`] if an owner with a later term has committed; or the store fails.
    pub async fn own(&mut self, term: i64, raise: bool) -> Result<(), LakeError> {
        self.bronze.own(term, raise).await?;
        self.silver.own(term, raise).await
    }

    pub fn id(&self) -> &TableId {
        &self.schema.id
    }

    pub fn schema(&self) -> &Arc<TableSchema> {
        &self.schema
    }

    /// The greatest epoch that either half has seen, also by a copy that died between them.
    pub fn epoch(&self) -> Option<i64> {
        self.bronze.epoch.max(self.silver.epoch)
    }

    /// The epoch for a new copy: one that nothing was written under, also by a copy that died.
    pub fn next_epoch(&self) -> i64 {
        self.epoch().max(self.letters.epoch).map_or(1, |seen| seen + 1)
    }

    /// How far the source is durable in both halves; `None` if there is no whole copy of this source.
    pub fn durable(&self) -> Option<Position> {
        durable(&self.schema, &self.bronze, &self.silver)
    }

    /// Where a consistent cut can be made at the earliest: everything that either half holds committed before.
    pub fn reached(&self) -> Lsn {
        let beyond = |half: &Half| {
            // Copied rows, at order 0, are what committed before their snapshot.
            half.durable.map(|durable| Lsn::from_i64(durable.commit + i64::from(durable.order > 0)))
        };
        let silver = if self.schema.is_history() { None } else { beyond(&self.silver) };
        beyond(&self.bronze).max(silver).unwrap_or_default()
    }

    pub fn versions(&self) -> TableVersions {
        let silver = self.silver.table.version().filter(|_| !self.schema.is_history());
        TableVersions { bronze: self.bronze.table.version().unwrap_or(-1), silver: silver.unwrap_or(-1) }
    }

    pub fn bronze_path(&self) -> &str {
        &self.bronze.table.path
    }

    pub fn silver_path(&self) -> &str {
        &self.silver.table.path
    }

    /// What a watermark says of the table as it is now.
    pub fn watermark_entry(&self) -> WatermarkTable {
        let versions = self.versions();
        WatermarkTable {
            epoch: self.epoch().unwrap_or_default(),
            bronze_path: self.bronze.table.path.clone(),
            bronze_version: versions.bronze,
            silver_path: if self.schema.is_history() {
                String::new()
            } else {
                self.silver.table.path.clone()
            },
            silver_version: versions.silver,
            key: self.schema.key_names().filter(|_| self.schema.has_key()).map(str::to_owned).collect(),
        }
    }

    /// Appends changes to bronze, then merges them into silver. Changes that are durable already are skipped, each
    /// half by its own position, so a source may repeat itself from any point; so are those that were [set
    /// aside](Self::set_aside). `batches` are in position order;
    /// `complete` says that no more changes of the last one's transaction will come; `ingested_at` (microseconds UTC)
    /// is stored with the rows.
    ///
    /// # Errors
    /// If there is no whole copy of the epoch, the changes are out of order, or the store fails for longer than some
    /// retries take. The same changes may be flushed again.
    pub async fn flush(
        &mut self,
        batches: &[ChangeBatch],
        complete: bool,
        ingested_at: i64,
    ) -> Result<(), LakeError> {
        self.refresh_if_stale().await?;
        let Some(mut end) = self.check_order(batches)? else { return Ok(()) };
        if complete {
            end.order = i64::MAX;
        }
        let alive = self.alive(batches)?;
        let batches = alive.as_deref().unwrap_or(batches);
        self.stale = true;
        self.append(batches, end, ingested_at).await?;
        if !self.schema.is_history() {
            self.merge(batches, end).await?;
        }
        self.pass_letters();
        self.stale = false;
        Ok(())
    }

    async fn append(&mut self, batches: &[ChangeBatch], end: Position, at: i64) -> Result<(), LakeError> {
        let path = &self.bronze.table.path;
        let fresh = after(batches, self.bronze.position()?);
        if fresh.is_empty() {
            return Ok(());
        }
        let names = self.bronze_names();
        let rows = fresh
            .iter()
            .map(|changes| bronze::streamed(changes, &names, at))
            .collect::<Result<Vec<_>, _>>()
            .map_err(LakeError::arrow(path))?;
        let stage = || self.bronze.table.stage(&rows);
        let files = stage.retry(backoff()).when(LakeError::is_retryable).await?;
        self.bronze.commit(&self.source, &Work::Append(files), end).await
    }

    async fn merge(&mut self, batches: &[ChangeBatch], end: Position) -> Result<(), LakeError> {
        let mut segments = split_at_truncates(&after(batches, self.silver.position()?));
        // What lies before the last truncate of the whole table leaves nothing behind.
        if let Some(last) = segments.iter().rposition(|segment| matches!(segment, Segment::Truncate(_))) {
            segments.drain(..last);
        }
        let last = segments.len().saturating_sub(1);
        for (index, segment) in segments.iter().enumerate() {
            let at = |position| if index == last { end } else { position };
            match segment {
                Segment::Truncate(position) => {
                    let work = Work::Replace { files: Vec::new(), definition: None };
                    self.silver.commit(&self.source, &work, at(*position)).await?;
                }
                Segment::TruncateLeaves(position, leaves) => {
                    let work = Work::RemoveLeaves { leaves, lake: &self.lake };
                    self.silver.commit(&self.source, &work, at(*position)).await?;
                }
                Segment::Changes(changes) => {
                    let position = changes.last().and_then(ChangeBatch::last_position);
                    let at = position.map_or(end, at);
                    if self.schema.counts_rows() {
                        self.merge_counts(changes, at).await?;
                    } else {
                        self.merge_changes(changes, at).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds what a run without truncates alters in the numbers of equal rows. That happens once, since the position that
    /// the same commit carries says from where on changes count.
    async fn merge_counts(&mut self, changes: &[ChangeBatch], end: Position) -> Result<(), LakeError> {
        let counted = count(changes)?;
        let upsert =
            Upsert::counting(&self.schema, &counted).map_err(LakeError::arrow(&self.silver.table.path))?;
        let (upsert, lake) = (&Arc::new(upsert), &self.lake);
        let work = if counted.counts.is_empty() { Work::Nothing } else { Work::Merge { upsert, lake } };
        self.silver.commit(&self.source, &work, end).await
    }

    /// Merges a run without truncates, in parts where too many stored rows would have to be read at once. Afterwards the
    /// table is durable up to `end`.
    async fn merge_changes(&mut self, changes: &[ChangeBatch], end: Position) -> Result<(), LakeError> {
        let session = self.lake.session();
        let mut runs = vec![changes.to_vec()];
        while let Some(run) = runs.pop() {
            let mut folded = fold(&run)?;
            if folded.stored_keys.num_rows() > STORED_ROWS
                && let Some((first, rest)) = halves(&run)
            {
                runs.extend([rest, first]);
                continue;
            }
            if folded.stored_keys.num_rows() > 0 {
                let stored = silver::stored(&self.silver.table, &session, &folded).await?;
                folded = folded.resolve(&stored)?;
            }
            let upsert =
                Upsert::new(&self.schema, &folded).map_err(LakeError::arrow(&self.silver.table.path))?;
            let work = Work::Merge { upsert: &Arc::new(upsert), lake: &self.lake };
            let at = match run.last().and_then(ChangeBatch::last_position) {
                Some(position) if !runs.is_empty() => position,
                _ => end,
            };
            self.silver.commit(&self.source, &work, at).await?;
        }
        Ok(())
    }

    /// The last change's position; `None` if there is none.
    fn check_order(&self, batches: &[ChangeBatch]) -> Result<Option<Position>, LakeError> {
        let mut last = None;
        for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
            let table = || self.schema.id.to_string();
            let durable = self.durable().ok_or_else(|| LakeError::NotCopied { table: table() })?;
            if batch.epoch != durable.epoch {
                return Err(LakeError::Epoch { table: table(), epoch: durable.epoch, found: batch.epoch });
            }
            check_same(&table(), &batch.table, &self.schema)?;
            if self.evolution != Evolution::Same {
                return Err(LakeError::NotCopied { table: table() });
            }
            let first = batch.position(0);
            if last.is_some_and(|last| first <= last) {
                return Err(LakeError::Order { table: table(), position: first });
            }
            last = batch.last_position();
        }
        Ok(last)
    }

    pub(crate) async fn refresh_if_stale(&mut self) -> Result<(), LakeError> {
        if self.stale {
            for half in [&mut self.bronze, &mut self.silver] {
                half.table.reload().await?;
                half.read_progress(&self.source).await?;
            }
            self.letters.read(self.durable()).await?;
            self.stale = false;
        }
        Ok(())
    }
}

/// How far the source is durable in both halves, or in the one that a history has.
fn durable(schema: &TableSchema, bronze: &Half, silver: &Half) -> Option<Position> {
    if schema.is_history() {
        return bronze.durable;
    }
    let (bronze, silver) = (bronze.durable?, silver.durable?);
    (bronze.epoch == silver.epoch).then(|| bronze.min(silver))
}
