//! Repair: rows of silver that are not the source's are put right.
//!
//! The source's rows come from a snapshot that the table has long passed. A key that the stream has touched since is
//! left alone: its row is the stream's. Of every other key the snapshot still says what the source has, so what is
//! written is right at the table's own position, not only at the snapshot's. Bronze, which holds every change, tells
//! the two apart; it gets no entry, since it is the history of what was read.

use std::{collections::HashSet, ops::AddAssign, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, new_null_array},
    compute::filter_record_batch,
    error::ArrowError,
};
use deltalake::datafusion::logical_expr::{Expr, lit};
use futures::TryStreamExt;
use lakeward_change::{Lsn, Op, Origin, Position, TableSchema, entry_values};
use serde::{Deserialize, Serialize};

use crate::{
    CapturedTable, LakeError,
    canonical::{for_each_row, values},
    commit::Work,
    condition::{beyond, column},
    silver::POSITION,
    upsert::Upsert,
};

/// What a repair did with the keys it was given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// Put right.
    pub keys: u64,
    /// Left alone: the stream has touched them since the snapshot.
    pub passed_over: u64,
}

impl AddAssign for Repaired {
    fn add_assign(&mut self, other: Self) {
        self.keys += other.keys;
        self.passed_over += other.passed_over;
    }
}

impl CapturedTable {
    /// Gives silver, for each of `keys`, the row that the source had at `snapshot`, instead of whatever it holds: one
    /// row where there were several, none where the source has none. `keys` are canonical texts; `rows` are their rows
    /// in [`TableSchema::arrow`]. Everything that committed before the snapshot must have been flushed, under `epoch`.
    /// How far the source is durable stays as it is.
    ///
    /// # Errors
    /// If the table is at another epoch by now, a key is no text of one, or the store fails.
    pub async fn repair(
        &mut self,
        epoch: i64,
        snapshot: Lsn,
        keys: &[String],
        rows: &RecordBatch,
    ) -> Result<Repaired, LakeError> {
        if !self.schema.has_key() {
            return Err(LakeError::NoKey { table: self.schema.id.to_string() });
        }
        self.refresh_if_stale().await?;
        let durable = self.silver.position()?;
        if durable.epoch != epoch {
            let table = self.schema.id.to_string();
            return Err(LakeError::Epoch { table, epoch: durable.epoch, found: epoch });
        }
        let given = keys.iter().map(String::as_bytes).collect::<HashSet<_>>();
        let at = Position { epoch, commit: snapshot.as_i64(), order: 0 };
        let touched = self.touched_since(at, &given).await?;
        let keys: HashSet<&[u8]> = given.difference(&touched).copied().collect();
        let repaired = Repaired { keys: keys.len() as u64, passed_over: touched.len() as u64 };
        if keys.is_empty() {
            return Ok(repaired);
        }
        let rows = of_keys(&self.schema, rows, &keys);
        let replacement = rows
            .and_then(|rows| Upsert::replacing(&self.schema, &keys_alone(&self.schema, &keys)?, &rows, at))
            .map_err(LakeError::arrow(&self.silver.table.path))?;
        self.stale = true;
        let work = Work::Merge { upsert: &Arc::new(replacement), lake: &self.lake };
        self.silver.repair(&self.source, &work).await?;
        self.stale = false;
        Ok(repaired)
    }

    /// Those of the keys that a change beyond a position of the table's epoch concerns.
    pub(crate) async fn touched_since<'k>(
        &self,
        at: Position,
        keys: &HashSet<&'k [u8]>,
    ) -> Result<HashSet<&'k [u8]>, LakeError> {
        let path = &self.bronze.table.path;
        let failed = || LakeError::query(path, "asked for later changes");
        let [of_epoch, commit, order] = POSITION.map(column);
        // A copy's rows, whose orders are negative, are the snapshot's own.
        let later = beyond(&commit, &order, (at.commit, at.order.max(0)));
        let beyond = of_epoch.eq(lit(at.epoch)).and(order.gt(lit(0_i64))).and(later);
        let names = self.bronze_names();
        let wanted: Vec<Expr> = names.keys(&self.schema).into_iter().chain(["_op"]).map(column).collect();
        let session = self.lake.session();
        let mut changes = session
            .read_table(self.bronze.table.provider(&session).await?)
            .and_then(|rows| rows.filter(beyond))
            .and_then(|rows| rows.select(wanted))
            .map_err(failed())?
            .execute_stream()
            .await
            .map_err(failed())?;
        let key_table = self.key_table();
        let mut touched = HashSet::new();
        while let Some(batch) = changes.try_next().await.map_err(failed())? {
            let (old_keys, ops) = (batch.column(key_table.key.len()), batch.column(key_table.key.len() + 1));
            if ops.as_string::<i32>().iter().any(|op| op == Some(Op::Truncate.letter())) {
                return Ok(keys.clone());
            }
            let new_keys = batch.columns()[..key_table.key.len()].to_vec();
            for columns in [new_keys, old_keys.as_struct().columns().to_vec()] {
                let changed = RecordBatch::try_new(key_table.arrow(), columns);
                changed
                    .and_then(|changed| {
                        for_each_row(&key_table, &changed, |key, _| touched.extend(keys.get(key).copied()))
                    })
                    .map_err(LakeError::arrow(path))?;
            }
        }
        Ok(touched)
    }

    /// The key's columns, in the key's order, as a table.
    pub(crate) fn key_table(&self) -> TableSchema {
        let columns = self.schema.key.iter().map(|&column| self.schema.columns[column].clone());
        TableSchema {
            id: self.schema.id.clone(),
            columns: columns.collect(),
            key: (0..self.schema.key.len()).collect(),
            origin: Origin::default(),
        }
    }
}

fn of_keys(
    schema: &TableSchema,
    rows: &RecordBatch,
    keys: &HashSet<&[u8]>,
) -> Result<RecordBatch, ArrowError> {
    let mut wanted = Vec::with_capacity(rows.num_rows());
    for_each_row(schema, rows, |key, _| wanted.push(keys.contains(key)))?;
    filter_record_batch(rows, &BooleanArray::from(wanted))
}

/// Rows that hold their keys and nothing else.
fn keys_alone(schema: &TableSchema, keys: &HashSet<&[u8]>) -> Result<RecordBatch, ArrowError> {
    let no_key = |error: &dyn std::fmt::Display| ArrowError::ParseError(format!("no text of a key: {error}"));
    let mut parts = vec![Vec::with_capacity(keys.len()); schema.key.len()];
    for key in keys {
        let values = entry_values(std::str::from_utf8(key).map_err(|error| no_key(&error))?);
        if values.len() != parts.len() {
            return Err(no_key(&format_args!("{} values for {} columns", values.len(), parts.len())));
        }
        for (part, value) in parts.iter_mut().zip(values) {
            part.push(value);
        }
    }
    let mut columns: Vec<ArrayRef> =
        schema.columns.iter().map(|column| new_null_array(&column.column_type.arrow(), keys.len())).collect();
    for (&column, part) in schema.key.iter().zip(parts) {
        columns[column] = values(schema.columns[column].column_type, &StringArray::from(part))?;
    }
    RecordBatch::try_new(schema.arrow(), columns)
}
