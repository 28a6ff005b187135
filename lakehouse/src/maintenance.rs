//! Maintenance of a captured table: rows and positions stay as they are.

use std::collections::BTreeSet;

use crate::{
    CapturedTable, Compacted, Compaction, Lake, LakeError, Retention, Vacuumed, Watermark,
    compaction::compact, table::Table,
};

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
                let txns = half.own_txns();
                done += compact(&mut half.table, &session, compaction, |_| true, &txns).await?;
                half.owned();
            }
        }
        self.stale = false;
        Ok(done)
    }

    /// Removes what no kept watermark needs: watermarks first, then this table's files and log. `now` is in
    /// microseconds UTC. What is kept stays readable at its versions. It commits nothing to the table, so it may run
    /// beside flushes, but not beside a copy: the files of one may wait longer for their commit than the grace.
    ///
    /// # Errors
    /// If the store fails; what was removed until then nobody needs.
    pub fn vacuum(
        &self,
        retention: Retention,
        now: i64,
    ) -> impl Future<Output = Result<Vacuumed, LakeError>> + Send + use<> {
        let (lake, source) = (self.lake.clone(), self.source.name.clone());
        let paths = [&self.bronze, &self.silver].map(|half| half.table.path.clone());
        vacuumed(lake, source, paths.into(), retention, now)
    }

    /// Where past states take more than half of what there is now, they go but for the newest few and the hourly ones.
    /// `None` if none does. Unlike [`Self::vacuum`] it must not run beside a flush.
    ///
    /// # Errors
    /// As [`Self::vacuum`].
    pub async fn relieve(&self, retention: Retention, now: i64) -> Result<Option<Vacuumed>, LakeError> {
        let mut crowded = Vec::new();
        for half in [&self.bronze, &self.silver] {
            if half.table.state.is_some() && half.table.is_crowded().await? {
                crowded.push(half.table.path.clone());
            }
        }
        if crowded.is_empty() {
            return Ok(None);
        }
        let (lake, source) = (self.lake.clone(), self.source.name.clone());
        vacuumed(lake, source, crowded, retention.when_crowded(), now).await.map(Some)
    }
}

async fn vacuumed(
    lake: Lake,
    source: String,
    paths: Vec<String>,
    retention: Retention,
    now: i64,
) -> Result<Vacuumed, LakeError> {
    let watermarks = lake.prune_watermarks(&source, &retention, now).await?;
    let held = lake.held(&source, now).await?;
    let mut done = Vacuumed::default();
    for path in paths {
        let table = Table::open(&lake, &path).await?;
        if table.state.is_some() {
            let versions = |watermarks: &[Watermark]| -> BTreeSet<i64> {
                watermarks.iter().flat_map(|watermark| watermark.versions(&path)).collect()
            };
            let mut kept = versions(&watermarks);
            for version in versions(&held) {
                match Table::open_at(&lake, &path, Some(version)).await {
                    Ok(_) => drop(kept.insert(version)),
                    Err(error) if error.is_retryable() => return Err(error),
                    // It was held too late.
                    Err(_) => {}
                }
            }
            done += table.vacuum(&kept, retention.grace, now).await?;
        }
    }
    Ok(done)
}
