//! Events' dead letters: read again under the contracts as they are now. An event is put in where it is not yet, so nobody
//! who follows the topics is in the way.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use anyhow::Result;
use arrow::array::RecordBatch;
use chrono::Utc;
use lakeward_events::{ContractFile, FIELDS, Form, Refused, TopicRows};
use lakeward_lakehouse::{Lake, Replayed, StoredLetter};
use lakeward_pipeline::{ReplayChoice, ReplayReport};

use crate::{
    commands::load::{CHANGES, FILES, SOURCE, events_table, files},
    config::Config,
};

/// A letter's event, or why it still is none.
type Reread = Result<RecordBatch, String>;

/// Replays those that are chosen; beside what became of them, what is left of the choice for captured tables' letters.
pub(super) async fn replay(
    lake: &Lake,
    config: &Config,
    choice: ReplayChoice,
) -> Result<(ReplayReport, Option<ReplayChoice>)> {
    let letters = lake.dead_letters(Some(SOURCE), true).await?;
    let is_chosen = |stored: &StoredLetter| stored.replayed.is_none() && choice.has(stored);
    let report = put_in(lake, config, &letters, &is_chosen).await?;
    let left = match choice {
        ReplayChoice::Letters(mut ids) => {
            ids.retain(|id| letters.iter().all(|stored| stored.id != *id));
            (!ids.is_empty()).then_some(ReplayChoice::Letters(ids))
        }
        ReplayChoice::Table(table) => {
            let is_ours = letters.iter().any(|stored| stored.letter.table == table);
            (!is_ours).then_some(ReplayChoice::Table(table))
        }
        // Who has no Postgres has no other ones.
        ReplayChoice::All if config.source.postgres_url.is_none() && !letters.is_empty() => None,
        ReplayChoice::All => Some(ReplayChoice::All),
    };
    Ok((report, left))
}

async fn put_in(
    lake: &Lake,
    config: &Config,
    letters: &[StoredLetter],
    is_chosen: &dyn Fn(&StoredLetter) -> bool,
) -> Result<ReplayReport> {
    let events = &config.events;
    let (raw, changes) = (
        ContractFile::open(events.contract.as_deref())?,
        ContractFile::of_changes(events.changes_contract.as_deref())?,
    );
    let mut readers = [
        TopicRows::new(Form::Raw, Arc::clone(raw.contract())),
        TopicRows::new(Form::Change, Arc::clone(changes.contract())),
    ];
    let mut read: Vec<(&StoredLetter, Reread)> = Vec::new();
    let (of_files, of_topics): (Vec<_>, Vec<_>) =
        letters.iter().partition(|stored| stored.letter.table.name == FILES);
    for stored in of_topics.into_iter().filter(|stored| is_chosen(stored)) {
        let letter = &stored.letter;
        let rows = &mut readers[usize::from(letter.table.name == CHANGES)];
        rows.push(0, letter.position.order, &letter.message);
        let (batch, mut again) = rows.finish()?;
        read.push((stored, again.pop().map_or(Ok(batch), |Refused { reason, .. }| Err(reason))));
    }
    for file in of_files.chunk_by(|one, other| one.source == other.source) {
        read.extend(files::reread(file, raw.contract())?.into_iter().filter(|(stored, _)| is_chosen(stored)));
    }
    let (mut refused, mut tried, mut batches) = (BTreeMap::new(), HashMap::new(), Vec::new());
    for (stored, row) in read {
        tried.insert(stored.id.clone(), row.is_ok().then_some(Replayed::Applied));
        match row {
            // Where the event was is told by its letter.
            Ok(batch) => batches.push(batch.project(&Vec::from_iter(0..=FIELDS.len()))?),
            Err(reason) => drop(refused.insert(stored.id.clone(), reason)),
        }
    }
    if let Some(first) = batches.first() {
        let rows = arrow::compute::concat_batches(&first.schema(), &batches)?;
        events_table(lake, config).await?.put(&rows).await?;
    }
    lake.note_replayed(SOURCE, &tried, Utc::now().timestamp_micros()).await?;
    Ok(ReplayReport { applied: batches.len() as u64, superseded: 0, refused })
}
