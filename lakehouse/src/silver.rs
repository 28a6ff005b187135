//! Silver: the current rows of a source table.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch},
    compute::concat_batches,
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};
use deltalake::datafusion::{
    logical_expr::{Expr, JoinType},
    prelude::SessionContext,
};
use lakeward_change::{ColumnType, Folded, Position, RAW, TableSchema, raw_field, raw_or_null};

use crate::{LakeError, canonical::row_ids, condition::column, runs::Runs, table::Table};

pub(crate) const EPOCH: &str = "_epoch";
pub(crate) const COMMIT: &str = "_commit";
pub(crate) const ORDER: &str = "_order";
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

fn position_field(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

/// Copied rows, all at the snapshot's position.
pub(crate) fn copied(
    table: &TableSchema,
    rows: &RecordBatch,
    at: Position,
) -> Result<RecordBatch, ArrowError> {
    self::rows(table, rows, constant(at, rows.num_rows()))
}

/// Copied rows of which equal ones are counted.
pub(crate) fn copied_counts(
    table: &TableSchema,
    runs: &Runs,
    at: Position,
) -> Result<RecordBatch, ArrowError> {
    counted(table, &runs.rows, constant(at, runs.rows.num_rows()), &runs.counts)
}

fn constant(at: Position, rows: usize) -> [Int64Array; 3] {
    [at.epoch, at.commit, at.order].map(|value| Int64Array::from_value(value, rows))
}

/// Rows as silver has them; they may have texts beside their own columns.
pub(crate) fn rows(
    table: &TableSchema,
    rows: &RecordBatch,
    position: [Int64Array; 3],
) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_new(schema(table), stored_columns(table, rows, position))
}

/// Rows with the numbers of those that are equal.
pub(crate) fn counted(
    table: &TableSchema,
    rows: &RecordBatch,
    position: [Int64Array; 3],
    counts: &Int64Array,
) -> Result<RecordBatch, ArrowError> {
    let mut columns = stored_columns(table, rows, position);
    columns.extend([Arc::new(counts.clone()) as ArrayRef, Arc::new(row_ids(table, rows)?)]);
    RecordBatch::try_new(schema(table), columns)
}

fn stored_columns(table: &TableSchema, rows: &RecordBatch, position: [Int64Array; 3]) -> Vec<ArrayRef> {
    let mut columns = rows.columns()[..table.columns.len()].to_vec();
    columns.extend(position.map(|numbers| Arc::new(numbers) as ArrayRef));
    columns.extend(table.has_raw().then(|| raw_or_null(rows)));
    columns
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
