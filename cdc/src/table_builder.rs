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
use lakeward_change::{ChangeBatch, Op, Position, RawBuilder, TableSchema, raw_field, with_raw};

use crate::{
    CdcError,
    hash::Salt,
    protocol::Datum,
    values::{ColumnBuilder, Held, ValueError},
};

/// A value as its source writes it.
pub(crate) trait SourceValue: Copy {
    /// It is unchanged, and was not sent.
    fn is_unavailable(self) -> bool;

    /// Appends it, or null if it is null or unavailable; gives the text that Postgres writes if the column's type cannot
    /// hold it, and null stands for it. On an error nothing is appended.
    fn append(self, column: &mut ColumnBuilder) -> Result<Option<String>, ValueError>;
}

impl SourceValue for Datum<'_> {
    fn is_unavailable(self) -> bool {
        self == Self::Unchanged
    }

    fn append(self, column: &mut ColumnBuilder) -> Result<Option<String>, ValueError> {
        let Self::Text(text) = self else {
            column.append_null();
            return Ok(None);
        };
        Ok(match column.append_text(text)? {
            Held::Yes => None,
            Held::No => Some(String::from_utf8_lossy(text).into_owned()),
        })
    }
}

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
    salt: Salt,
    /// Values that their type cannot hold, and how many there were so far.
    raw: RawBuilder,
    /// Rows that could not be taken in whole: they hold places, and are left out in the end.
    dead: Vec<usize>,
    pub(crate) nulled: u64,
}

#[derive(Debug)]
struct OldKeys {
    columns: Vec<ColumnBuilder>,
    present: NullBufferBuilder,
    raw: RawBuilder,
}

impl TableBuilder {
    pub(crate) fn new(table: Arc<TableSchema>, epoch: i64, salt: &Salt) -> Self {
        Self {
            schema: table.arrow(),
            columns: table.columns.iter().map(|c| ColumnBuilder::new(c.column_type, salt)).collect(),
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
            salt: salt.clone(),
            raw: RawBuilder::default(),
            dead: Vec::new(),
            nulled: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Appends a change; `row` has one value a column, `old_key` one a key column. After an error the change is left out.
    pub(crate) fn push<V: SourceValue>(
        &mut self,
        op: Op,
        stamp: Stamp,
        row: impl Iterator<Item = V>,
        old_key: Option<&[V]>,
    ) -> Result<(), CdcError> {
        let before = self.ops.len();
        let (mut taken, mut texts, mut old_texts) = (Ok(()), Vec::new(), Vec::new());
        for (index, datum) in row.enumerate() {
            let mask = &mut self.unavailable[index];
            let unavailable = datum.is_unavailable();
            if unavailable && mask.is_none() {
                let mut all_there = BooleanBufferBuilder::new(before + 1);
                all_there.append_n(before, false);
                *mask = Some(all_there);
            }
            if let Some(mask) = mask {
                mask.append(unavailable);
            }
            match append(&mut self.columns[index], datum, &self.table, index) {
                Ok(text) => texts.extend(text.map(|text| (index, text))),
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
            self.old_keys = Some(OldKeys { columns, present, raw: RawBuilder::default() });
        }
        if let Some(old_keys) = &mut self.old_keys {
            old_keys.present.append(old_key.is_some());
            for (at, column) in old_keys.columns.iter_mut().enumerate() {
                let index = self.table.key[at];
                let Some(datum) = old_key.and_then(|key| key.get(at)).copied() else {
                    column.append_null();
                    continue;
                };
                match append(column, datum, &self.table, index) {
                    Ok(text) => old_texts.extend(text.map(|text| (index, text))),
                    Err(error) => taken = taken.and(Err(error)),
                }
            }
        }
        self.ops.push(op);
        self.commits.push(stamp.position.commit);
        self.orders.push(stamp.position.order);
        self.lsns.push(stamp.lsn);
        self.xids.push(stamp.xid);
        self.committed_at.push(stamp.committed_at);
        if taken.is_err() {
            self.dead.push(before);
            return taken;
        }
        self.nulled += texts.len() as u64;
        let name = |index: usize| self.table.columns[index].name.as_str();
        texts.into_iter().for_each(|(index, text)| self.raw.push(before, name(index), text));
        if let Some(old) = &mut self.old_keys {
            old_texts.into_iter().for_each(|(index, text)| old.raw.push(before, name(index), text));
        }
        Ok(())
    }

    fn key_builders(&self) -> Vec<ColumnBuilder> {
        let key = self.table.key.iter();
        key.map(|&i| ColumnBuilder::new(self.table.columns[i].column_type, &self.salt)).collect()
    }

    /// The batch so far; the builder is empty afterwards.
    pub(crate) fn finish(&mut self) -> Result<ChangeBatch, CdcError> {
        let failed = |source: ArrowError| CdcError::Batch { table: self.table.id.clone(), source };
        let columns = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        let values = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .and_then(|values| with_raw(values, self.raw.finish(self.ops.len())?))
            .map_err(failed)?;
        let old_keys = self.old_keys.take().map(|mut old| {
            let mut columns: Vec<_> = old.columns.iter_mut().map(ColumnBuilder::finish).collect();
            let mut fields = self.table.key_arrow().fields().to_vec();
            if let Some(raw) = old.raw.finish(self.ops.len())? {
                fields.push(Arc::new(raw_field()));
                columns.push(raw);
            }
            StructArray::try_new(fields.into(), columns, old.present.finish())
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

/// Appends a value, after an error null; gives its text if the type could not hold it, and null stands for it.
pub(crate) fn append(
    column: &mut ColumnBuilder,
    value: impl SourceValue,
    table: &TableSchema,
    index: usize,
) -> Result<Option<String>, CdcError> {
    match value.append(column) {
        Ok(Some(_)) if table.has_key() && table.key.contains(&index) => {
            Err(CdcError::Key { table: table.id.clone(), column: table.columns[index].name.clone() })
        }
        Ok(text) => Ok(text),
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
