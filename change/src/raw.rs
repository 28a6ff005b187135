//! Values that their own column cannot hold, as the source's text beside it.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, MapArray, MapBuilder, MapFieldNames, RecordBatch, StringBuilder,
        new_null_array,
    },
    datatypes::{DataType, Field, Fields, Schema},
    error::ArrowError,
};

/// The map column that holds them: from a column's name to the value's text. Null where a row has none.
pub const RAW: &str = "_raw";

/// Delta's own names of a map's parts.
const PARTS: [&str; 3] = ["key_value", "key", "value"];

pub fn raw_field() -> Field {
    let [entries, key, value] = PARTS;
    let parts =
        Fields::from(vec![Field::new(key, DataType::Utf8, false), Field::new(value, DataType::Utf8, true)]);
    let entries = Field::new(entries, DataType::Struct(parts), false);
    Field::new(RAW, DataType::Map(Arc::new(entries), false), true)
}

/// The map column of a batch, if it has one.
pub fn raw_of(rows: &RecordBatch) -> Option<&MapArray> {
    rows.column_by_name(RAW).and_then(|column| column.as_map_opt())
}

/// The map column of a batch; one of nulls if it has none.
pub fn raw_or_null(rows: &RecordBatch) -> ArrayRef {
    match rows.column_by_name(RAW) {
        Some(raw) => Arc::clone(raw),
        None => new_null_array(raw_field().data_type(), rows.num_rows()),
    }
}

/// The batch with the map column behind its own ones, if there is one.
pub fn with_raw(rows: RecordBatch, raw: Option<ArrayRef>) -> Result<RecordBatch, ArrowError> {
    let Some(raw) = raw else { return Ok(rows) };
    let schema = rows.schema();
    let fields = schema.fields().iter().cloned().chain([Arc::new(raw_field())]);
    let schema = Schema::new(fields.collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), [rows.columns(), &[raw]].concat())
}

/// A row's entries: columns' names and texts.
pub fn raw_entries(raw: &MapArray, row: usize) -> Vec<(&str, &str)> {
    if raw.is_null(row) {
        return Vec::new();
    }
    let (keys, values) = (raw.keys().as_string::<i32>(), raw.values().as_string::<i32>());
    let offsets = raw.value_offsets();
    // Offsets are never negative.
    let range = offsets[row] as usize..offsets[row + 1] as usize;
    range.map(|entry| (keys.value(entry), values.value(entry))).collect()
}

/// The text that a row holds beside one of its columns.
pub fn raw_text<'a>(raw: Option<&'a MapArray>, row: usize, column: &str) -> Option<&'a str> {
    raw_entries(raw?, row).into_iter().find(|(name, _)| *name == column).map(|(_, text)| text)
}

/// Builds the map column, which few batches need: rows without an entry cost nothing until there is one.
#[derive(Debug, Default)]
pub struct RawBuilder {
    /// Rows, in their order, with columns' names and texts.
    entries: Vec<(usize, Arc<str>, String)>,
}

impl RawBuilder {
    /// Adds an entry. Rows must not fall from one call to the next.
    pub fn push(&mut self, row: usize, column: &str, text: impl Into<String>) {
        self.entries.push((row, Arc::from(column), text.into()));
    }

    /// The column of so many rows, if any has an entry; the builder is empty afterwards.
    pub fn finish(&mut self, rows: usize) -> Result<Option<ArrayRef>, ArrowError> {
        if self.entries.is_empty() {
            return Ok(None);
        }
        let [entry, key, value] = PARTS.map(str::to_owned);
        let names = MapFieldNames { entry, key, value };
        let mut maps = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
        let mut entries = std::mem::take(&mut self.entries).into_iter().peekable();
        for row in 0..rows {
            let mut any = false;
            while let Some((_, column, text)) = entries.next_if(|entry| entry.0 == row) {
                maps.keys().append_value(column);
                maps.values().append_value(text);
                any = true;
            }
            maps.append(any)?;
        }
        Ok(Some(Arc::new(maps.finish())))
    }
}
