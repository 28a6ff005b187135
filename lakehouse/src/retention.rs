//! Retention: which watermarks are kept, and with them the versions and files of tables that can still be read.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::TimeDelta;
use deltalake::{
    checkpoints::{cleanup_expired_logs_for, create_checkpoint},
    operations::vacuum::{Clock, VacuumMode},
};
use futures::{StreamExt, TryStreamExt, future::ready, stream};
use object_store::{ObjectMeta, path::Path};
use serde::{Deserialize, Serialize};

use crate::{LakeError, table::Table};

const MICROSECONDS_AN_HOUR: i64 = 3_600_000_000;

/// What of the past stays readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// A source's newest watermarks stay, this many (at least one) …
    pub watermarks: usize,
    /// … the last one of each hour of its stream time, for so many hours back …
    pub hours: u32,
    /// … and what was the newest this long ago or later: whoever reads it has this long to hold it. Files that no
    /// watermark names stay as long; a write takes less time.
    pub grace: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { watermarks: 100, hours: 7 * 24, grace: Duration::from_secs(3600) }
    }
}

/// A table is crowded when past states take more than half of what the newest version has, and all its files at least
/// so many bytes.
const CROWDED_BYTES: u64 = 16 << 20;

impl Retention {
    /// What stays of a crowded table.
    pub(crate) fn when_crowded(self) -> Self {
        let (watermarks, grace) = (self.watermarks.min(5), self.grace.min(Duration::from_secs(20)));
        Self { watermarks, grace, ..self }
    }
}

/// What a vacuum removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vacuumed {
    /// Data files that no kept version has.
    pub files: usize,
    /// Log entries and checkpoints from before the oldest kept version.
    pub log_entries: usize,
}

impl std::ops::AddAssign for Vacuumed {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.log_entries += other.log_entries;
    }
}

/// Which of a source's watermarks are kept, by their sequence; each is given with its stream time and when it was
/// written. Once one is not kept it never is again, however time and stream go on.
pub(crate) fn kept(
    watermarks: &BTreeMap<i64, (Option<i64>, i64)>,
    retention: &Retention,
    now: i64,
) -> BTreeSet<i64> {
    let first_hour = now.div_euclid(MICROSECONDS_AN_HOUR) - i64::from(retention.hours);
    let hours: BTreeMap<i64, i64> = watermarks
        .iter()
        .filter_map(|(sequence, (time, _))| Some(((*time)?.div_euclid(MICROSECONDS_AN_HOUR), *sequence)))
        .collect();
    let hourly = hours.range(first_hour + 1..).map(|(_, sequence)| *sequence);
    let newest = watermarks.keys().rev().take(retention.watermarks.max(1)).copied();
    let grace = i64::try_from(retention.grace.as_micros()).unwrap_or(i64::MAX);
    // Where a clock was set back, what came before has happened by then.
    let recent = watermarks.iter().rev().scan(i64::MAX, |following, (sequence, (_, written))| {
        let followed = *following;
        *following = followed.min(*written);
        Some((*sequence, followed))
    });
    let recent = recent.filter(|(_, followed)| *followed > now.saturating_sub(grace)).map(|(s, _)| s);
    hourly.chain(newest).chain(recent).collect()
}

impl Table {
    pub(crate) async fn is_crowded(&self) -> Result<bool, LakeError> {
        let log = self.snapshot()?.try_log_data().map_err(LakeError::delta(&self.path, "listed"))?;
        let live: u64 = log.iter().map(|file| u64::try_from(file.size()).unwrap_or_default()).sum();
        let listed = self.log_store.object_store(None).list(None).map_ok(|file| file.size);
        let all = listed.try_fold(0, |all, size| ready(Ok(all + size))).await;
        let all =
            all.map_err(|source| LakeError::Store { path: self.path.clone(), doing: "listed", source })?;
        Ok(all >= CROWDED_BYTES && 2 * all >= 3 * live)
    }

    /// Removes files that neither the newest version nor one of `kept` has, and the log from before the oldest of
    /// them, once either has not been needed for the grace. `now` is in microseconds UTC. Commits nothing.
    pub(crate) async fn vacuum(
        &self,
        kept: &BTreeSet<i64>,
        grace: Duration,
        now: i64,
    ) -> Result<Vacuumed, LakeError> {
        let failed = || LakeError::delta(&self.path, "vacuumed");
        let delta = self.delta()?;
        // The newest log is all that a later load must read.
        create_checkpoint(&delta, None).await.map_err(failed())?;
        let versions: Vec<u64> = kept.iter().filter_map(|version| u64::try_from(*version).ok()).collect();
        let grace = TimeDelta::from_std(grace).unwrap_or(TimeDelta::MAX);
        let milliseconds = now.div_euclid(1000);
        // The library's own deletion would commit twice, and not by our protocol.
        let (_, planned) = delta
            .vacuum()
            .with_mode(VacuumMode::Full)
            .with_retention_period(grace)
            .with_enforce_retention_duration(false)
            .with_keep_versions(&versions)
            .with_clock(Arc::new(At(milliseconds)))
            .with_dry_run(true)
            .await
            .map_err(failed())?;
        let store = self.log_store.object_store(None);
        let cleared =
            |source| LakeError::Store { path: self.path.clone(), doing: "cleared of old files", source };
        // The plan names what an earlier vacuum has removed as long as the log remembers it.
        let there: Vec<ObjectMeta> = store.list(None).try_collect().await.map_err(cleared)?;
        let before = milliseconds.saturating_sub(grace.num_milliseconds());
        let checkpoint = settled_checkpoint(&there, before);
        let there: HashSet<String> = there.into_iter().map(|file| file.location.into()).collect();
        let old = planned.files_deleted.into_iter().filter(|path| there.contains(path));
        let paths = old.map(|path| Path::parse(path).map_err(object_store::Error::from)).collect::<Vec<_>>();
        let deleted: Vec<Path> = store
            .delete_stream(stream::iter(paths).boxed())
            .filter(|deleted| ready(!matches!(deleted, Err(object_store::Error::NotFound { .. }))))
            .try_collect()
            .await
            .map_err(cleared)?;
        let log_entries = match checkpoint {
            Some(checkpoint) => {
                let oldest = versions.first().map_or(checkpoint, |version| checkpoint.min(*version));
                let log = self.log_store.as_ref();
                cleanup_expired_logs_for(oldest, log, before, None).await.map_err(failed())?
            }
            None => 0,
        };
        let done = Vacuumed { files: deleted.len(), log_entries };
        tracing::info!(table = self.path, ?done, "vacuumed");
        Ok(done)
    }
}

/// The version of the checkpoint that was the newest at a time, in milliseconds UTC: a load that has begun since needs
/// nothing of the log from before it.
fn settled_checkpoint(files: &[ObjectMeta], time: i64) -> Option<u64> {
    let version = |file: &ObjectMeta| {
        let (version, kind) = file.location.filename()?.split_once('.')?;
        kind.starts_with("checkpoint.").then(|| version.parse().ok())?
    };
    files.iter().filter(|file| file.last_modified.timestamp_millis() <= time).filter_map(version).max()
}

/// A clock that stands still, at milliseconds UTC.
#[derive(Debug)]
struct At(i64);

impl Clock for At {
    fn current_timestamp_millis(&self) -> i64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: i64 = MICROSECONDS_AN_HOUR;

    fn retention() -> impl Strategy<Value = Retention> {
        (0..6_usize, 0..30_u32, 0..5_u64).prop_map(|(watermarks, hours, grace)| Retention {
            watermarks,
            hours,
            grace: Duration::from_secs(3600 * grace),
        })
    }

    /// Stream times and when they were written, mostly rising; a restored server's and a clock that is set back may fall.
    fn times() -> impl Strategy<Value = Vec<(Option<i64>, i64)>> {
        let step = || prop_oneof![8 => 0..HOUR, 1 => -2 * HOUR..0, 1 => 0..9 * HOUR];
        prop::collection::vec((step(), prop::bool::weighted(0.9), step()), 0..60).prop_map(|steps| {
            let (mut time, mut written) = (0, 0);
            steps
                .into_iter()
                .map(|(step, known, later)| {
                    time += step;
                    written += later;
                    (known.then_some(time), written)
                })
                .collect()
        })
    }

    fn numbered(times: &[(Option<i64>, i64)]) -> BTreeMap<i64, (Option<i64>, i64)> {
        (1..).zip(times.iter().copied()).collect()
    }

    proptest! {
        #[test]
        fn the_newest_and_one_an_hour_are_kept(times in times(), retention in retention(), now in 0..60 * HOUR) {
            let all = numbered(&times);
            let kept = kept(&all, &retention, now);
            let newest: BTreeSet<i64> = all.keys().rev().take(retention.watermarks.max(1)).copied().collect();
            prop_assert!(kept.is_superset(&newest));
            let window = (now.div_euclid(HOUR) - i64::from(retention.hours) + 1) * HOUR;
            let hour = |sequence: &i64| all[sequence].0.filter(|time| *time >= window).map(|time| time.div_euclid(HOUR));
            let there: BTreeSet<i64> = all.keys().filter_map(hour).collect();
            let reached: Vec<i64> = kept.iter().filter_map(hour).collect();
            prop_assert_eq!(&reached.iter().copied().collect::<BTreeSet<_>>(), &there, "every hour has one");
            let long_ago = now - retention.grace.as_micros() as i64;
            let read = |sequence: &i64| {
                newest.contains(sequence) || all.range(sequence + 1..).all(|(_, (_, written))| *written > long_ago)
            };
            prop_assert!(all.keys().all(|sequence| !read(sequence) || kept.contains(sequence)), "it may be read");
            let extra: Vec<&i64> = kept.difference(&newest).filter(|sequence| !read(sequence)).collect();
            let hours: BTreeSet<i64> = extra.iter().copied().filter_map(hour).collect();
            prop_assert_eq!(extra.len(), hours.len(), "and no more than one beyond those");
        }

        #[test]
        fn a_clock_that_is_set_back_lets_go_of_nothing(
            times in times(), retention in retention(), now in 0..60 * HOUR, back in 0..60 * HOUR,
        ) {
            let all = numbered(&times);
            let before = kept(&all, &retention, now);
            prop_assert!(kept(&all, &retention, now - back).is_superset(&before));
        }

        #[test]
        fn what_is_not_kept_never_is_again(
            times in times(), cut in 0..60_usize, retention in retention(), now in 0..60 * HOUR, later in 0..60 * HOUR,
        ) {
            let cut = cut.min(times.len());
            let before = kept(&numbered(&times[..cut]), &retention, now);
            let all = numbered(&times);
            let after = kept(&all, &retention, now + later);
            for sequence in &after {
                prop_assert!(*sequence > cut as i64 || before.contains(sequence), "{sequence} came back");
            }
            // So a list that was pruned meanwhile gives the same.
            let pruned = all.into_iter().filter(|(s, _)| *s > cut as i64 || before.contains(s)).collect();
            prop_assert_eq!(kept(&pruned, &retention, now + later), after);
        }
    }
}
