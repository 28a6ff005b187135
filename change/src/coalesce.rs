//! Many small batches as few large ones: whatever is done by batch then costs less.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray},
    compute::{concat, concat_batches},
    datatypes::{Int64Type, TimestampMicrosecondType},
    error::ArrowError,
};

use crate::ChangeBatch;

/// The same changes in the same order. Batches that follow each other become one where they are of one definition and
/// hold the same parts.
///
/// # Errors
/// If a batch's parts are not of its table.
pub fn coalesce(batches: &[ChangeBatch]) -> Result<Vec<ChangeBatch>, ArrowError> {
    batches.chunk_by(alike).map(one).collect()
}

fn alike(a: &ChangeBatch, b: &ChangeBatch) -> bool {
    (Arc::ptr_eq(&a.table, &b.table) || a.table == b.table)
        && a.epoch == b.epoch
        && a.values.schema_ref() == b.values.schema_ref()
        && a.old_keys.as_ref().map(Array::data_type) == b.old_keys.as_ref().map(Array::data_type)
}

fn one(batches: &[ChangeBatch]) -> Result<ChangeBatch, ArrowError> {
    let [first, _, ..] = batches else { return Ok(batches[0].clone()) };
    let joined = |part: &dyn Fn(&ChangeBatch) -> ArrayRef| {
        let parts: Vec<ArrayRef> = batches.iter().map(part).collect();
        concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>())
    };
    let numbers = |part: &dyn Fn(&ChangeBatch) -> ArrayRef| {
        Ok::<_, ArrowError>(joined(part)?.as_primitive::<Int64Type>().clone())
    };
    let mask = |column: usize| {
        if batches.iter().all(|batch| batch.unavailable[column].is_none()) {
            return Ok(None);
        }
        let mask = joined(&|batch| match &batch.unavailable[column] {
            Some(mask) => Arc::new(mask.clone()),
            None => Arc::new(BooleanArray::from(vec![false; batch.num_rows()])),
        })?;
        Ok(Some(mask.as_boolean().clone()))
    };
    let old_keys = first.old_keys.is_some().then(|| {
        let keys = batches.iter().filter_map(|batch| batch.old_keys.as_ref()).map(|keys| keys as &dyn Array);
        Ok::<_, ArrowError>(concat(&keys.collect::<Vec<_>>())?.as_struct().clone())
    });
    Ok(ChangeBatch {
        table: Arc::clone(&first.table),
        epoch: first.epoch,
        ops: batches.iter().flat_map(|batch| batch.ops.iter().copied()).collect(),
        commits: numbers(&|batch| Arc::new(batch.commits.clone()))?,
        orders: numbers(&|batch| Arc::new(batch.orders.clone()))?,
        lsns: numbers(&|batch| Arc::new(batch.lsns.clone()))?,
        xids: numbers(&|batch| Arc::new(batch.xids.clone()))?,
        committed_at: joined(&|batch| Arc::new(batch.committed_at.clone()))?
            .as_primitive::<TimestampMicrosecondType>()
            .clone(),
        values: concat_batches(first.values.schema_ref(), batches.iter().map(|batch| &batch.values))?,
        old_keys: old_keys.transpose()?,
        unavailable: (0..first.unavailable.len()).map(mask).collect::<Result<_, ArrowError>>()?,
    })
}
