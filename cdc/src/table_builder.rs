//! Builds the [`ChangeBatch`] of one table, change by change.

use std::{borrow::Cow, sync::Arc};

use arrow::{
    array::{
        BooleanArray, BooleanBufferBuilder, Int64Array, NullBufferBuilder, RecordBatch, StructArray,
        TimestampMicrosecondArray,
    },
    datatypes::SchemaRef,
    error::ArrowError,
};
use lakeward_change::{ChangeBatch, Op, Position, RawBuilder, TableSchema, with_raw};

use crate::{
    CdcError,
    hash::Salt,
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
    /// Columns of the key whose type has values that the lake lacks.
    risky_key: Vec<usize>,
    salt: Salt,
    /// Values that their type cannot hold, and how many there were so far.
    raw: RawBuilder,
    pub(crate) nulled: u64,
}

#[derive(Debug)]
struct OldKeys {
    columns: Vec<ColumnBuilder>,
    present: NullBufferBuilder,
}

impl TableBuilder {
    pub(crate) fn new(table: Arc<TableSchema>, epoch: i64, salt: &Salt) -> Self {
        Self {
            schema: table.arrow(),
            columns: table.columns.iter().map(|c| ColumnBuilder::salted(c.column_type, salt)).collect(),
            unavailable: table.columns.iter().map(|_| None).collect(),
            risky_key: table
                .key
                .iter()
                .copied()
                .filter(|&i| table.columns[i].column_type.is_partial())
                .collect(),
            table,
            epoch,
            ops: Vec::new(),
            commits: Vec::new(),
            orders: Vec::new(),
            lsns: Vec::new(),
            xids: Vec::new(),
            committed_at: Vec::new(),
            old_keys: None,
            salt: salt.clone(),
            raw: RawBuilder::default(),
            nulled: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// A key column whose value the lake cannot hold, in the row or in the key before: without it the row could not be
    /// found again.
    pub(crate) fn lost_key<'a>(
        &self,
        row: impl Iterator<Item = Datum<'a>>,
        old_key: Option<&[Datum<'a>]>,
    ) -> Option<&str> {
        if self.risky_key.is_empty() {
            return None;
        }
        let now = row.enumerate();
        let before =
            old_key.into_iter().flatten().enumerate().map(|(at, datum)| (self.table.key[at], *datum));
        let lost = now.chain(before).find(|(index, datum)| {
            let Datum::Text(text) = datum else { return false };
            self.risky_key.contains(index)
                && ColumnBuilder::new(self.table.columns[*index].column_type).append_text(text)
                    == Ok(Held::No)
        });
        lost.map(|(index, _)| self.table.columns[index].name.as_str())
    }

    /// Appends a change; `row` has one value a column, `old_key` one a key column.
    pub(crate) fn push<'a>(
        &mut self,
        op: Op,
        stamp: Stamp,
        row: impl Iterator<Item = Datum<'a>>,
        old_key: Option<&[Datum<'a>]>,
    ) -> Result<(), CdcError> {
        let before = self.ops.len();
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
            if let Some(text) = append(&mut self.columns[index], datum, &self.table, index)? {
                self.raw.push(before, &self.table.columns[index].name, text);
                self.nulled += 1;
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
                append(column, datum, &self.table, self.table.key[at])?;
            }
        }
        self.ops.push(op);
        self.commits.push(stamp.position.commit);
        self.orders.push(stamp.position.order);
        self.lsns.push(stamp.lsn);
        self.xids.push(stamp.xid);
        self.committed_at.push(stamp.committed_at);
        Ok(())
    }

    fn key_builders(&self) -> Vec<ColumnBuilder> {
        let key = self.table.key.iter();
        key.map(|&i| ColumnBuilder::salted(self.table.columns[i].column_type, &self.salt)).collect()
    }

    /// The batch so far; the builder is empty afterwards.
    pub(crate) fn finish(&mut self) -> Result<ChangeBatch, CdcError> {
        let failed = |source: ArrowError| CdcError::Batch { table: self.table.id.clone(), source };
        let columns = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        let values = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .and_then(|values| with_raw(values, self.raw.finish(self.ops.len())?))
            .map_err(failed)?;
        let old_keys = self.old_keys.take().map(|mut old| {
            let columns = old.columns.iter_mut().map(ColumnBuilder::finish).collect();
            let fields = self.table.key_arrow().fields().clone();
            StructArray::try_new(fields, columns, old.present.finish())
        });
        let unavailable = self
            .unavailable
            .iter_mut()
            .map(|mask| mask.take().map(|mut mask| BooleanArray::new(mask.finish(), None)));
        Ok(ChangeBatch {
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
        })
    }
}

/// Appends a value; gives its text if the type could not hold it, and null stands for it.
pub(crate) fn append<'a>(
    column: &mut ColumnBuilder,
    datum: Datum<'a>,
    table: &TableSchema,
    index: usize,
) -> Result<Option<Cow<'a, str>>, CdcError> {
    let Datum::Text(text) = datum else {
        column.append_null();
        return Ok(None);
    };
    match column.append_text(text) {
        Ok(Held::Yes) => Ok(None),
        Ok(Held::No) if table.key.contains(&index) => {
            Err(CdcError::Key { table: table.id.clone(), column: table.columns[index].name.clone() })
        }
        Ok(Held::No) => Ok(Some(String::from_utf8_lossy(text))),
        Err(source) => Err(CdcError::Value {
            table: table.id.clone(),
            column: table.columns[index].name.clone(),
            source,
        }),
    }
}
