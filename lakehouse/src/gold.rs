//! Tables that are computed from others and kept current.

use std::sync::Arc;

use arrow::{
    array::{BooleanArray, RecordBatch},
    datatypes::SchemaRef,
};
use deltalake::datafusion::catalog::TableProvider;
use lakeward_faults::failpoint;

use crate::{
    Lake, LakeError, Layer,
    commit::{Txn, Work, commit},
    features::same_columns,
    layout::slug,
    table::{Definition, Table},
    tidy::tidy,
    upsert::Upsert,
};

const FILE_BYTES: u64 = 64 << 20;

/// A table `gold/{name}`, one row a key, which is its first column. Each commit carries marks: numbers by name that say
/// what of its sources is in it. A commit fails if anybody has committed since the rows and marks were read.
pub struct GoldTable {
    lake: Lake,
    table: Table,
}

impl GoldTable {
    /// Makes the table if there is none.
    ///
    /// # Errors
    /// If the table has other columns, or the store fails.
    pub async fn open(lake: &Lake, name: &str, schema: SchemaRef) -> Result<Self, LakeError> {
        let mut table = Table::open(lake, &format!("{}/{}", Layer::Gold, slug(name))).await?;
        let key = schema.fields().first().map(|key| vec![key.name().clone()]);
        table
            .create(&Definition {
                schema: Arc::clone(&schema),
                partition: None,
                statistics: key,
                target_file_bytes: FILE_BYTES,
                captured: None,
            })
            .await?;
        same_columns(&table, &schema)?;
        Ok(Self { lake: lake.clone(), table })
    }

    /// The table's path in the lake.
    pub fn path(&self) -> &str {
        &self.table.path
    }

    /// Takes in what others have committed. Before each reading that a commit builds on.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn refresh(&mut self) -> Result<(), LakeError> {
        self.table.reload().await
    }

    /// A mark as of the last refresh or commit; `None` if there is none of this name.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn mark(&self, name: &str) -> Result<Option<i64>, LakeError> {
        self.table.txn(name).await
    }

    /// The rows as of the last refresh or commit.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn rows(&self) -> Result<Arc<dyn TableProvider>, LakeError> {
        self.table.provider(&self.lake.session()).await
    }

    /// In one commit: the rows take the places of those with their keys, which come once, those that `deleted` says are
    /// taken out, and the marks are set.
    ///
    /// # Errors
    /// [`LakeError::OtherWriter`] if others have committed since the last refresh; then, or if the store fails, refresh
    /// and look at the marks.
    pub async fn put(
        &mut self,
        rows: RecordBatch,
        deleted: BooleanArray,
        marks: &[(&str, i64)],
    ) -> Result<(), LakeError> {
        let mut txns = Vec::new();
        for &(name, after) in marks {
            txns.push(Txn { before: self.table.txn(name).await?, app_id: name.to_owned(), after });
        }
        if rows.num_rows() == 0 {
            commit(&mut self.table, &Work::Nothing, &txns).await?;
        } else {
            let upsert =
                Upsert::setting(rows, deleted, vec![0]).map_err(LakeError::arrow(&self.table.path))?;
            let work = Work::Merge { upsert: &Arc::new(upsert), lake: &self.lake };
            commit(&mut self.table, &work, &txns).await?;
        }
        Ok(failpoint("gold_committed").await?)
    }

    /// Now and then puts small files together and removes what was replaced an hour ago and longer. `now` is in
    /// microseconds UTC.
    ///
    /// # Errors
    /// If the store fails; the rows are the same either way.
    pub async fn tidy(&mut self, now: i64) -> Result<(), LakeError> {
        tidy(&mut self.table, &self.lake, FILE_BYTES, now).await
    }
}
