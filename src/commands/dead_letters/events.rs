//! Events' dead letters: read again under the contracts as they are now. An event is put in where it is not yet, so nobody
//! who follows the topics is in the way.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use anyhow::Result;
use chrono::Utc;
use lakeward_events::{ContractFile, Form, Refused, TopicRows};
use lakeward_lakehouse::{Lake, Replayed, StoredLetter};
use lakeward_pipeline::{ReplayChoice, ReplayReport};

use crate::{
    commands::load::{CHANGES, FILES, SOURCE, events_table},
    config::Config,
};

/// Replays those that are chosen; beside what became of them, what is left of the choice for captured tables' letters.
pub(super) async fn replay(
    lake: &Lake,
    config: &Config,
    choice: ReplayChoice,
) -> Result<(ReplayReport, Option<ReplayChoice>)> {
    let letters = lake.dead_letters(Some(SOURCE), true).await?;
    let open = letters.iter().filter(|stored| stored.replayed.is_none() && choice.has(stored));
    let report = put_in(lake, config, open).await?;
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
    letters: impl Iterator<Item = &StoredLetter>,
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
    let (mut refused, mut outcomes) = (BTreeMap::new(), HashMap::new());
    let mut batches = Vec::new();
    for stored in letters {
        let letter = &stored.letter;
        if letter.table.name == FILES {
            let reason = "it is a file's: mend the line, and load it in a file of its own";
            refused.insert(stored.id.clone(), reason.to_owned());
            continue;
        }
        let rows = &mut readers[usize::from(letter.table.name == CHANGES)];
        rows.push(0, letter.position.order, &letter.message);
        let (batch, mut again) = rows.finish()?;
        match again.pop() {
            Some(Refused { reason, .. }) => drop(refused.insert(stored.id.clone(), reason)),
            None => {
                batches.push(batch);
                outcomes.insert(stored.id.clone(), Replayed::Applied);
            }
        }
    }
    if let Some(first) = batches.first() {
        let rows = arrow::compute::concat_batches(&first.schema(), &batches)?;
        events_table(lake).await?.put(&rows).await?;
        lake.note_replayed(SOURCE, &outcomes, Utc::now().timestamp_micros()).await?;
    }
    Ok(ReplayReport { applied: outcomes.len() as u64, superseded: 0, refused })
}
