//! What went on of a table's partitions, as one batch in commit order.

use arrow::{
    array::{Array, AsArray, Int64Array, UInt32Array, new_null_array},
    datatypes::DataType,
    error::ArrowError,
};
use lakeward_change::{ChangeBatch, Op, coalesce, raw_of, raw_or_null, with_raw};

use super::queue::Selection;

/// One batch of all of them; `None` if there is no row.
///
/// An insert that lacks values of its row under another key, and the delete of that key right before it, are one update
/// of the key: what the log had.
pub(super) fn joined(selected: &[Selection]) -> Result<Option<ChangeBatch>, ArrowError> {
    let slices: Vec<ChangeBatch> = selected
        .iter()
        .flat_map(|selection| &selection.segments)
        .map(|(changes, start, length)| changes.slice(*start, *length))
        .collect();
    let Some(mut batch) = one(slices)? else { return Ok(None) };
    let commits = selected.iter().flat_map(|selection| selection.commits.iter().copied());
    let orders = selected.iter().flat_map(|selection| selection.orders.iter().copied());
    batch.commits = commits.collect::<Int64Array>();
    batch.orders = orders.collect::<Int64Array>();
    let place = |row: &u32| (batch.commits.value(*row as usize), batch.orders.value(*row as usize));
    let mut rows: Vec<u32> = (0..).take(batch.num_rows()).collect();
    if !rows.is_sorted_by_key(place) {
        rows.sort_by_key(place);
        batch = batch.chosen(&UInt32Array::from(rows))?;
    }
    key_changes(batch).map(Some)
}

/// All parts in one, whatever each of them holds beside its rows.
fn one(mut slices: Vec<ChangeBatch>) -> Result<Option<ChangeBatch>, ArrowError> {
    if slices.iter().any(|slice| raw_of(&slice.values).is_some()) {
        for slice in &mut slices {
            if raw_of(&slice.values).is_none() {
                slice.values = with_raw(slice.values.clone(), Some(raw_or_null(&slice.values)))?;
            }
        }
    }
    let keys = slices.iter().find_map(|slice| slice.old_keys.as_ref()).map(|keys| keys.data_type().clone());
    if let Some(keys @ DataType::Struct(_)) = keys {
        for slice in &mut slices {
            let none = || new_null_array(&keys, slice.ops.len()).as_struct().clone();
            slice.old_keys = Some(slice.old_keys.take().unwrap_or_else(none));
        }
    }
    let mut joined = coalesce(&slices)?;
    match joined.len() {
        0 | 1 => Ok(joined.pop()),
        _ => Err(ArrowError::SchemaError("batches of one table that are of two definitions".to_owned())),
    }
}

fn key_changes(mut batch: ChangeBatch) -> Result<ChangeBatch, ArrowError> {
    let Some(old_keys) = &batch.old_keys else { return Ok(batch) };
    let moved = (0..batch.num_rows()).filter(|row| batch.ops[*row] == Op::Insert && old_keys.is_valid(*row));
    let moved: Vec<usize> = moved.collect();
    let mut gone = Vec::new();
    for row in moved {
        batch.ops[row] = Op::Update;
        let Some(before) = row.checked_sub(1) else { continue };
        let follows = batch.commits.value(before) == batch.commits.value(row)
            && batch.orders.value(before) + 1 == batch.orders.value(row);
        if follows && batch.ops[before] == Op::Delete {
            gone.push(before);
        }
    }
    if gone.is_empty() { Ok(batch) } else { batch.without(&gone) }
}
