//! Compaction: small files of a table become fewer, larger ones with the same rows.
//!
//! The library's own OPTIMIZE rebases its commit whatever it is told, and two of them at a time leave every row twice.
//! Here a compaction commits by the commit protocol like all else: on exactly the state it was planned on.

use std::collections::{BTreeMap, BTreeSet};

use deltalake::{
    datafusion::prelude::SessionContext, kernel::Add, protocol::DeltaOperation,
    table::config::TablePropertiesExt,
};
use serde::{Deserialize, Serialize};

use crate::{
    LakeError,
    commit::{Txn, Work, commit},
    rewrite::{Rewritten, old_files, rewrite},
    table::{Partition, Table},
};

/// A file joins a group of smaller ones if it is at most so many times as large: then each byte of a growing
/// partition is rewritten a logarithmic number of times, and a logarithmic number of files stays small.
const TIER: u64 = 2;

/// How much of a table is compacted at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compaction {
    /// Beside a busy writer: only if at least `files` would be replaced, and about `bytes` of them at a time.
    Due { files: usize, bytes: u64 },
    /// Whatever can be.
    Whole,
}

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    pub files_removed: usize,
    pub files_added: usize,
    /// Size of the files that were replaced.
    pub bytes: u64,
}

impl std::ops::AddAssign for Compacted {
    fn add_assign(&mut self, other: Self) {
        self.files_removed += other.files_removed;
        self.files_added += other.files_added;
        self.bytes += other.bytes;
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct DataFile {
    partition: Partition,
    path: String,
    bytes: u64,
}

/// The groups of files that become one each: two or more of one partition, together no larger than `target`. The
/// greatest partition still grows, and is compacted in tiers; the others, and all if `whole`, as far as possible.
fn plan(files: Vec<DataFile>, target: u64, whole: bool) -> Vec<Vec<DataFile>> {
    let mut partitions: BTreeMap<Partition, Vec<DataFile>> = BTreeMap::new();
    for file in files {
        partitions.entry(file.partition.clone()).or_default().push(file);
    }
    let growing = partitions.keys().next_back().cloned();
    let mut groups = Vec::new();
    for (partition, mut files) in partitions {
        let tiers = !whole && Some(&partition) == growing.as_ref();
        files.retain(|file| file.bytes < target);
        files.sort_by(|a, b| (a.bytes, &a.path).cmp(&(b.bytes, &b.path)));
        let mut bytes = 0;
        let mut group: Vec<DataFile> = Vec::new();
        for file in files {
            if bytes + file.bytes > target || (tiers && file.bytes > TIER * bytes) {
                groups.push(std::mem::take(&mut group));
                bytes = 0;
            }
            bytes += file.bytes;
            group.push(file);
        }
        groups.push(group);
    }
    groups.retain(|group| group.len() > 1);
    groups
}

fn size(group: &[DataFile]) -> u64 {
    group.iter().map(|file| file.bytes).sum()
}

/// Of the planned groups, those to rewrite now: small ones first, where the most files go for the fewest bytes.
fn due(mut groups: Vec<Vec<DataFile>>, compaction: Compaction) -> Vec<Vec<DataFile>> {
    let Compaction::Due { files, bytes } = compaction else { return groups };
    if groups.iter().map(Vec::len).sum::<usize>() < files {
        return Vec::new();
    }
    groups.sort_by_key(|group| size(group));
    let mut total = 0;
    groups
        .into_iter()
        .take_while(|group| {
            let first = total == 0;
            total += size(group);
            first || total <= bytes
        })
        .collect()
}

/// Compacts the partitions that `chosen` names, one commit a group, each with `txns`: the owner's term, if there is one.
pub(crate) async fn compact(
    table: &mut Table,
    session: &SessionContext,
    compaction: Compaction,
    chosen: impl Fn(&Partition) -> bool,
    txns: &[Txn],
) -> Result<Compacted, LakeError> {
    let mut done = Compacted::default();
    let target = table.loaded()?.table_config().target_file_size().get();
    let mut files = data_files(table)?;
    files.retain(|file| chosen(&file.partition));
    let groups = due(plan(files, target, compaction == Compaction::Whole), compaction);
    if groups.is_empty() {
        return Ok(done);
    }
    for group in groups {
        let paths: BTreeSet<&str> = group.iter().map(|file| file.path.as_str()).collect();
        let files = old_files(table, false, |path| paths.contains(path))?;
        let added = rewrite(table, session, &files, Ok, None).await?;
        let added: Vec<_> = added.into_iter().map(|file| Add { data_change: false, ..file }).collect();
        done += Compacted { files_removed: files.len(), files_added: added.len(), bytes: size(&group) };
        let removed = files.into_iter().map(|file| file.removed).collect();
        let files = Rewritten { removed, added };
        let operation = DeltaOperation::Optimize {
            predicate: None,
            target_size: i64::try_from(target).unwrap_or(i64::MAX),
        };
        commit(table, &Work::Exchange { files, operation }, txns).await?;
    }
    tracing::info!(table = table.path, ?done, "compacted");
    Ok(done)
}

fn data_files(table: &Table) -> Result<Vec<DataFile>, LakeError> {
    let log = table.snapshot()?.try_log_data().map_err(LakeError::delta(&table.path, "listed"))?;
    let files = log.iter().map(|file| DataFile {
        partition: file.partition_values_map().into_iter().collect(),
        path: file.path().into_owned(),
        bytes: u64::try_from(file.size()).unwrap_or_default(),
    });
    Ok(files.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TARGET: u64 = 1 << 20;

    fn file(partition: u8, path: usize, bytes: u64) -> DataFile {
        let partition = Partition::from([("day".to_owned(), Some(partition.to_string()))]);
        DataFile { partition, path: path.to_string(), bytes }
    }

    fn some_files() -> impl Strategy<Value = Vec<DataFile>> {
        let size = prop_oneof![1..100_u64, 1..TARGET, TARGET - 1..TARGET * 2];
        prop::collection::vec((0..3_u8, size), 0..60).prop_map(|files| {
            files.into_iter().enumerate().map(|(path, (day, bytes))| file(day, path, bytes)).collect()
        })
    }

    /// The files after a compaction, if the new ones are as large as what they hold.
    fn compacted(files: &[DataFile], groups: &[Vec<DataFile>]) -> Vec<DataFile> {
        let gone: BTreeSet<&str> = groups.iter().flatten().map(|file| file.path.as_str()).collect();
        let stay = files.iter().filter(|file| !gone.contains(file.path.as_str())).cloned();
        let new = groups.iter().map(|group| DataFile {
            path: format!("of {}", group[0].path),
            bytes: size(group),
            ..group[0].clone()
        });
        stay.chain(new).collect()
    }

    proptest! {
        #[test]
        fn groups_are_of_small_files_of_one_partition(files in some_files(), whole: bool) {
            let groups = plan(files.clone(), TARGET, whole);
            let mut paths = BTreeSet::new();
            for group in &groups {
                prop_assert!(group.len() > 1 && size(group) <= TARGET);
                for file in group {
                    prop_assert_eq!(&file.partition, &group[0].partition);
                    prop_assert!(file.bytes < TARGET && files.contains(file));
                    prop_assert!(paths.insert(file.path.clone()), "a file in two groups");
                }
            }
            let mut turned = files;
            turned.reverse();
            prop_assert_eq!(plan(turned, TARGET, whole), groups, "the order of the log is no matter");
        }

        #[test]
        fn after_a_compaction_there_is_nothing_to_do(files in some_files()) {
            let after = compacted(&files, &plan(files.clone(), TARGET, true));
            prop_assert_eq!(plan(after.clone(), TARGET, true), Vec::<Vec<DataFile>>::new());
            prop_assert_eq!(
                after.iter().map(|file| file.bytes).sum::<u64>(),
                files.iter().map(|file| file.bytes).sum::<u64>()
            );
        }

        #[test]
        fn a_part_is_done_only_when_due_and_takes_the_smallest(files in some_files(), least in 0..40_usize, bytes in 1..TARGET * 3) {
            let groups = plan(files, TARGET, false);
            let planned = groups.iter().map(Vec::len).sum::<usize>();
            let now = due(groups.clone(), Compaction::Due { files: least, bytes });
            if planned < least {
                prop_assert!(now.is_empty());
            } else {
                prop_assert_eq!(now.is_empty(), groups.is_empty());
                let total: u64 = now.iter().map(|group| size(group)).sum();
                prop_assert!(now.len() <= 1 || total <= bytes);
                let largest = now.iter().map(|group| size(group)).max().unwrap_or_default();
                for left in groups.iter().filter(|group| !now.contains(group)) {
                    prop_assert!(size(left) >= largest);
                }
            }
        }

        /// Flush after flush into one partition: neither files nor bytes rewritten grow beyond a logarithm.
        #[test]
        fn tiers_keep_files_and_rewriting_few(sizes in prop::collection::vec(1_000..9_000_u64, 500..1_000)) {
            let mut files = Vec::new();
            let (mut rewritten, mut most) = (0, 0);
            let flushed: u64 = sizes.iter().sum();
            for (path, bytes) in sizes.into_iter().enumerate() {
                files.push(file(0, path, bytes));
                let groups = due(plan(files.clone(), 1 << 30, false), Compaction::Due { files: 50, bytes: u64::MAX });
                rewritten += groups.iter().map(|group| size(group)).sum::<u64>();
                files = compacted(&files, &groups);
                most = most.max(files.len());
            }
            prop_assert!(most < 50 + 20, "{most} files");
            prop_assert!(rewritten < flushed * 8, "{rewritten} bytes rewritten for {flushed}");
        }
    }
}
