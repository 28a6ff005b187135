//! What of a loaded source cannot be taken in.

use lakeward_change::{DeadLetter, Op, Position, TableId};

use super::{Progress, advance, app_id, progress};
use crate::{
    Lake, LakeError, SourceRef,
    commit::{Work, commit},
    letter_rows,
    table::Table,
};

/// A source's dead letters, each once.
pub struct LoadedLetters {
    lake: Lake,
    source: SourceRef,
    app_id: String,
}

impl LoadedLetters {
    /// `table`: what the letters are of.
    pub fn new(lake: &Lake, source: &SourceRef, table: TableId) -> Self {
        let app_id = format!("dead_letters/{}", app_id(source, &table));
        Self { lake: lake.clone(), source: source.clone(), app_id }
    }

    /// What cannot be taken in of a partition, by its number there: at the position (1, partition, number). `relation` tells
    /// where it came from.
    pub fn letter(
        table: &TableId,
        (partition, number): (i32, i64),
        reason: String,
        message: Vec<u8>,
        relation: Vec<u8>,
    ) -> DeadLetter {
        DeadLetter {
            table: table.clone(),
            position: Position { epoch: 1, commit: i64::from(partition), order: number },
            op: Op::Insert,
            lsn: 0,
            xid: None,
            committed_at: None,
            reason,
            message,
            relation,
        }
    }

    /// How far partitions had letters.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn done(&self, partitions: impl IntoIterator<Item = i32>) -> Result<Progress, LakeError> {
        let stored = Table::open(&self.lake, &letter_rows::path()).await?;
        progress(&stored, &self.app_id, partitions).await
    }

    /// Keeps the letters before `ends` that were not kept yet, made by [`Self::letter`]. `now` is in microseconds
    /// UTC.
    ///
    /// # Errors
    /// If another process keeps the same, or the store fails. The same letters may be kept again.
    pub async fn keep(&self, ends: &Progress, letters: &[DeadLetter], now: i64) -> Result<(), LakeError> {
        if letters.is_empty() {
            return Ok(());
        }
        // Commits that meet each other are tried again; within a process they need not meet.
        let _only = self.lake.letter_files().lock().await;
        let mut stored = Table::open(&self.lake, &letter_rows::path()).await?;
        stored.create(&letter_rows::definition()).await?;
        let done = progress(&stored, &self.app_id, ends.keys().copied()).await?;
        let is_fresh = |letter: &&DeadLetter| {
            let partition = i32::try_from(letter.position.commit).unwrap_or(i32::MAX);
            done.get(&partition).is_none_or(|done| letter.position.order >= *done)
        };
        let fresh: Vec<DeadLetter> = letters.iter().filter(is_fresh).cloned().collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let files = stored.stage(&[letter_rows::batch(&self.source, &fresh, now)?]).await?;
        commit(&mut stored, &Work::Append(files), &advance(&self.app_id, &done, ends)).await
    }
}
