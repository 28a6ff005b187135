//! The table of churn risks.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use lakeward_lakehouse::Lake;

use crate::{FeatureError, Result};

const TABLE: &str = "customer_churn";

/// Writes `features/customer_churn`: `risks[i]` is that of the customer in row i of `activity` ([`ShopTables::activity`] at
/// one moment), by the model `version`. Replaces the rows of an earlier run with the same `as_of` (microseconds UTC).
/// Returns the number of rows.
///
/// # Errors
/// Another number of risks than of rows, or the lake cannot be written.
///
/// [`ShopTables::activity`]: crate::ShopTables::activity
pub async fn write_churn(
    lake: &Lake,
    activity: &RecordBatch,
    risks: &[f64],
    version: &str,
    as_of: i64,
) -> Result<u64> {
    let query = |source| FeatureError::Query { view: TABLE, source };
    let column = |name: &str| {
        activity.column_by_name(name).cloned().ok_or_else(|| FeatureError::OrdersFile {
            column: "user_id",
            problem: format!("the activity has no column {name}"),
        })
    };
    let risks: ArrayRef = Arc::new(Float64Array::from(risks.to_vec()));
    let versions: ArrayRef =
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(version, risks.len())));
    let columns = [
        ("user_id", column("user_id")?),
        ("event_time", column("event_time")?),
        ("churn_risk", risks),
        ("model_version", versions),
    ];
    let batch = RecordBatch::try_from_iter(columns).map_err(|error| query(error.into()))?;
    let frame = lake.session().read_batch(batch).map_err(query)?;
    Ok(lake.write_features(TABLE, frame, as_of, None).await?)
}
