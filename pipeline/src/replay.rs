//! Dead letters are read again, and put into their table by its one writer: the ingester's lane, asked through the
//! control database, or whoever holds the slot when nobody ingests.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use chrono::Utc;
use lakeward_cdc::{CdcError, LetterReader, PostgresSource};
use lakeward_change::{ChangeBatch, TableId};
use lakeward_lakehouse::{CapturedTable, Lake, LakeError, Replayed, SourceRef, StoredLetter};
use lakeward_postgres::Control;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::{Options, PipelineError, copy::reference, error::chain, lane::Message};

/// The action of a replay's request.
pub(crate) const ACTION: &str = "replay";

/// What became of letters that were to be replayed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayReport {
    /// In silver now.
    pub applied: u64,
    /// Closed without a change: what came later stands.
    pub superseded: u64,
    /// Still open: their ids, and why they cannot be taken in.
    pub refused: BTreeMap<String, String>,
}

/// Letters of one table, by their ids, as a request has them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReplayRequest {
    pub(crate) letters: BTreeSet<String>,
}

/// The letters of one table, as they can be read by now.
pub(crate) struct Replay {
    wanted: BTreeSet<String>,
    letters: Vec<(StoredLetter, Result<ChangeBatch, CdcError>)>,
}

/// What the table's writer did.
#[derive(Default)]
pub(crate) struct Outcomes {
    replayed: HashMap<String, Replayed>,
    refused: BTreeMap<String, String>,
}

impl Replay {
    async fn read(
        request: ReplayRequest,
        lake: &Lake,
        source: &SourceRef,
        table: &TableId,
        reader: &LetterReader,
    ) -> Result<Self, LakeError> {
        let mut letters = lake.dead_letters(Some(&source.name), true).await?;
        letters.retain(|stored| stored.source == *source && stored.letter.table == *table);
        let mut read = Vec::with_capacity(letters.len());
        for stored in letters {
            let change = reader.read(&stored.letter).await;
            read.push((stored, change));
        }
        Ok(Self { wanted: request.letters, letters: read })
    }

    /// In order; what fails midway may be done again.
    pub(crate) async fn apply(self, table: &mut CapturedTable) -> Result<Outcomes, LakeError> {
        let was_applied = |stored: &StoredLetter| matches!(stored.replayed, Some((_, Replayed::Applied)));
        let mut applied: Vec<ChangeBatch> = self
            .letters
            .iter()
            .filter(|(stored, _)| was_applied(stored))
            .filter_map(|(_, change)| change.as_ref().ok().cloned())
            .collect();
        let mut outcomes = Outcomes::default();
        for (stored, change) in self.letters {
            if stored.replayed.is_some() || !self.wanted.contains(&stored.id) {
                continue;
            }
            // A later copy has its row, or a letter of its own.
            let older = table.durable().is_some_and(|durable| stored.letter.position.epoch < durable.epoch);
            let outcome = match change {
                _ if older => Replayed::Superseded,
                Ok(change) => match table.replay(&change, &applied).await {
                    Ok(outcome) => {
                        applied.extend((outcome == Replayed::Applied).then_some(change));
                        outcome
                    }
                    Err(error @ (LakeError::NoKey { .. } | LakeError::Fold(_))) => {
                        outcomes.refused.insert(stored.id, chain(&error));
                        continue;
                    }
                    Err(error) => return Err(error),
                },
                Err(error) => {
                    outcomes.refused.insert(stored.id, chain(&error));
                    continue;
                }
            };
            outcomes.replayed.insert(stored.id, outcome);
        }
        Ok(outcomes)
    }
}

impl Outcomes {
    async fn note(self, lake: &Lake, source: &SourceRef) -> Result<ReplayReport, LakeError> {
        let closed = self.replayed.iter().map(|(id, outcome)| (id.clone(), Some(*outcome)));
        let tried = closed.chain(self.refused.keys().map(|id| (id.clone(), None))).collect();
        lake.note_replayed(&source.name, &tried, Utc::now().timestamp_micros()).await?;
        let count = |wanted| self.replayed.values().filter(|outcome| **outcome == wanted).count() as u64;
        let (applied, superseded) = (count(Replayed::Applied), count(Replayed::Superseded));
        Ok(ReplayReport { applied, superseded, refused: self.refused })
    }
}

impl ReplayRequest {
    /// Has the table's lane put the letters in, and notes in the lake what became of them.
    ///
    /// # Errors
    /// If the lake fails or the lane has ended. What was put in and not noted is put in again the next time, which
    /// changes nothing.
    pub(crate) async fn carry_out(
        self,
        lake: &Lake,
        source: &SourceRef,
        table: &TableId,
        reader: &LetterReader,
        lane: &mpsc::UnboundedSender<Message>,
    ) -> Result<ReplayReport, PipelineError> {
        let replay = Replay::read(self, lake, source, table, reader).await?;
        let (reply, answer) = oneshot::channel();
        let stopped = || PipelineError::Stopped("a lane");
        lane.send(Message::Replay(replay, reply)).map_err(|_| stopped())?;
        let outcomes = answer.await.map_err(|_| stopped())??;
        Ok(outcomes.note(lake, source).await?)
    }
}

/// Which letters to replay. Parked ones are replayed if they are named.
#[derive(Debug, Clone)]
pub enum ReplayChoice {
    Letters(BTreeSet<String>),
    Table(TableId),
    All,
}

impl ReplayChoice {
    /// Whether a letter is among them.
    pub fn has(&self, stored: &StoredLetter) -> bool {
        match self {
            Self::Letters(ids) => ids.contains(&stored.id),
            Self::Table(table) => stored.parked_at.is_none() && stored.letter.table == *table,
            Self::All => stored.parked_at.is_none(),
        }
    }
}

/// Replays open letters: here if nobody ingests their source, else the ingester is asked, and has `patience` for each
/// table. Letters that were replayed before are passed over.
///
/// # Errors
/// If an id is of no letter of the source, a table is not captured, the lake or the source fails, or the ingester does
/// not answer in time; it may replay them yet.
pub async fn replay(
    lake: &Lake,
    control: &Arc<Control>,
    options: &Options,
    choice: &ReplayChoice,
    patience: Duration,
) -> Result<ReplayReport, PipelineError> {
    let source = PostgresSource::open(options.postgres.clone()).await?;
    let mut letters = lake.dead_letters(Some(source.name()), false).await?;
    letters.retain(|stored| stored.source == reference(&source) && choice.has(stored));
    if let ReplayChoice::Letters(ids) = choice
        && let Some(unknown) = ids.iter().find(|id| letters.iter().all(|stored| stored.id != **id))
    {
        return Err(PipelineError::NoLetter { id: unknown.clone() });
    }
    let mut tables: BTreeMap<TableId, BTreeSet<String>> = BTreeMap::new();
    for stored in letters.into_iter().filter(|stored| stored.replayed.is_none()) {
        tables.entry(stored.letter.table).or_default().insert(stored.id);
    }
    let mut report = ReplayReport::default();
    if tables.is_empty() {
        return Ok(report);
    }
    let claim = match source.claim().await {
        Ok(claim) => Some(claim),
        Err(CdcError::SlotInUse { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    for (table, letters) in tables {
        let request = ReplayRequest { letters };
        let done = match &claim {
            Some(_) => alone(lake, control, &source, &table, request).await?,
            None => {
                let argument = serde_json::to_value(&request)?;
                let of = (table.schema.as_str(), table.name.as_str());
                let id = control.request_table(source.name(), of, ACTION, Some(&argument)).await?;
                serde_json::from_value(control.wait_table_request(id, patience).await?)?
            }
        };
        report.applied += done.applied;
        report.superseded += done.superseded;
        report.refused.extend(done.refused);
    }
    Ok(report)
}

/// As whoever has claimed the slot.
async fn alone(
    lake: &Lake,
    control: &Control,
    source: &PostgresSource,
    table: &TableId,
    request: ReplayRequest,
) -> Result<ReplayReport, PipelineError> {
    let missing = || PipelineError::NotCaptured { table: table.clone() };
    let schema = source.tables().iter().find(|schema| schema.id == *table).ok_or_else(missing)?;
    let reader = source.letter_reader(table).ok_or_else(missing)?;
    let reference = reference(source);
    let mut captured = CapturedTable::open(lake, &reference, Arc::clone(schema)).await?;
    let replay = Replay::read(request, lake, &reference, table, &reader).await?;
    let holder = format!("process {}, for a replay", std::process::id());
    let lease = control.take_lease(source.name(), &holder, true).await?;
    captured.own(lease.term, lease.taken_over).await?;
    let outcomes = replay.apply(&mut captured).await;
    control.release_lease(source.name(), lease.term).await?;
    Ok(outcomes?.note(lake, &reference).await?)
}
