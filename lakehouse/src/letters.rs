//! Dead letters: changes that could not be taken in, in `ops/dead_letters`, which the writers of all tables append to.
//!
//! A table's letters have transaction identifiers of their own, and are committed before the table's commit that passes
//! their positions. So after a crash between the two the letters beyond what is durable in the table are exactly the
//! changes that are dead, whatever is thought of them now; all others are decided afresh.

use std::collections::BTreeSet;

use deltalake::datafusion::logical_expr::lit;
use lakeward_change::{ChangeBatch, DeadLetter, Position, TableId};
use lakeward_faults::failpoint;

use crate::{
    CapturedTable, Lake, LakeError, SourceRef,
    commit::{Txn, Work, commit},
    condition::{beyond, column},
    letter_rows as rows,
    table::Table,
};

/// The letters of one captured table.
pub(crate) struct Letters {
    lake: Lake,
    source: SourceRef,
    table: TableId,
    /// The greatest epoch that has letters, also of a copy that never landed.
    pub(crate) epoch: Option<i64>,
    /// How many were written, as far as we know.
    written: Option<i64>,
    /// Those beyond what is durable in the table: these changes are dead.
    dead: BTreeSet<Position>,
}

impl Letters {
    /// `durable`: what is durable in both halves of the table.
    pub(crate) async fn open(
        lake: &Lake,
        source: &SourceRef,
        table: &TableId,
        durable: Option<Position>,
    ) -> Result<Self, LakeError> {
        let (lake, source, table) = (lake.clone(), source.clone(), table.clone());
        let mut letters = Self { lake, source, table, epoch: None, written: None, dead: BTreeSet::new() };
        letters.read(durable).await?;
        Ok(letters)
    }

    pub(crate) async fn read(&mut self, durable: Option<Position>) -> Result<(), LakeError> {
        let stored = Table::open(&self.lake, &rows::path()).await?;
        self.read_from(&stored, durable).await
    }

    async fn read_from(&mut self, stored: &Table, durable: Option<Position>) -> Result<(), LakeError> {
        self.dead.clear();
        self.written = stored.txn(&self.app_id("written")).await?;
        if self.written.is_none() {
            return Ok(());
        }
        self.epoch = stored.txn(&self.app_id("epoch")).await?;
        let Some(durable) = durable.filter(|durable| self.epoch == Some(durable.epoch)) else {
            return Ok(());
        };
        if self.last(stored, durable.epoch).await?.is_some_and(|last| last > durable) {
            self.dead = self.beyond(stored, durable).await?;
        }
        Ok(())
    }

    /// The position of the last letter of an epoch.
    async fn last(&self, stored: &Table, epoch: i64) -> Result<Option<Position>, LakeError> {
        let [lsn, order] = self.position_ids(epoch);
        let (commit, order) = (stored.txn(&lsn).await?, stored.txn(&order).await?);
        Ok(commit.zip(order).map(|(commit, order)| Position { epoch, commit, order }))
    }

    async fn beyond(&self, stored: &Table, durable: Position) -> Result<BTreeSet<Position>, LakeError> {
        let place = (durable.commit, durable.order);
        let mine = rows::of_table(&self.source, &self.table)
            .and(column(rows::EPOCH).eq(lit(durable.epoch)))
            .and(beyond(&column(rows::COMMIT), &column(rows::ORDINAL), place));
        let found = rows::read(&self.lake, stored, Some(mine), false).await?;
        Ok(found.into_iter().map(|stored| stored.letter.position).collect())
    }

    /// Appends those that are new: beyond what is durable, and not there yet.
    async fn append(
        &mut self,
        letters: &[DeadLetter],
        durable: Option<Position>,
        term: Option<i64>,
        now: i64,
    ) -> Result<(), LakeError> {
        let lake = self.lake.clone();
        // Commits that meet each other are tried again; within a process they need not meet.
        let _only = lake.letter_files().lock().await;
        let mut stored = Table::open(&self.lake, &rows::path()).await?;
        stored.create(&rows::definition()).await?;
        let term_id = self.app_id("term");
        let owner = stored.txn(&term_id).await?;
        if term.is_some() && owner > term {
            return Err(LakeError::OtherWriter { table: format!("{} for {}", rows::path(), self.table) });
        }
        if stored.txn(&self.app_id("written")).await? != self.written {
            self.read_from(&stored, durable).await?;
        }
        let fresh = |letter: &&DeadLetter| {
            durable.is_none_or(|durable| letter.position > durable) && !self.dead.contains(&letter.position)
        };
        let fresh: Vec<DeadLetter> = letters.iter().filter(fresh).cloned().collect();
        let Some(newest) = fresh.iter().map(|letter| letter.position).max() else { return Ok(()) };
        let before = self.last(&stored, newest.epoch).await?;
        let last = before.map_or(newest, |before| before.max(newest));
        let written = self.written.unwrap_or(0) + fresh.len() as i64;
        let [lsn, order] = self.position_ids(newest.epoch);
        let mut txns = vec![
            Txn { app_id: lsn, before: before.map(|before| before.commit), after: last.commit },
            Txn { app_id: order, before: before.map(|before| before.order), after: last.order },
            Txn { app_id: self.app_id("written"), before: self.written, after: written },
        ];
        if self.epoch != Some(newest.epoch) {
            txns.push(Txn { app_id: self.app_id("epoch"), before: self.epoch, after: newest.epoch });
        }
        txns.extend(term.map(|term| Txn { app_id: term_id, before: owner, after: term }));
        let files = stored.stage(&[rows::batch(&self.source, &fresh, now)?]).await?;
        commit(&mut stored, &Work::Append(files), &txns).await?;
        failpoint("letters_committed").await?;
        self.epoch = Some(newest.epoch);
        self.written = Some(written);
        self.dead.extend(fresh.iter().map(|letter| letter.position));
        Ok(())
    }

    fn app_id(&self, of: &str) -> String {
        let (SourceRef { name, system_id }, TableId { schema, name: table }) = (&self.source, &self.table);
        // Quoted, so that no two tables share one.
        format!("dead_letters/{name}/{system_id}/{schema:?}.{table:?}/{of}")
    }

    fn position_ids(&self, epoch: i64) -> [String; 2] {
        ["lsn", "order"].map(|of| self.app_id(&format!("{epoch}/{of}")))
    }
}

impl CapturedTable {
    /// Keeps changes that cannot be taken in, before the [`flush`](Self::flush) that passes them. What is kept already, or
    /// durable in the table, is skipped. From then on these changes are dead: `flush` leaves them out, also in another
    /// process, should they come again and be readable then. `now` is in microseconds UTC.
    ///
    /// # Errors
    /// If there is no whole copy of their epoch, or the store fails for longer than some retries take. The same letters
    /// may be set aside again.
    pub async fn set_aside(&mut self, letters: &[DeadLetter], now: i64) -> Result<(), LakeError> {
        self.refresh_if_stale().await?;
        let table = || self.schema.id.to_string();
        let durable = self.durable().ok_or_else(|| LakeError::NotCopied { table: table() })?;
        if let Some(other) = letters.iter().find(|letter| letter.position.epoch != durable.epoch) {
            let found = other.position.epoch;
            return Err(LakeError::Epoch { table: table(), epoch: durable.epoch, found });
        }
        self.stale = true;
        self.letters.append(letters, Some(durable), self.bronze.own_term, now).await?;
        self.stale = false;
        Ok(())
    }

    /// Keeps the rows of a copy that is about to land.
    pub(crate) async fn set_aside_copied(
        &mut self,
        letters: &[DeadLetter],
        now: i64,
    ) -> Result<(), LakeError> {
        if letters.is_empty() {
            return Ok(());
        }
        self.letters.append(letters, None, self.bronze.own_term, now).await
    }

    /// The changes that are not dead.
    pub(crate) fn alive(&self, batches: &[ChangeBatch]) -> Result<Option<Vec<ChangeBatch>>, LakeError> {
        let dead = &self.letters.dead;
        if dead.is_empty() {
            return Ok(None);
        }
        let alive = batches.iter().map(|batch| {
            let buried = (0..batch.num_rows()).filter(|row| dead.contains(&batch.position(*row)));
            batch.without(&buried.collect::<Vec<_>>()).map_err(LakeError::arrow(&rows::path()))
        });
        alive.collect::<Result<_, _>>().map(Some)
    }

    /// The table has passed some of its letters.
    pub(crate) fn pass_letters(&mut self) {
        if let Some(durable) = self.durable() {
            self.letters.dead.retain(|position| *position > durable);
        }
    }
}
