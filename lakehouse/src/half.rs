//! Bronze or silver of a captured table, and how far its source is durable there.

use deltalake::kernel::Metadata;
use lakeward_change::Position;

use crate::{
    LakeError, SourceRef,
    commit::{Txn, Work, commit},
    table::Table,
};

/// The transaction identifier of a table's epoch. It names no source, since a change of source is a new epoch.
const EPOCH: &str = "lakeward/epoch";
/// That of the owner's term.
const TERM: &str = "lakeward/term";
/// That which counts changes of the definition alone.
const DEFINITIONS: &str = "lakeward/definitions";
/// That which counts repairs.
const REPAIRS: &str = "lakeward/repairs";

/// A Delta table and how far the source is durable in it.
pub(crate) struct Half {
    pub(crate) table: Table,
    pub(crate) epoch: Option<i64>,
    pub(crate) durable: Option<Position>,
    /// The greatest term of an owner that has committed.
    pub(crate) term: Option<i64>,
    /// Our own term; every commit carries it.
    pub(crate) own_term: Option<i64>,
}

impl Half {
    pub(crate) async fn open(table: Table, source: &SourceRef) -> Result<Self, LakeError> {
        let mut half = Self { table, epoch: None, durable: None, term: None, own_term: None };
        half.read_progress(source).await?;
        Ok(half)
    }

    pub(crate) async fn read_progress(&mut self, source: &SourceRef) -> Result<(), LakeError> {
        self.epoch = self.table.txn(EPOCH).await?;
        self.term = self.table.txn(TERM).await?;
        if self.own_term.is_some() && self.term > self.own_term {
            return Err(LakeError::OtherWriter { table: self.table.path.clone() });
        }
        self.durable = None;
        if let Some(epoch) = self.epoch {
            let [lsn, order] = position_ids(source, epoch);
            if let (Some(commit), Some(order)) = (self.table.txn(&lsn).await?, self.table.txn(&order).await?)
            {
                self.durable = Some(Position { epoch, commit, order });
            }
        }
        Ok(())
    }

    pub(crate) fn position(&self) -> Result<Position, LakeError> {
        self.durable.ok_or_else(|| LakeError::NotCopied { table: self.table.path.clone() })
    }

    /// Makes this the writer of a term: what a writer of an earlier one has loaded cannot be committed any more once
    /// this one has committed. With `raise` that is at once.
    pub(crate) async fn own(&mut self, term: i64, raise: bool) -> Result<(), LakeError> {
        if self.term > Some(term) {
            return Err(LakeError::OtherWriter { table: self.table.path.clone() });
        }
        self.own_term = Some(term);
        if raise && self.table.state.is_some() && self.term != self.own_term {
            self.send(&Work::Nothing, Vec::new()).await?;
        }
        Ok(())
    }

    /// What the owner's commits carry.
    pub(crate) fn own_txns(&self) -> Vec<Txn> {
        let own = |term| Txn { app_id: TERM.to_owned(), before: self.term, after: term };
        self.own_term.map(own).into_iter().collect()
    }

    /// A commit of the owner's has landed.
    pub(crate) fn owned(&mut self) {
        self.term = self.own_term.or(self.term);
    }

    /// Commits another definition; how far the source is durable stays.
    pub(crate) async fn define(&mut self, metadata: Metadata) -> Result<(), LakeError> {
        let count = self.counted(DEFINITIONS).await?;
        self.send(&Work::Define(Box::new(metadata)), vec![count]).await
    }

    /// Commits work that makes the source durable up to a position.
    pub(crate) async fn commit(
        &mut self,
        source: &SourceRef,
        work: &Work<'_>,
        to: Position,
    ) -> Result<(), LakeError> {
        let [lsn, order] = position_ids(source, to.epoch);
        let before = self.durable.filter(|durable| durable.epoch == to.epoch);
        let mut txns = vec![
            Txn { app_id: lsn, before: before.map(|position| position.commit), after: to.commit },
            Txn { app_id: order, before: before.map(|position| position.order), after: to.order },
        ];
        if self.epoch != Some(to.epoch) {
            txns.push(Txn { app_id: EPOCH.to_owned(), before: self.epoch, after: to.epoch });
        }
        self.send(work, txns).await?;
        self.epoch = Some(to.epoch);
        self.durable = Some(to);
        Ok(())
    }

    /// Commits work after which the source is as far durable as before: the number of repairs says whether it landed.
    pub(crate) async fn repair(&mut self, source: &SourceRef, work: &Work<'_>) -> Result<(), LakeError> {
        let at = self.position()?;
        let [lsn, order] = position_ids(source, at.epoch);
        let txns = vec![
            Txn { app_id: lsn, before: Some(at.commit), after: at.commit },
            Txn { app_id: order, before: Some(at.order), after: at.order },
            self.counted(REPAIRS).await?,
        ];
        self.send(work, txns).await
    }

    /// One more than was counted so far.
    async fn counted(&self, app_id: &str) -> Result<Txn, LakeError> {
        let before = self.table.txn(app_id).await?;
        Ok(Txn { app_id: app_id.to_owned(), before, after: before.unwrap_or(0) + 1 })
    }

    /// Commits as the owner.
    async fn send(&mut self, work: &Work<'_>, mut txns: Vec<Txn>) -> Result<(), LakeError> {
        txns.extend(self.own_txns());
        commit(&mut self.table, work, &txns).await?;
        self.owned();
        Ok(())
    }
}

/// The final LSN of the newest transaction with durable rows here, and the last durable ordinal in it.
fn position_ids(source: &SourceRef, epoch: i64) -> [String; 2] {
    let SourceRef { name, system_id } = source;
    [format!("{name}/{system_id}/{epoch}/lsn"), format!("{name}/{system_id}/{epoch}/order")]
}
