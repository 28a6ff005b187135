//! What evaluation may know and the shop may not: every customer's taste and drop-out.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Builder, Float64Array, Int64Array, Int64Builder, ListBuilder, RecordBatch,
    TimestampMicrosecondArray,
};
use parquet::arrow::ArrowWriter;

use super::DAY;
use super::history::Customer;
use crate::error::Error;

/// One row a customer: `user_id`, `signed_up_at`, `dropped_out_at` (may lie after the end of history),
/// `mean_gap_days`, `archetype_shares` (list of float32, 1 in all), `staple_product_ids`, `staple_period_days`.
pub(crate) fn write(file: &Path, customers: &[Customer], product_ids: &[i64]) -> Result<(), Error> {
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| Error::Write { file: file.to_owned(), source };
    let batch = batch(customers, product_ids).map_err(|error| failed(error.into()))?;
    let out = File::create(file).map_err(|error| failed(error.into()))?;
    let mut writer = ArrowWriter::try_new(out, batch.schema(), None).map_err(|error| failed(error.into()))?;
    writer.write(&batch).map_err(|error| failed(error.into()))?;
    writer.close().map_err(|error| failed(error.into()))?;
    Ok(())
}

fn batch(customers: &[Customer], product_ids: &[i64]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let times = |time: &dyn Fn(&Customer) -> i64| -> ArrayRef {
        Arc::new(
            customers
                .iter()
                .map(|c| Some(time(c)))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        )
    };
    let mut shares = ListBuilder::new(Float32Builder::new());
    let mut staples = ListBuilder::new(Int64Builder::new());
    let mut periods = ListBuilder::new(Float32Builder::new());
    for customer in customers {
        shares.values().append_slice(&customer.taste.shares);
        shares.append(true);
        for staple in &customer.taste.staples {
            staples.values().append_value(product_ids[staple.product]);
            periods.values().append_value((staple.period as f64 / DAY as f64) as f32);
        }
        staples.append(true);
        periods.append(true);
    }
    RecordBatch::try_from_iter([
        ("user_id", Arc::new(customers.iter().map(|c| c.user_id).collect::<Int64Array>()) as ArrayRef),
        ("signed_up_at", times(&|c| c.membership.signed_up)),
        ("dropped_out_at", times(&|c| c.membership.dropped_out)),
        (
            "mean_gap_days",
            Arc::new(customers.iter().map(|c| c.taste.mean_gap / DAY as f64).collect::<Float64Array>()),
        ),
        ("archetype_shares", Arc::new(shares.finish())),
        ("staple_product_ids", Arc::new(staples.finish())),
        ("staple_period_days", Arc::new(periods.finish())),
    ])
}
