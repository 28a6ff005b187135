//! Replay: a change that was dead is put into silver after all, at its own place.
//!
//! What came after it stands: a row whose key a later change concerns, which bronze tells, is left to that change, and
//! the merge compares positions besides. How far the source is durable stays as it is, and bronze gets no entry: a dead
//! change is no part of what was taken in.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{BooleanArray, RecordBatch},
    error::ArrowError,
};
use lakeward_change::{ChangeBatch, fold};

use crate::{
    CapturedTable, LakeError, Replayed, canonical::for_each_row, commit::Work, silver, upsert::Upsert,
};

impl CapturedTable {
    /// Puts one change, which is a letter's, into silver. `applied` are letters' changes of the same epoch that were
    /// replayed before; what has been flushed so far must have been all that is at hand.
    ///
    /// # Errors
    /// [`LakeError::NoKey`] without a key: put in twice, it would count twice. Also if the change is of a later epoch than
    /// the table, or the store fails. It may be replayed again.
    pub async fn replay(
        &mut self,
        change: &ChangeBatch,
        applied: &[ChangeBatch],
    ) -> Result<Replayed, LakeError> {
        if !self.schema.has_key() {
            return Err(LakeError::NoKey { table: self.schema.id.to_string() });
        }
        self.refresh_if_stale().await?;
        let durable = self.silver.position()?;
        let Some(at) = change.last_position() else { return Ok(Replayed::Superseded) };
        if at.epoch < durable.epoch {
            return Ok(Replayed::Superseded);
        }
        if at.epoch > durable.epoch {
            let table = self.schema.id.to_string();
            return Err(LakeError::Epoch { table, epoch: durable.epoch, found: at.epoch });
        }
        let session = self.lake.session();
        let mut folded = fold(std::slice::from_ref(change))?;
        if folded.stored_keys.num_rows() > 0 {
            let stored = silver::stored(&self.silver.table, &session, &folded).await?;
            folded = folded.resolve(&stored)?;
        }
        let path = self.silver.table.path.clone();
        let arrow = LakeError::arrow(&path);
        let mut keys = Vec::new();
        for_each_row(&self.schema, &folded.values, |key, _| keys.push(key.to_vec())).map_err(&arrow)?;
        let wanted: HashSet<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let mut touched = self.touched_since(at, &wanted).await?;
        for later in applied.iter().filter(|later| later.last_position() > Some(at)) {
            for key in self.changed_keys(later).map_err(&arrow)? {
                touched.extend(wanted.get(key.as_slice()));
            }
        }
        let stays: BooleanArray = keys.iter().map(|key| Some(!touched.contains(key.as_slice()))).collect();
        if stays.true_count() == 0 {
            return Ok(Replayed::Superseded);
        }
        let upsert = Upsert::new(&self.schema, &folded).and_then(|upsert| upsert.only(&stays));
        self.stale = true;
        let work = Work::Merge { upsert: &Arc::new(upsert.map_err(&arrow)?), lake: &self.lake };
        self.silver.repair(&self.source, &work).await?;
        self.stale = false;
        Ok(Replayed::Applied)
    }

    /// The keys that changes concern, before and after.
    fn changed_keys(&self, changes: &ChangeBatch) -> Result<Vec<Vec<u8>>, ArrowError> {
        let mut keys = Vec::new();
        for_each_row(&self.schema, &changes.values, |key, _| keys.push(key.to_vec()))?;
        if let Some(old) = &changes.old_keys {
            let key_table = self.key_table();
            let old = RecordBatch::try_new(key_table.arrow(), old.columns().to_vec())?;
            for_each_row(&key_table, &old, |key, _| keys.push(key.to_vec()))?;
        }
        Ok(keys)
    }
}
