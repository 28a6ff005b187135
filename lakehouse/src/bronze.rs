//! Bronze: every change of a source table, appended.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Date32Array, Int64Array, ListBuilder, RecordBatch,
        StringArray, StringBuilder, StructArray, TimestampMicrosecondArray, new_null_array,
    },
    datatypes::{DataType, Field, Fields, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType},
    error::ArrowError,
};
use lakeward_change::{ChangeBatch, Op, Position, TableSchema};

use crate::silver::POSITION;

pub(crate) const INGEST_DATE: &str = "_ingest_date";
/// All columns that bronze adds to a table's own.
pub(crate) const ADDED: [&str; 11] = [
    "_op",
    "_epoch",
    "_commit",
    "_order",
    "_lsn",
    "_txid",
    "_committed_at",
    "_ingested_at",
    "_unavailable",
    "_old_key",
    INGEST_DATE,
];
const MICROSECONDS_A_DAY: i64 = 86_400_000_000;

pub(crate) fn schema(table: &TableSchema) -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let types = [
        DataType::Utf8,
        DataType::Int64,
        DataType::Int64,
        DataType::Int64,
        DataType::Int64,
        DataType::Int64,
        time.clone(),
        time,
        DataType::List(Arc::new(unavailable_field())),
        DataType::Struct(old_key_fields(table)),
        DataType::Date32,
    ];
    let added = ADDED.iter().zip(types).map(|(name, data_type)| Field::new(*name, data_type, true));
    let fields: Vec<Field> =
        table.arrow().fields().iter().map(|field| field.as_ref().clone()).chain(added).collect();
    Arc::new(Schema::new(fields))
}

fn unavailable_field() -> Field {
    Field::new("element", DataType::Utf8, true)
}

fn old_key_fields(table: &TableSchema) -> Fields {
    table.key_arrow().fields().clone()
}

/// Copied rows: positions before every streamed one, `first` the number of rows copied before these.
pub(crate) fn copied(
    table: &TableSchema,
    rows: &RecordBatch,
    at: Position,
    first: i64,
    taken_at: i64,
) -> Result<RecordBatch, ArrowError> {
    let length = rows.num_rows();
    let number = |value| Arc::new(Int64Array::from_value(value, length)) as ArrayRef;
    let schema = schema(table);
    let null = |name| Ok::<_, ArrowError>(new_null_array(schema.field_with_name(name)?.data_type(), length));
    let mut columns = rows.columns().to_vec();
    columns.extend([
        Arc::new(StringArray::from(vec![Op::Read.letter(); length])) as ArrayRef,
        number(at.epoch),
        number(at.commit),
        Arc::new((0..length as i64).map(|row| -(first + row + 1)).collect::<Int64Array>()),
        number(at.commit),
        null("_txid")?,
        null("_committed_at")?,
        times(taken_at, length),
        null("_unavailable")?,
        null("_old_key")?,
        dates(taken_at, length),
    ]);
    RecordBatch::try_new(schema, columns)
}

/// Streamed changes.
pub(crate) fn streamed(changes: &ChangeBatch, ingested_at: i64) -> Result<RecordBatch, ArrowError> {
    let length = changes.num_rows();
    let schema = schema(&changes.table);
    let old_keys = match &changes.old_keys {
        Some(old) => Arc::new(StructArray::try_new(
            old_key_fields(&changes.table),
            old.columns().to_vec(),
            old.nulls().cloned(),
        )?) as ArrayRef,
        None => new_null_array(schema.field_with_name("_old_key")?.data_type(), length),
    };
    let mut columns = changes.values.columns().to_vec();
    columns.extend([
        Arc::new(changes.ops.iter().map(|op| Some(op.letter())).collect::<StringArray>()) as ArrayRef,
        Arc::new(Int64Array::from_value(changes.epoch, length)),
        Arc::new(changes.commits.clone()),
        Arc::new(changes.orders.clone()),
        Arc::new(changes.lsns.clone()),
        Arc::new(changes.xids.clone()),
        Arc::new(changes.committed_at.clone().with_timezone("UTC")),
        times(ingested_at, length),
        unavailable(changes),
        old_keys,
        dates(ingested_at, length),
    ]);
    RecordBatch::try_new(schema, columns)
}

fn times(at: i64, length: usize) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_value(at, length).with_timezone("UTC"))
}

fn dates(at: i64, length: usize) -> ArrayRef {
    let day = i32::try_from(at.div_euclid(MICROSECONDS_A_DAY)).unwrap_or(i32::MAX);
    Arc::new(Date32Array::from_value(day, length))
}

fn unavailable(changes: &ChangeBatch) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new()).with_field(unavailable_field());
    for row in 0..changes.num_rows() {
        let mut any = false;
        for (column, mask) in changes.table.columns.iter().zip(&changes.unavailable) {
            if mask.as_ref().is_some_and(|mask| mask.value(row)) {
                lists.values().append_value(&column.name);
                any = true;
            }
        }
        lists.append(any);
    }
    Arc::new(lists.finish())
}

/// Bronze rows, in position order, as the changes they were; a batch ends where the epoch does.
pub(crate) fn changes(table: &Arc<TableSchema>, rows: &RecordBatch) -> Result<Vec<ChangeBatch>, ArrowError> {
    let epochs = column(rows, POSITION[0])?.as_primitive::<Int64Type>().clone();
    let mut batches = Vec::new();
    let mut start = 0;
    for row in 1..=rows.num_rows() {
        if row == rows.num_rows() || epochs.value(row) != epochs.value(start) {
            batches.push(batch(table, epochs.value(start), &rows.slice(start, row - start))?);
            start = row;
        }
    }
    Ok(batches)
}

fn batch(table: &Arc<TableSchema>, epoch: i64, rows: &RecordBatch) -> Result<ChangeBatch, ArrowError> {
    let number = |name| Ok::<_, ArrowError>(column(rows, name)?.as_primitive::<Int64Type>().clone());
    let ops = column(rows, "_op")?
        .as_string::<i32>()
        .iter()
        .map(|letter| {
            Op::from_letter(letter.unwrap_or_default())
                .ok_or_else(|| ArrowError::ParseError("an operation that no writer stores".to_owned()))
        })
        .collect::<Result<_, _>>()?;
    let old_keys = column(rows, "_old_key")?.as_struct();
    let unavailable = column(rows, "_unavailable")?.as_list::<i32>();
    let values: Vec<ArrayRef> =
        table.columns.iter().map(|c| column(rows, &c.name).cloned()).collect::<Result<_, _>>()?;
    Ok(ChangeBatch {
        table: Arc::clone(table),
        epoch,
        ops,
        commits: number("_commit")?,
        orders: number("_order")?,
        lsns: number("_lsn")?,
        xids: number("_txid")?,
        committed_at: column(rows, "_committed_at")?.as_primitive::<TimestampMicrosecondType>().clone(),
        values: RecordBatch::try_new(table.arrow(), values)?,
        old_keys: (old_keys.null_count() < old_keys.len()).then(|| old_keys.clone()),
        unavailable: table
            .columns
            .iter()
            .map(|c| {
                let named = |row: usize| {
                    unavailable.is_valid(row)
                        && unavailable.value(row).as_string::<i32>().iter().any(|name| name == Some(&c.name))
                };
                let mask: BooleanArray = if unavailable.null_count() < unavailable.len() {
                    (0..rows.num_rows()).map(|row| Some(named(row))).collect()
                } else {
                    return None;
                };
                (mask.true_count() > 0).then_some(mask)
            })
            .collect(),
    })
}

fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, ArrowError> {
    rows.column_by_name(name)
        .ok_or_else(|| ArrowError::SchemaError(format!("bronze lacks the column {name}")))
}
