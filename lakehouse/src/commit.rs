//! The commit protocol.
//!
//! A commit is tried on exactly the loaded state, never rebased by the library. After ANY error the table is loaded
//! anew and its transaction identifiers decide: a commit whose answer was lost has landed all the same, and the
//! store's own retry can turn one's own success into "already exists".

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use deltalake::{
    kernel::{
        Action, Add, Metadata, Transaction,
        transaction::{CommitBuilder, CommitProperties, TableReference},
    },
    protocol::{DeltaOperation, SaveMode},
    table::state::DeltaTableState,
};
use lakeward_faults::failpoint;

use crate::{
    Lake, LakeError,
    merge::{merge, remove_leaves},
    rewrite::Rewritten,
    table::{Partition, Table},
    telemetry::{self, Written},
    upsert::Upsert,
};

/// A transaction identifier's value before and after a commit.
#[derive(Debug)]
pub(crate) struct Txn {
    pub(crate) app_id: String,
    pub(crate) before: Option<i64>,
    pub(crate) after: i64,
}

/// What a commit does.
pub(crate) enum Work<'a> {
    /// Changes no row.
    Nothing,
    /// Gives the table another definition that its files fit, too.
    Define(Box<Metadata>),
    /// Adds files.
    Append(Vec<Add>),
    /// Removes every file, then adds some, perhaps under another definition.
    Replace { files: Vec<Add>, definition: Option<Box<Metadata>> },
    /// Removes the files with this value of the partition column, then adds some.
    ReplacePartition { column: &'a str, value: String, files: Vec<Add> },
    /// Removes exactly these files and adds some; moves no position, so it needs no identifiers
    /// of its own.
    Exchange { files: Rewritten, operation: DeltaOperation },
    /// Removes the rows of some partitions of the source's table; nothing but the identifiers if there are none.
    RemoveLeaves { leaves: &'a BTreeSet<String>, lake: &'a Lake },
    /// Updates, inserts and deletes rows by key; nothing but the identifiers if no row changes.
    Merge { upsert: &'a Arc<Upsert>, lake: &'a Lake },
}

/// How a table stands to a commit that was tried.
enum Outcome {
    Landed,
    NotLanded,
    OtherWriter,
}

/// Commits the work together with the identifiers; `table` then holds the state with it.
///
/// # Errors
/// [`LakeError::OtherWriter`] if the identifiers are neither what they were nor what this commit makes them; else the
/// last error after some retries. Then the commit may yet have landed: load the table before the next one.
pub(crate) async fn commit(table: &mut Table, work: &Work<'_>, txns: &[Txn]) -> Result<(), LakeError> {
    let mut delays = backoff().build();
    let begun = Instant::now();
    loop {
        let error = match attempt(table, work, txns).await {
            Ok(state) => {
                table.state = Some(state);
                telemetry::committed(&table.path, begun.elapsed());
                return Ok(());
            }
            Err(error) => error,
        };
        // Told as a warning by whoever gets it, if no try succeeds: a conflict is none.
        tracing::debug!(table = table.path, error = &error as &dyn std::error::Error, "a commit failed");
        telemetry::failed(&table.path);
        let tried_on = table.state.clone();
        match outcome(table, work, txns).await {
            Ok(Outcome::Landed) => return Ok(()),
            Ok(Outcome::OtherWriter) => return Err(LakeError::OtherWriter { table: table.path.clone() }),
            Ok(Outcome::NotLanded) => {}
            // Unknown. The next attempt is safe on the state of this one, which is no longer the newest if this one has
            // landed: then it fails. On a newer one it would be done twice.
            Err(error) => {
                table.state = tried_on;
                tracing::warn!(table = table.path, error = &error as &dyn std::error::Error, "a load failed");
            }
        }
        match delays.next() {
            Some(delay) => tokio::time::sleep(delay).await,
            None => return Err(error),
        }
    }
}

/// The pauses between tries of whatever the store may refuse for a while.
pub(crate) fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_secs(1))
        .with_max_times(7)
        .with_jitter()
}

async fn outcome(table: &mut Table, work: &Work<'_>, txns: &[Txn]) -> Result<Outcome, LakeError> {
    failpoint("txn_read").await?;
    table.reload().await?;
    let (mut landed, mut untouched) = (true, true);
    for txn in txns {
        let now = table.txn(&txn.app_id).await?;
        landed &= now == Some(txn.after);
        untouched &= now == txn.before;
    }
    if let Work::Exchange { files, .. } = work
        && (landed || untouched)
    {
        return exchange_outcome(table, files);
    }
    Ok(match (landed, untouched) {
        (true, _) => Outcome::Landed,
        (false, true) => Outcome::NotLanded,
        (false, false) => Outcome::OtherWriter,
    })
}

async fn attempt(table: &Table, work: &Work<'_>, txns: &[Txn]) -> Result<DeltaTableState, LakeError> {
    failpoint("commit_sent").await?;
    let state = send(table, work, txns).await?;
    failpoint("commit_answered").await?;
    Ok(state)
}

async fn send(table: &Table, work: &Work<'_>, txns: &[Txn]) -> Result<DeltaTableState, LakeError> {
    let write = |mode| {
        let partitions = table.loaded()?.metadata().partition_columns().to_vec();
        let partition_by = (!partitions.is_empty()).then_some(partitions);
        Ok::<_, LakeError>(DeltaOperation::Write { mode, partition_by, predicate: None })
    };
    let define = |definition: &Metadata| Action::Metadata(definition.clone());
    let (actions, operation) = match work {
        Work::Nothing => (Vec::new(), write(SaveMode::Append)?),
        Work::Define(definition) => (vec![define(definition)], write(SaveMode::Append)?),
        Work::Append(files) => (adds(files), write(SaveMode::Append)?),
        Work::Replace { files, definition } => {
            let mut actions = replaced(table, files, |_| true)?;
            actions.extend(definition.iter().map(|definition| define(definition)));
            (actions, write(SaveMode::Overwrite)?)
        }
        Work::ReplacePartition { column, value, files } => {
            let same =
                |partition: &Partition| partition.get(*column).is_some_and(|v| v.as_ref() == Some(value));
            (replaced(table, files, same)?, write(SaveMode::Overwrite)?)
        }
        Work::Exchange { files, operation } => (exchanged(files), operation.clone()),
        Work::RemoveLeaves { leaves, lake } => {
            let operation = DeltaOperation::Delete { predicate: None };
            (exchanged(&remove_leaves(leaves, table, lake).await?), operation)
        }
        Work::Merge { upsert, lake } => (exchanged(&merge(upsert, table, lake).await?), merged()),
    };
    let state = table.loaded()?;
    let written = Written::of(&actions);
    let committed = CommitBuilder::from(properties(txns))
        .with_actions(actions)
        .build(Some(state as &dyn TableReference), Arc::clone(&table.log_store), operation)
        .await
        .map_err(LakeError::delta(&table.path, "committed to"))?;
    written.count(&table.path);
    Ok(committed.snapshot())
}

fn adds(files: &[Add]) -> Vec<Action> {
    files.iter().cloned().map(Action::Add).collect()
}

fn exchanged(Rewritten { removed, added }: &Rewritten) -> Vec<Action> {
    removed.iter().cloned().map(Action::Remove).chain(adds(added)).collect()
}

/// What the log says of a merge.
fn merged() -> DeltaOperation {
    DeltaOperation::Merge {
        predicate: None,
        merge_predicate: None,
        matched_predicates: Vec::new(),
        not_matched_predicates: Vec::new(),
        not_matched_by_source_predicates: Vec::new(),
    }
}

fn replaced(
    table: &Table,
    files: &[Add],
    old: impl Fn(&Partition) -> bool,
) -> Result<Vec<Action>, LakeError> {
    Ok(exchanged(&Rewritten { removed: table.removes(old, true)?, added: files.to_vec() }))
}

/// An exchange's files say how it went: their names are of no other commit. If one to remove is no longer there, its
/// rows would come back.
fn exchange_outcome(table: &Table, files: &Rewritten) -> Result<Outcome, LakeError> {
    let Rewritten { removed, added } = files;
    let there = table.file_names()?;
    let landed = added.iter().all(|file| there.contains(&file.path));
    let old = removed.iter().filter(|file| there.contains(&file.path)).count();
    Ok(if landed && old == 0 {
        Outcome::Landed
    } else if old == removed.len() {
        Outcome::NotLanded
    } else {
        Outcome::OtherWriter
    })
}

fn properties(txns: &[Txn]) -> CommitProperties {
    CommitProperties::default()
        .with_max_retries(0)
        .with_cleanup_expired_logs(Some(false))
        .with_application_transactions(
            txns.iter().map(|txn| Transaction::new(&txn.app_id, txn.after)).collect(),
        )
}
