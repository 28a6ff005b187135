//! A batch of changes of one table, columnar.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, Int64Array, RecordBatch,
        RecordBatchOptions, StructArray, TimestampMicrosecondArray, UInt32Array,
    },
    compute::{filter, take},
    datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType},
    error::ArrowError,
};

use crate::{Position, TableSchema};

/// What happened to a row; the letters are Debezium's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Copied from a snapshot.
    Read,
    Insert,
    Update,
    Delete,
    /// All rows that are older were removed, or those of one partition: the row image is empty, but for
    /// [`crate::LEAF`] if there is a partition.
    Truncate,
}

impl Op {
    pub fn letter(self) -> &'static str {
        match self {
            Self::Read => "r",
            Self::Insert => "c",
            Self::Update => "u",
            Self::Delete => "d",
            Self::Truncate => "t",
        }
    }

    pub fn from_letter(letter: &str) -> Option<Self> {
        [Self::Read, Self::Insert, Self::Update, Self::Delete, Self::Truncate]
            .into_iter()
            .find(|op| op.letter() == letter)
    }
}

/// Changes of one table in commit order: positions never fall from one row to the next.
///
/// All parts have one entry a change. Every row belongs to the same `epoch`.
#[derive(Debug, Clone)]
pub struct ChangeBatch {
    pub table: Arc<TableSchema>,
    pub epoch: i64,
    pub ops: Vec<Op>,
    /// Final LSN of the change's transaction ([`crate::Position::commit`]).
    pub commits: Int64Array,
    /// Ordinal in the transaction ([`crate::Position::order`]).
    pub orders: Int64Array,
    /// The change's own LSN: kept for people, never an order.
    pub lsns: Int64Array,
    /// Transaction ids.
    pub xids: Int64Array,
    /// Commit times, microseconds UTC.
    pub committed_at: TimestampMicrosecondArray,
    /// Row images in the schema [`TableSchema::arrow`]: the new row of inserts and updates, the key of deletes. Where a
    /// value does not fit its column, it is null there and text in one more column, [`crate::RAW`].
    pub values: RecordBatch,
    /// For updates that changed the key, and inserts that lack a value of the row of another key: the key before, in the schema [`TableSchema::key_arrow`], perhaps with
    /// [`crate::RAW`] behind it if that is the whole row; null elsewhere. `None` if no change of the batch did.
    pub old_keys: Option<StructArray>,
    /// For each column, where the source did not send the value because it is unchanged (TOAST): true = unavailable,
    /// and `values` holds null there. `None` for columns that are whole.
    pub unavailable: Vec<Option<BooleanArray>>,
}

/// A filter of so many rows that leaves some out, given by their places.
pub fn all_but(rows: usize, left_out: &[usize]) -> BooleanArray {
    let mut stays = BooleanBufferBuilder::new(rows);
    stays.append_n(rows, true);
    left_out.iter().for_each(|row| stays.set_bit(*row, false));
    BooleanArray::new(stays.finish(), None)
}

impl ChangeBatch {
    pub fn num_rows(&self) -> usize {
        self.ops.len()
    }

    pub fn schema(&self) -> SchemaRef {
        self.values.schema()
    }

    /// The place of a change in the order of commits.
    pub fn position(&self, row: usize) -> Position {
        Position { epoch: self.epoch, commit: self.commits.value(row), order: self.orders.value(row) }
    }

    /// The place of the last change; `None` if there is none.
    pub fn last_position(&self) -> Option<Position> {
        self.num_rows().checked_sub(1).map(|row| self.position(row))
    }

    /// The one partition that a truncate emptied; `None` if it emptied the table.
    pub fn truncated_leaf(&self, row: usize) -> Option<&str> {
        let leaves = self.values.column(self.table.leaf()?).as_string_opt::<i32>()?;
        leaves.is_valid(row).then(|| leaves.value(row))
    }

    /// The changes at some places, in their order.
    ///
    /// # Errors
    /// If the parts do not make a batch.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn chosen(&self, rows: &UInt32Array) -> Result<Self, ArrowError> {
        let ops = rows.values().iter().map(|row| self.ops[*row as usize]).collect();
        self.picked(ops, |part| take(part, rows, None))
    }

    /// All changes but those at some places.
    ///
    /// # Errors
    /// If the parts differ in length.
    pub fn without(&self, rows: &[usize]) -> Result<Self, ArrowError> {
        let stays = all_but(self.num_rows(), rows);
        let ops = self.ops.iter().zip(stays.values()).filter(|(_, stays)| *stays).map(|(op, _)| *op);
        self.picked(ops.collect(), |part| filter(part, &stays))
    }

    /// The changes that `pick` takes out of each part.
    fn picked(
        &self,
        ops: Vec<Op>,
        pick: impl Fn(&dyn Array) -> Result<ArrayRef, ArrowError>,
    ) -> Result<Self, ArrowError> {
        let numbers = |part| Ok::<_, ArrowError>(pick(part)?.as_primitive::<Int64Type>().clone());
        let mask = |mask: &Option<BooleanArray>| {
            mask.as_ref().map(|mask| Ok(pick(mask)?.as_boolean().clone())).transpose()
        };
        let old_keys =
            self.old_keys.as_ref().map(|keys| Ok::<_, ArrowError>(pick(keys)?.as_struct().clone()));
        let values = self.values.columns().iter().map(|values| pick(values)).collect::<Result<_, _>>()?;
        let count = RecordBatchOptions::new().with_row_count(Some(ops.len()));
        Ok(Self {
            table: Arc::clone(&self.table),
            epoch: self.epoch,
            ops,
            commits: numbers(&self.commits)?,
            orders: numbers(&self.orders)?,
            lsns: numbers(&self.lsns)?,
            xids: numbers(&self.xids)?,
            committed_at: pick(&self.committed_at)?.as_primitive::<TimestampMicrosecondType>().clone(),
            values: RecordBatch::try_new_with_options(self.values.schema(), values, &count)?,
            old_keys: old_keys.transpose()?,
            unavailable: self.unavailable.iter().map(mask).collect::<Result<_, ArrowError>>()?,
        })
    }

    /// Some of the changes in a row, without a copy of their values.
    pub fn slice(&self, offset: usize, length: usize) -> Self {
        Self {
            table: Arc::clone(&self.table),
            epoch: self.epoch,
            ops: self.ops[offset..offset + length].to_vec(),
            commits: self.commits.slice(offset, length),
            orders: self.orders.slice(offset, length),
            lsns: self.lsns.slice(offset, length),
            xids: self.xids.slice(offset, length),
            committed_at: self.committed_at.slice(offset, length),
            values: self.values.slice(offset, length),
            old_keys: self.old_keys.as_ref().map(|keys| keys.slice(offset, length)),
            unavailable: self
                .unavailable
                .iter()
                .map(|mask| mask.as_ref().map(|mask| mask.slice(offset, length)))
                .collect(),
        }
    }
}
