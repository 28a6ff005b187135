//! Maintenance of a captured table by its one writer, between two flushes: rows and positions stay as they are.

use crate::{CapturedTable, Compacted, Compaction, LakeError, Retention, Vacuumed, compaction::compact};

impl CapturedTable {
    /// Puts small files of bronze and silver together; bronze stays partitioned. Holds a few batches in memory.
    ///
    /// # Errors
    /// [`LakeError::OtherWriter`] if someone else commits to the table; else if the store fails. The rows are the same
    /// either way.
    pub async fn optimize(&mut self, compaction: Compaction) -> Result<Compacted, LakeError> {
        self.refresh_if_stale().await?;
        self.stale = true;
        let session = self.lake.serial_session();
        let mut done = Compacted::default();
        for half in [&mut self.bronze, &mut self.silver] {
            if half.table.state.is_some() {
                done += compact(&mut half.table, &session, compaction, |_| true).await?;
            }
        }
        self.stale = false;
        Ok(done)
    }

    /// Removes what no kept watermark needs: watermarks first, then this table's files and log. `now` is in
    /// microseconds UTC. What is kept stays readable at its versions.
    ///
    /// # Errors
    /// If the store fails; what was removed until then nobody needs.
    pub async fn vacuum(&mut self, retention: &Retention, now: i64) -> Result<Vacuumed, LakeError> {
        self.refresh_if_stale().await?;
        let watermarks = self.lake.prune_watermarks(&self.source.name, retention, now).await?;
        let mut done = Vacuumed::default();
        for half in [&self.bronze, &self.silver] {
            if half.table.state.is_some() {
                let versions = watermarks.iter().flat_map(|watermark| watermark.versions(&half.table.path));
                done += half.table.vacuum(&versions.collect(), retention.grace, now).await?;
            }
        }
        Ok(done)
    }
}
