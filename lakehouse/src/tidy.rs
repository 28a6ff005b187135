//! Keeping the files of a table few that no watermark names.

use std::{collections::BTreeSet, time::Duration};

use crate::{Compaction, Lake, LakeError, compaction::compact, table::Table};

/// So many commits from one tidying to the next.
const EVERY: i64 = 100;
const SMALL_FILES: usize = 20;
/// Whoever reads a past state has this long.
const GRACE: Duration = Duration::from_secs(3600);

/// Once in a hundred commits puts small files together, of which a commit writes at most `bytes`, and removes what was
/// replaced an hour ago and longer. `now` is in microseconds UTC.
pub(crate) async fn tidy(table: &mut Table, lake: &Lake, bytes: u64, now: i64) -> Result<(), LakeError> {
    if table.version().is_none_or(|version| version % EVERY != 0) {
        return Ok(());
    }
    let due = Compaction::Due { files: SMALL_FILES, bytes };
    compact(table, &lake.serial_session(), due, |_| true, &[]).await?;
    table.vacuum(&BTreeSet::new(), GRACE, now).await?;
    Ok(())
}
