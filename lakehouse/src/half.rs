//! Bronze or silver of a captured table, and how far its source is durable there.

use lakeward_change::Position;

use crate::{
    LakeError, SourceRef,
    commit::{Txn, Work, commit},
    table::Table,
};

/// The transaction identifier of a table's epoch. It names no source, since a change of source is a new epoch.
const EPOCH: &str = "lakeward/epoch";

/// A Delta table and how far the source is durable in it.
pub(crate) struct Half {
    pub(crate) table: Table,
    pub(crate) epoch: Option<i64>,
    pub(crate) durable: Option<Position>,
}

impl Half {
    pub(crate) async fn open(table: Table, source: &SourceRef) -> Result<Self, LakeError> {
        let mut half = Self { table, epoch: None, durable: None };
        half.read_progress(source).await?;
        Ok(half)
    }

    pub(crate) async fn read_progress(&mut self, source: &SourceRef) -> Result<(), LakeError> {
        self.epoch = self.table.txn(EPOCH).await?;
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
        commit(&mut self.table, work, &txns).await?;
        self.epoch = Some(to.epoch);
        self.durable = Some(to);
        Ok(())
    }
}

/// The final LSN of the newest transaction with durable rows here, and the last durable ordinal in it.
fn position_ids(source: &SourceRef, epoch: i64) -> [String; 2] {
    let SourceRef { name, system_id } = source;
    [format!("{name}/{system_id}/{epoch}/lsn"), format!("{name}/{system_id}/{epoch}/order")]
}
