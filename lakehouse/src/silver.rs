//! Silver: the current rows of a source table.

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{ArrayRef, BooleanArray, Int64Array, RecordBatch},
    compute::{concat_batches, filter_record_batch},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use deltalake::{
    datafusion::{
        common::{Column, TableReference},
        execution::SessionStateBuilder,
        logical_expr::{Expr, JoinType, lit},
        prelude::SessionContext,
    },
    delta_datafusion::planner::DeltaPlanner,
    kernel::transaction::CommitProperties,
    operations::merge::MergeBuilder,
    table::state::DeltaTableState,
};
use lakeward_change::{
    ColumnType, Counted, Folded, LEAF, Position, RAW, TableSchema, raw_field, raw_or_null,
};

use crate::{
    LakeError,
    canonical::row_ids,
    condition::column,
    runs::Runs,
    table::{Table, writer_properties},
};

pub(crate) const EPOCH: &str = "_epoch";
pub(crate) const COMMIT: &str = "_commit";
pub(crate) const ORDER: &str = "_order";
pub(crate) const DELETED: &str = "_deleted";
/// How many equal rows there are, and what tells the row from others, where they are counted.
pub(crate) const COUNT: &str = "_count";
pub(crate) const ROW: &str = "_row";
/// Names key columns beside the stored ones, with their number.
pub(crate) const WANTED_KEY: &str = "_key_";
/// The columns that carry a row's position, in the order in which they are compared.
pub(crate) const POSITION: [&str; 3] = [EPOCH, COMMIT, ORDER];

pub(crate) fn schema(table: &TableSchema) -> SchemaRef {
    let fields = table.arrow().fields().iter().map(|field| field.as_ref().clone()).collect::<Vec<_>>();
    let raw = table.has_raw().then(raw_field).into_iter().collect();
    let mut fields = [fields, POSITION.map(position_field).to_vec(), raw].concat();
    if table.counts_rows() {
        fields.extend([Field::new(COUNT, DataType::Int64, true), Field::new(ROW, DataType::Utf8, true)]);
    }
    Arc::new(Schema::new(fields))
}

/// The table with the number of equal rows as one more column.
pub(crate) fn with_count(table: &TableSchema) -> TableSchema {
    let (column_type, source_type) = (ColumnType::Int8, String::new());
    let count = lakeward_change::Column { name: COUNT.to_owned(), column_type, source_type };
    TableSchema { columns: table.columns.iter().cloned().chain([count]).collect(), ..table.clone() }
}

/// Silver's columns, and whether the row is deleted.
fn upsert_schema(table: &TableSchema) -> SchemaRef {
    let mut fields = schema(table).fields().iter().map(|field| field.as_ref().clone()).collect::<Vec<_>>();
    fields.push(Field::new(DELETED, DataType::Boolean, false));
    Arc::new(Schema::new(fields))
}

fn position_field(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

/// Copied rows, all at the snapshot's position.
pub(crate) fn copied(
    table: &TableSchema,
    rows: &RecordBatch,
    at: Position,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let constant = |value| Arc::new(Int64Array::from_value(value, rows.num_rows())) as ArrayRef;
    let position = [constant(at.epoch), constant(at.commit), constant(at.order)];
    RecordBatch::try_new(schema(table), stored_columns(table, rows, position))
}

/// The columns of [`schema`] of rows that may have texts beside their own columns.
fn stored_columns(table: &TableSchema, rows: &RecordBatch, position: [ArrayRef; 3]) -> Vec<ArrayRef> {
    let mut columns = rows.columns()[..table.columns.len()].to_vec();
    columns.extend(position);
    columns.extend(table.has_raw().then(|| raw_or_null(rows)));
    columns
}

/// Copied rows of which equal ones are counted.
pub(crate) fn copied_counts(
    table: &TableSchema,
    runs: &Runs,
    at: Position,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let constant = |value| Arc::new(Int64Array::from_value(value, runs.rows.num_rows()));
    let position = [at.epoch, at.commit, at.order].map(constant);
    counted(table, &runs.rows, position, &runs.counts)
}

fn counted(
    table: &TableSchema,
    rows: &RecordBatch,
    position: [Arc<Int64Array>; 3],
    counts: &Int64Array,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let position = position.map(|numbers| numbers as ArrayRef);
    let mut columns = stored_columns(table, rows, position);
    columns.extend([Arc::new(counts.clone()) as ArrayRef, Arc::new(row_ids(table, rows)?)]);
    RecordBatch::try_new(schema(table), columns)
}

/// What is to be merged into silver.
pub(crate) struct Upsert<'a> {
    table: &'a TableSchema,
    session: &'a SessionContext,
    source: RecordBatch,
    how: How,
}

#[derive(Clone, Copy, PartialEq)]
enum How {
    /// The last change of each key takes the stored row's place.
    Replace,
    /// Only deletes match stored rows; the others are put in beside them.
    Repair,
    /// Numbers of equal rows are added to the stored ones.
    Count,
}

impl<'a> Upsert<'a> {
    pub(crate) fn new(
        table: &'a TableSchema,
        folded: &Folded,
        session: &'a SessionContext,
    ) -> Result<Self, arrow::error::ArrowError> {
        let position: [ArrayRef; 3] = [
            Arc::new(Int64Array::from_value(folded.epoch, folded.values.num_rows())),
            Arc::new(folded.commits.clone()),
            Arc::new(folded.orders.clone()),
        ];
        let mut columns = stored_columns(table, &folded.values, position);
        columns.push(Arc::new(folded.deleted.clone()));
        let source = RecordBatch::try_new(upsert_schema(table), columns)?;
        Ok(Self { table, session, source, how: How::Replace })
    }

    /// Adds to the numbers of equal rows; those of which none is left go.
    pub(crate) fn counting(
        table: &'a TableSchema,
        changes: &Counted,
        session: &'a SessionContext,
    ) -> Result<Self, arrow::error::ArrowError> {
        let epochs = Int64Array::from_value(changes.epoch, changes.counts.len());
        let position = [epochs, changes.commits.clone(), changes.orders.clone()].map(Arc::new);
        let source = counted(table, &changes.values, position, &changes.counts)?;
        Ok(Self { table, session, source, how: How::Count })
    }

    /// Some of its rows.
    pub(crate) fn only(self, rows: &BooleanArray) -> Result<Self, arrow::error::ArrowError> {
        Ok(Self { source: filter_record_batch(&self.source, rows)?, ..self })
    }

    /// Takes out whatever is stored of the keys in `removed` (whole rows, all else null) and puts `rows` in, as they
    /// were at a position. Unlike an update this makes one row of several with the same key.
    pub(crate) fn replacing(
        table: &'a TableSchema,
        removed: &RecordBatch,
        rows: &RecordBatch,
        at: Position,
        session: &'a SessionContext,
    ) -> Result<Self, arrow::error::ArrowError> {
        let schema = upsert_schema(table);
        let part = |rows: &RecordBatch, at, deleted: bool| {
            let mut columns = copied(table, rows, at)?.columns().to_vec();
            columns.push(Arc::new(BooleanArray::from(vec![deleted; rows.num_rows()])));
            RecordBatch::try_new(Arc::clone(&schema), columns)
        };
        let last = Position { epoch: i64::MAX, ..at };
        let source = concat_batches(&schema, &[part(removed, last, true)?, part(rows, at, false)?])?;
        Ok(Self { table, session, source, how: How::Repair })
    }

    /// Merges into the loaded state; `None` if nothing changed, and then nothing was committed.
    pub(crate) async fn merge(
        &self,
        table: &Table,
        properties: CommitProperties,
    ) -> Result<Option<DeltaTableState>, LakeError> {
        let columns: Vec<String> =
            schema(self.table).fields().iter().map(|field| field.name().clone()).collect();
        let source = self
            .session
            .read_batch(self.source.clone())
            .map_err(LakeError::query(&table.path, "merged into"))?;
        let counts = self.how == How::Count;
        let total = || old(COUNT) + new(COUNT);
        let updated = |name: &str| if counts && name == COUNT { total() } else { new(name) };
        let (gone, changed, came) = if counts {
            (total().lt_eq(lit(0_i64)), lit(true), new(COUNT).gt(lit(0_i64)))
        } else {
            (new(DELETED).and(newer()), newer(), Expr::Not(Box::new(new(DELETED))))
        };
        let failed = || LakeError::delta(&table.path, "merged into");
        let before = table.version();
        let (merged, metrics) = MergeBuilder::new(
            Arc::clone(&table.log_store),
            Some(table.snapshot()?.clone()),
            self.same_row(),
            source,
        )
        .with_source_alias(SOURCE)
        .with_target_alias(TARGET)
        .with_session_state(Arc::new(self.session.state()))
        .with_writer_properties(writer_properties())
        .with_commit_properties(properties)
        .when_matched_delete(|delete| delete.predicate(gone))
        .map_err(failed())?
        .when_matched_update(|update| {
            let set = columns.iter().map(|name| (Column::new_unqualified(name), updated(name)));
            set.fold(update.predicate(changed), |update, (column, value)| update.update(column, value))
        })
        .map_err(failed())?
        .when_not_matched_insert(|insert| {
            let set = columns.iter().map(|name| (Column::new_unqualified(name), new(name)));
            set.fold(insert.predicate(came), |insert, (column, value)| insert.set(column, value))
        })
        .map_err(failed())?
        .await
        .map_err(failed())?;
        tracing::debug!(table = table.path, ?metrics, "merged");
        let changed = merged.version().and_then(|version| i64::try_from(version).ok()) != before;
        Ok(merged.state.filter(|_| changed))
    }

    fn same_row(&self) -> Expr {
        if self.how == How::Count {
            return new(ROW).eq(old(ROW));
        }
        let same = all(self.table.key_names().map(|name| new(name).eq(old(name))));
        // Compared with a literal, which leaves the library the keys' range to skip files by.
        if self.how == How::Repair { same.and(new(DELETED).eq(lit(true))) } else { same }
    }
}

const SOURCE: &str = "new";
const TARGET: &str = "old";

fn new(name: &str) -> Expr {
    Expr::Column(Column::new(Some(TableReference::bare(SOURCE)), name))
}

fn old(name: &str) -> Expr {
    Expr::Column(Column::new(Some(TableReference::bare(TARGET)), name))
}

/// The change lies after the stored row's last one.
fn newer() -> Expr {
    let [epoch, commit, order] = POSITION;
    let same = |name| new(name).eq(old(name));
    let later = |name| new(name).gt(old(name));
    later(epoch).or(same(epoch).and(later(commit).or(same(commit).and(later(order)))))
}

fn all(terms: impl Iterator<Item = Expr>) -> Expr {
    terms.reduce(Expr::and).unwrap_or_else(|| lit(true))
}

/// Removes the rows of some partitions from the loaded state; `None` if there are none, and then nothing was committed.
pub(crate) async fn remove_leaves(
    table: &Table,
    leaves: &BTreeSet<String>,
    session: &SessionContext,
    properties: CommitProperties,
) -> Result<Option<DeltaTableState>, LakeError> {
    let names = leaves.iter().map(|leaf| lit(leaf.as_str())).collect();
    let before = table.version();
    // A delete has steps in its plan that only the library's planner knows.
    let state = SessionStateBuilder::new_from_existing(session.state())
        .with_query_planner(DeltaPlanner::new())
        .build();
    let (left, metrics) = table
        .delta()?
        .delete()
        .with_predicate(column(LEAF).in_list(names, false))
        .with_session_state(Arc::new(state))
        .with_writer_properties(writer_properties())
        .with_commit_properties(properties)
        .await
        .map_err(LakeError::delta(&table.path, "emptied by partitions"))?;
    tracing::debug!(table = table.path, ?metrics, "partitions emptied");
    let changed = left.version().and_then(|version| i64::try_from(version).ok()) != before;
    Ok(left.state.filter(|_| changed))
}

/// The stored rows that hold values which a run of changes kept: the key's columns and the unresolved ones.
pub(crate) async fn stored(
    table: &Table,
    session: &SessionContext,
    folded: &Folded,
) -> Result<RecordBatch, LakeError> {
    let failed = || LakeError::query(&table.path, "asked for unchanged values");
    let definition = &folded.table;
    let wanted_key = |index: usize| format!("{WANTED_KEY}{index}");
    let fields: Vec<Field> = definition
        .key_arrow()
        .fields()
        .iter()
        .enumerate()
        .map(|(index, field)| field.as_ref().clone().with_name(wanted_key(index)))
        .collect();
    let keys = RecordBatch::try_new(Arc::new(Schema::new(fields)), folded.stored_keys.columns().to_vec())
        .map_err(LakeError::arrow(&table.path))?;
    let keys = session.read_batch(keys).map_err(failed())?;
    let same_key =
        definition.key_names().enumerate().map(|(index, name)| column(name).eq(column(&wanted_key(index))));
    let columns: Vec<Expr> = (0..definition.columns.len())
        .filter(|column| definition.key.contains(column) || folded.unresolved[*column].is_some())
        .map(|column| definition.columns[column].name.as_str())
        .chain(definition.has_raw().then_some(RAW))
        .map(column)
        .collect();
    let rows = session
        .read_table(table.provider(session).await?)
        .and_then(|rows| rows.select(columns))
        .and_then(|rows| rows.join_on(keys, JoinType::LeftSemi, same_key))
        .map_err(failed())?;
    let schema: SchemaRef = Arc::new(rows.schema().as_arrow().clone());
    let batches = rows.collect().await.map_err(failed())?;
    concat_batches(&schema, &batches).map_err(LakeError::arrow(&table.path))
}
