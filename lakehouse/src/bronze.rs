//! Bronze: every change of a source table, appended.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Date32Array, Int64Array, ListBuilder, RecordBatch,
        StringArray, StringBuilder, StructArray, TimestampMicrosecondArray, new_null_array,
    },
    datatypes::{
        DataType, Field, FieldRef, Fields, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType,
    },
    error::ArrowError,
};
use lakeward_change::{ChangeBatch, Op, Position, TableSchema, raw_field, raw_of, raw_or_null, with_raw};

use crate::silver::POSITION;

pub(crate) const INGEST_DATE: &str = "_ingest_date";
const OLD_KEY: &str = "_old_key";
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
    OLD_KEY,
    INGEST_DATE,
];
const MICROSECONDS_A_DAY: i64 = 86_400_000_000;

/// What a table's columns are called in bronze, which keeps the columns of every definition so far: a column whose
/// type became another one has a number after its name.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    columns: Vec<String>,
    /// None where there is no key.
    old_key: Option<String>,
}

impl Names {
    /// `stored`: the columns that bronze has, if there is one.
    pub(crate) fn new(table: &TableSchema, stored: Option<&Schema>) -> Self {
        let free = |name: &str, data_type: &DataType| {
            let candidates = std::iter::once(name.to_owned()).chain((2..).map(|n| format!("{name}_{n}")));
            let fits = |candidate: &String| {
                let held = stored
                    .iter()
                    .flat_map(|schema| schema.fields())
                    .find(|field| field.name().eq_ignore_ascii_case(candidate));
                let taken = || candidate != name && table.columns.iter().any(|c| c.name == *candidate);
                held.map_or_else(|| !taken(), |held| same_type(held.data_type(), data_type) && !taken())
            };
            candidates.into_iter().find(fits).unwrap_or_else(|| name.to_owned())
        };
        Self {
            columns: table.columns.iter().map(|c| free(&c.name, &c.column_type.arrow())).collect(),
            old_key: (!table.is_history()).then(|| free(OLD_KEY, &DataType::Struct(old_key_fields(table)))),
        }
    }

    /// The columns that hold a change's key, in the key's order, then the one that holds its old key.
    pub(crate) fn keys(&self, table: &TableSchema) -> Vec<&str> {
        let key = table.key.iter().map(|&column| &self.columns[column]);
        key.chain(&self.old_key).map(String::as_str).collect()
    }
}

fn same_type(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::Struct(a), DataType::Struct(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|(a, b)| a.name() == b.name() && same_type(a.data_type(), b.data_type()))
        }
        (a, b) => a == b,
    }
}

/// The columns of every definition so far: those that bronze has, then the new ones.
pub(crate) fn united(stored: &Schema, now: &Schema) -> SchemaRef {
    let new = now.fields().iter().filter(|field| stored.field_with_name(field.name()).is_err());
    Arc::new(Schema::new(stored.fields().iter().chain(new).cloned().collect::<Vec<_>>()))
}

pub(crate) fn schema(table: &TableSchema, names: &Names) -> SchemaRef {
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
    let name_of = |name: &'static str| if name == OLD_KEY { names.old_key.as_deref() } else { Some(name) };
    let added = ADDED
        .iter()
        .zip(types)
        .filter_map(|(name, data_type)| Some(Field::new(name_of(name)?, data_type, true)));
    let own = table.columns.iter().zip(&names.columns);
    let own = own.map(|(column, name)| Field::new(name, column.column_type.arrow(), true));
    Arc::new(Schema::new(own.chain(added).chain(table.has_raw().then(raw_field)).collect::<Vec<_>>()))
}

fn unavailable_field() -> Field {
    Field::new("element", DataType::Utf8, true)
}

fn old_key_fields(table: &TableSchema) -> Fields {
    let key = table.key_arrow().fields().to_vec();
    let raw = (table.counts_rows() && table.has_raw()).then(|| Arc::new(raw_field()));
    key.into_iter().chain(raw).collect()
}

/// Copied rows: positions before every streamed one, `first` the number of rows copied before these.
pub(crate) fn copied(
    table: &TableSchema,
    names: &Names,
    rows: &RecordBatch,
    at: Position,
    first: i64,
    taken_at: i64,
) -> Result<RecordBatch, ArrowError> {
    let length = rows.num_rows();
    let number = |value| Arc::new(Int64Array::from_value(value, length)) as ArrayRef;
    let schema = schema(table, names);
    let null =
        |name: &str| Ok::<_, ArrowError>(new_null_array(schema.field_with_name(name)?.data_type(), length));
    let mut columns = rows.columns()[..table.columns.len()].to_vec();
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
    ]);
    columns.extend(names.old_key.as_deref().map(null).transpose()?);
    columns.push(dates(taken_at, length));
    columns.extend(table.has_raw().then(|| raw_or_null(rows)));
    RecordBatch::try_new(schema, columns)
}

/// Streamed changes.
pub(crate) fn streamed(
    changes: &ChangeBatch,
    names: &Names,
    ingested_at: i64,
) -> Result<RecordBatch, ArrowError> {
    let length = changes.num_rows();
    let schema = schema(&changes.table, names);
    let old_keys = match (&changes.old_keys, &names.old_key) {
        (_, None) => None,
        (Some(old), _) => {
            let fields = old_key_fields(&changes.table);
            let column = |field: &FieldRef| match old.column_by_name(field.name()) {
                Some(values) => Arc::clone(values),
                None => new_null_array(field.data_type(), length),
            };
            let columns = fields.iter().map(column).collect();
            Some(Arc::new(StructArray::try_new(fields, columns, old.nulls().cloned())?) as ArrayRef)
        }
        (None, Some(name)) => Some(new_null_array(schema.field_with_name(name)?.data_type(), length)),
    };
    let mut columns = changes.values.columns()[..changes.table.columns.len()].to_vec();
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
    ]);
    columns.extend(old_keys);
    columns.push(dates(ingested_at, length));
    columns.extend(changes.table.has_raw().then(|| raw_or_null(&changes.values)));
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
    let names = Names::new(table, Some(&rows.schema()));
    let epochs = column(rows, POSITION[0])?.as_primitive::<Int64Type>().clone();
    let mut batches = Vec::new();
    let mut start = 0;
    for row in 1..=rows.num_rows() {
        if row == rows.num_rows() || epochs.value(row) != epochs.value(start) {
            batches.push(batch(table, &names, epochs.value(start), &rows.slice(start, row - start))?);
            start = row;
        }
    }
    Ok(batches)
}

fn batch(
    table: &Arc<TableSchema>,
    names: &Names,
    epoch: i64,
    rows: &RecordBatch,
) -> Result<ChangeBatch, ArrowError> {
    let number = |name| Ok::<_, ArrowError>(column(rows, name)?.as_primitive::<Int64Type>().clone());
    let ops = column(rows, "_op")?
        .as_string::<i32>()
        .iter()
        .map(|letter| {
            Op::from_letter(letter.unwrap_or_default())
                .ok_or_else(|| ArrowError::ParseError("an operation that no writer stores".to_owned()))
        })
        .collect::<Result<_, _>>()?;
    let old_keys = names.old_key.as_ref().map(|name| column(rows, name)).transpose()?;
    let old_keys = old_keys.map(|keys| keys.as_struct().clone());
    let unavailable = column(rows, "_unavailable")?.as_list::<i32>();
    let values: Vec<ArrayRef> =
        names.columns.iter().map(|name| column(rows, name).cloned()).collect::<Result<_, _>>()?;
    Ok(ChangeBatch {
        table: Arc::clone(table),
        epoch,
        ops,
        commits: number("_commit")?,
        orders: number("_order")?,
        lsns: number("_lsn")?,
        xids: number("_txid")?,
        committed_at: column(rows, "_committed_at")?.as_primitive::<TimestampMicrosecondType>().clone(),
        values: with_raw(
            RecordBatch::try_new(table.arrow(), values)?,
            raw_of(rows)
                .filter(|raw| raw.null_count() < raw.len())
                .map(|raw| Arc::new(raw.clone()) as ArrayRef),
        )?,
        old_keys: old_keys.filter(|keys| keys.null_count() < keys.len()),
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
