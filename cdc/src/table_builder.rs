//! Builds the [`ChangeBatch`] of one table, change by change.

use std::sync::Arc;

use arrow::{
    array::{
        BooleanArray, BooleanBufferBuilder, Int64Array, NullBufferBuilder, RecordBatch, StructArray,
        TimestampMicrosecondArray,
    },
    datatypes::SchemaRef,
    error::ArrowError,
};
use lakeward_change::{ChangeBatch, Op, Position, TableSchema};

use crate::{
    CdcError,
    protocol::Datum,
    values::{ColumnBuilder, Held},
};

/// What a change carries besides its row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) position: Position,
    pub(crate) lsn: i64,
    pub(crate) xid: i64,
    pub(crate) committed_at: i64,
}

#[derive(Debug)]
pub(crate) struct TableBuilder {
    table: Arc<TableSchema>,
    schema: SchemaRef,
    epoch: i64,
    ops: Vec<Op>,
    commits: Vec<i64>,
    orders: Vec<i64>,
    lsns: Vec<i64>,
    xids: Vec<i64>,
    committed_at: Vec<i64>,
    columns: Vec<ColumnBuilder>,
    unavailable: Vec<Option<BooleanBufferBuilder>>,
    old_keys: Option<OldKeys>,
    /// Rows that could not be taken in whole: they hold places, and are left out in the end.
    dead: Vec<usize>,
    /// Values that their type cannot hold.
    pub(crate) nulled: u64,
}

#[derive(Debug)]
struct OldKeys {
    columns: Vec<ColumnBuilder>,
    present: NullBufferBuilder,
}

impl TableBuilder {
    pub(crate) fn new(table: Arc<TableSchema>, epoch: i64) -> Self {
        Self {
            schema: table.arrow(),
            columns: table.columns.iter().map(|c| ColumnBuilder::new(c.column_type)).collect(),
            unavailable: table.columns.iter().map(|_| None).collect(),
            table,
            epoch,
            ops: Vec::new(),
            commits: Vec::new(),
            orders: Vec::new(),
            lsns: Vec::new(),
            xids: Vec::new(),
            committed_at: Vec::new(),
            old_keys: None,
            dead: Vec::new(),
            nulled: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Appends a change; `row` has one value a column, `old_key` one a key column. After an error the change is left out.
    pub(crate) fn push<'a>(
        &mut self,
        op: Op,
        stamp: Stamp,
        row: impl Iterator<Item = Datum<'a>>,
        old_key: Option<&[Datum<'a>]>,
    ) -> Result<(), CdcError> {
        let before = self.ops.len();
        let (mut taken, mut nulled) = (Ok(()), 0);
        for (index, datum) in row.enumerate() {
            let mask = &mut self.unavailable[index];
            if datum == Datum::Unchanged && mask.is_none() {
                let mut all_there = BooleanBufferBuilder::new(before + 1);
                all_there.append_n(before, false);
                *mask = Some(all_there);
            }
            if let Some(mask) = mask {
                mask.append(datum == Datum::Unchanged);
            }
            match append(&mut self.columns[index], datum, &self.table, index) {
                Ok(count) => nulled += count,
                Err(error) => taken = taken.and(Err(error)),
            }
        }
        if old_key.is_some() && self.old_keys.is_none() {
            let mut columns: Vec<_> = self.key_builders();
            let mut present = NullBufferBuilder::new(before + 1);
            for column in &mut columns {
                (0..before).for_each(|_| column.append_null());
            }
            present.append_n_nulls(before);
            self.old_keys = Some(OldKeys { columns, present });
        }
        if let Some(old_keys) = &mut self.old_keys {
            old_keys.present.append(old_key.is_some());
            for (at, column) in old_keys.columns.iter_mut().enumerate() {
                let datum = old_key.and_then(|key| key.get(at)).copied().unwrap_or(Datum::Null);
                taken = taken.and(append(column, datum, &self.table, self.table.key[at]).map(drop));
            }
        }
        self.ops.push(op);
        self.commits.push(stamp.position.commit);
        self.orders.push(stamp.position.order);
        self.lsns.push(stamp.lsn);
        self.xids.push(stamp.xid);
        self.committed_at.push(stamp.committed_at);
        match &taken {
            Ok(()) => self.nulled += nulled,
            Err(_) => self.dead.push(before),
        }
        taken
    }

    fn key_builders(&self) -> Vec<ColumnBuilder> {
        let key = self.table.key.iter();
        key.map(|&i| ColumnBuilder::new(self.table.columns[i].column_type)).collect()
    }

    /// The batch so far; the builder is empty afterwards.
    pub(crate) fn finish(&mut self) -> Result<ChangeBatch, CdcError> {
        let failed = |source: ArrowError| CdcError::Batch { table: self.table.id.clone(), source };
        let columns = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        let values = RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(failed)?;
        let old_keys = self.old_keys.take().map(|mut old| {
            let columns = old.columns.iter_mut().map(ColumnBuilder::finish).collect();
            let fields = self.table.key_arrow().fields().clone();
            StructArray::try_new(fields, columns, old.present.finish())
        });
        let unavailable = self
            .unavailable
            .iter_mut()
            .map(|mask| mask.take().map(|mut mask| BooleanArray::new(mask.finish(), None)));
        let batch = ChangeBatch {
            table: Arc::clone(&self.table),
            epoch: self.epoch,
            ops: std::mem::take(&mut self.ops),
            commits: Int64Array::from(std::mem::take(&mut self.commits)),
            orders: Int64Array::from(std::mem::take(&mut self.orders)),
            lsns: Int64Array::from(std::mem::take(&mut self.lsns)),
            xids: Int64Array::from(std::mem::take(&mut self.xids)),
            committed_at: TimestampMicrosecondArray::from(std::mem::take(&mut self.committed_at))
                .with_timezone("UTC"),
            values,
            old_keys: old_keys.transpose().map_err(failed)?,
            unavailable: unavailable.collect(),
        };
        match std::mem::take(&mut self.dead) {
            dead if dead.is_empty() => Ok(batch),
            dead => batch.without(&dead).map_err(failed),
        }
    }
}

/// Appends a value, after an error null; gives how many values the type could not hold (0 or 1).
pub(crate) fn append(
    column: &mut ColumnBuilder,
    datum: Datum<'_>,
    table: &TableSchema,
    index: usize,
) -> Result<u64, CdcError> {
    let Datum::Text(text) = datum else {
        column.append_null();
        return Ok(0);
    };
    match column.append_text(text) {
        Ok(Held::Yes) => Ok(0),
        Ok(Held::No) if table.has_key() && table.key.contains(&index) => {
            Err(CdcError::Key { table: table.id.clone(), column: table.columns[index].name.clone() })
        }
        Ok(Held::No) => Ok(1),
        Err(source) => {
            column.append_null();
            Err(CdcError::Value {
                table: table.id.clone(),
                column: table.columns[index].name.clone(),
                source,
            })
        }
    }
}
