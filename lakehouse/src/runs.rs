//! Equal rows of a copy, which come one after the other, become one row with their number.

use arrow::{
    array::{Int64Array, RecordBatch, UInt32Array},
    compute::{concat_batches, take_record_batch},
    error::ArrowError,
};
use lakeward_change::{TableSchema, raw_of, raw_or_null, with_raw};

use crate::canonical::row_ids;

/// Distinct rows and how many there are of each.
pub(crate) struct Runs {
    pub(crate) rows: RecordBatch,
    pub(crate) counts: Int64Array,
}

/// Takes in batches of rows, equal ones one after the other.
#[derive(Default)]
pub(crate) struct RunLength {
    /// The last row and how many there are of it so far: the next batch may have more.
    last: Option<(RecordBatch, i64)>,
}

impl RunLength {
    /// The runs that have ended.
    pub(crate) fn push(
        &mut self,
        table: &TableSchema,
        rows: &RecordBatch,
    ) -> Result<Option<Runs>, ArrowError> {
        if rows.num_rows() == 0 {
            return Ok(None);
        }
        // The one batch may have texts beside its columns, and the next none.
        let rows = match raw_of(rows) {
            None if table.has_raw() => with_raw(rows.clone(), Some(raw_or_null(rows)))?,
            _ => rows.clone(),
        };
        let (rows, mut first) = match self.last.take() {
            Some((last, count)) => (concat_batches(&rows.schema(), [&last, &rows])?, count),
            None => (rows, 1),
        };
        let ids = row_ids(table, &rows)?;
        let (mut starts, mut counts) = (Vec::new(), Vec::new());
        for (row, id) in (0_u32..).zip(ids.iter()) {
            let count = std::mem::replace(&mut first, 1);
            match counts.last_mut() {
                Some(run) if row > 0 && ids.value(row as usize - 1) == id.unwrap_or_default() => {
                    *run += count
                }
                _ => {
                    starts.push(row);
                    counts.push(count);
                }
            }
        }
        let (last, count) = (starts.pop(), counts.pop());
        // Copied out, so that one row does not keep its batch.
        self.last = last
            .zip(count)
            .map(|(row, count)| {
                Ok::<_, ArrowError>((take_record_batch(&rows, &UInt32Array::from(vec![row]))?, count))
            })
            .transpose()?;
        if starts.is_empty() {
            return Ok(None);
        }
        let rows = take_record_batch(&rows, &UInt32Array::from(starts))?;
        Ok(Some(Runs { rows, counts: Int64Array::from(counts) }))
    }

    /// The last run, if there was a row.
    pub(crate) fn finish(self) -> Option<Runs> {
        self.last.map(|(rows, count)| Runs { rows, counts: Int64Array::from(vec![count]) })
    }
}
