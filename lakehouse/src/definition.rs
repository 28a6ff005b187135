//! The definition of a captured table's two halves, and how it follows the source's.

use std::sync::Arc;

use lakeward_change::{Evolution, LEAF, RAW, TableSchema, evolution};

use crate::{
    CapturedTable, Lake, LakeError, bronze,
    half::Half,
    silver::{self, POSITION},
    table::{Definition, Table},
};

/// Silver is copied on write, so its files are smaller: a flush rewrites those that hold a key it touches.
const SILVER_FILE_BYTES: u64 = 32 << 20;
const BRONZE_FILE_BYTES: u64 = 128 << 20;

impl Lake {
    /// The definition that a bronze or silver table was captured under; `None` if there is no such table.
    ///
    /// # Errors
    /// If the store fails, or the definition is damaged.
    pub async fn definition(&self, path: &str) -> Result<Option<TableSchema>, LakeError> {
        Table::open(self, path).await?.captured_schema()
    }

    /// The same, at a version.
    ///
    /// # Errors
    /// Also if there is no such version.
    pub async fn definition_at(&self, path: &str, version: i64) -> Result<Option<TableSchema>, LakeError> {
        Table::open_at(self, path, Some(version)).await?.captured_schema()
    }
}

impl CapturedTable {
    /// How the source's definition relates to the one that the lake's rows were captured under: `Same` for a table that
    /// the lake does not have.
    pub fn evolution(&self) -> &Evolution {
        &self.evolution
    }

    /// Takes in the columns that came, null in all rows so far, and the partitions that came without rows. For another
    /// [`Evolution`] than `Extended` or `Grown` there is nothing to do here: a copy gives the table its new definition.
    ///
    /// # Errors
    /// If the store fails, or another writer has committed.
    pub async fn extend(&mut self) -> Result<(), LakeError> {
        if !matches!(self.evolution, Evolution::Extended | Evolution::Grown) {
            return Ok(());
        }
        self.stale = true;
        self.extend_bronze().await?;
        if !self.schema.is_history() {
            let metadata = self.silver.table.redefined(&self.silver_definition())?;
            self.silver.define(metadata).await?;
        }
        self.evolution = Evolution::Same;
        self.stale = false;
        Ok(())
    }

    /// Gives bronze the columns that the definition has and it has not; old rows and columns stay.
    pub(crate) async fn extend_bronze(&mut self) -> Result<(), LakeError> {
        let same = self.bronze.table.captured_schema()?.as_ref() == Some(&*self.schema);
        if same && !lacks_raw(&self.bronze, &self.schema) {
            return Ok(());
        }
        let metadata = self.bronze.table.redefined(&self.bronze_definition())?;
        self.bronze.define(metadata).await
    }

    pub(crate) fn bronze_names(&self) -> bronze::Names {
        bronze::Names::new(&self.schema, self.bronze.table.arrow_schema().as_deref())
    }

    pub(crate) fn bronze_definition(&self) -> Definition {
        let now = bronze::schema(&self.schema, &self.bronze_names());
        Definition {
            schema: match self.bronze.table.arrow_schema() {
                Some(stored) => bronze::united(&stored, &now),
                None => now,
            },
            partition: Some(bronze::INGEST_DATE),
            statistics: Some(statistics(&self.schema, &[&POSITION[..], &["_committed_at"]].concat())),
            target_file_bytes: BRONZE_FILE_BYTES,
            captured: Some(Arc::clone(&self.schema)),
        }
    }

    pub(crate) fn silver_definition(&self) -> Definition {
        Definition {
            schema: silver::schema(&self.schema),
            partition: None,
            statistics: Some(statistics(&self.schema, &POSITION)),
            target_file_bytes: SILVER_FILE_BYTES,
            captured: Some(Arc::clone(&self.schema)),
        }
    }
}

/// Names of the key's columns, of that of the partition, and the added ones.
fn statistics(table: &TableSchema, added: &[&str]) -> Vec<String> {
    let key = table.key_names().filter(|_| table.has_key());
    let leaf = table.leaf().map(|_| LEAF);
    key.chain(leaf).chain(added.iter().copied()).map(str::to_owned).collect()
}

/// Whether the half was made before values that their columns cannot hold had a column.
fn lacks_raw(half: &Half, table: &TableSchema) -> bool {
    let stored = half.table.arrow_schema();
    table.has_raw() && stored.is_some_and(|stored| stored.field_with_name(RAW).is_err())
}

/// How the definition relates to those that the halves have; the greater change of the two. Silver of what is now a
/// history is what was left behind.
pub(crate) fn since(halves: [&Half; 2], now: &TableSchema) -> Result<Evolution, LakeError> {
    let mut greatest = Evolution::Same;
    for half in halves.into_iter().take(if now.is_history() { 1 } else { 2 }) {
        let Some(stored) = half.table.captured_schema()? else { continue };
        let change = match evolution(&stored, now) {
            Evolution::Same if lacks_raw(half, now) => Evolution::Extended,
            change => change,
        };
        greatest = greatest.max(change);
    }
    Ok(greatest)
}
