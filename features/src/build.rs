//! Writing the views to Delta.

use std::time::{Duration, Instant};

use lakeward_lakehouse::Lake;
use serde::Serialize;

use crate::{Result, ShopTables, View, shop::churn_moments};

/// What one view's build did.
#[derive(Debug, Clone, Serialize)]
pub struct ViewReport {
    pub view: View,
    pub rows: u64,
    pub elapsed: Duration,
}

/// What a build did.
#[derive(Debug, Clone, Serialize)]
pub struct BuildReport {
    /// Microseconds UTC.
    pub as_of: i64,
    pub views: Vec<ViewReport>,
    /// What the shop lacks and how that was taken.
    pub missing: Vec<String>,
}

/// Computes views (all if none are named) of a shop as of a moment, and writes them to the lake's `features/`.
///
/// Every row carries its entity, `event_time` (the moment it is true for) and `created_time` (`as_of`). A run with an
/// `as_of` that was built before replaces that run's rows. `horizon_days` is that of the churn labels.
///
/// # Errors
/// A query fails, or the lake cannot be read or written.
pub async fn build(
    lake: &Lake,
    shop: &ShopTables,
    as_of: i64,
    horizon_days: u32,
    views: Option<&[View]>,
    progress: &(dyn Fn(&ViewReport) + Send + Sync),
) -> Result<BuildReport> {
    let mut report = BuildReport { as_of, views: Vec::new(), missing: shop.missing().to_vec() };
    for view in views.unwrap_or(&View::ALL) {
        let started = Instant::now();
        let moments = match view {
            View::ChurnTraining => churn_moments(as_of, horizon_days),
            _ => vec![(as_of, as_of)],
        };
        let frame = shop.frame(view.name(), &moments, view.entity()).await?;
        let rows = lake.write_features(view.name(), frame, as_of, shop.position()).await?;
        let done = ViewReport { view: *view, rows, elapsed: started.elapsed() };
        progress(&done);
        report.views.push(done);
    }
    Ok(report)
}
