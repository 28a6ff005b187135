//! What is done with each table at a beginning, and where the stream then begins.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lakeward_cdc::PostgresSource;
use lakeward_change::{Evolution, Lsn, StopCause, StoppedTable, TableId};
use lakeward_lakehouse::{CapturedTable, Watermark};

use crate::{
    Event, Pipeline, PipelineError,
    copy::Copying,
    start::{Step, complete_to, step},
};

/// What to do with the source's tables.
#[derive(Default)]
pub(crate) struct Plan {
    /// Tables, and up to where they are complete.
    pub(crate) follow: Vec<(CapturedTable, Lsn)>,
    /// Tables, and why they are copied.
    pub(crate) copy: BTreeMap<TableId, String>,
}

/// How a stream begins.
pub(crate) struct Begun {
    pub(crate) source: PostgresSource,
    pub(crate) tables: Vec<CapturedTable>,
    /// The newest one, or what it would be.
    pub(crate) watermark: Arc<Watermark>,
    pub(crate) from: Lsn,
    /// No cut can be made earlier.
    pub(crate) not_before: Lsn,
}

impl Pipeline {
    /// What to do with each table.
    pub(crate) async fn plan(
        &mut self,
        source: &mut PostgresSource,
        newest: Option<&Watermark>,
        confirmed: Lsn,
        copying: &Copying,
    ) -> Result<Plan, PipelineError> {
        let mut plan = Plan::default();
        for mut table in copying.open_tables(source, None).await? {
            let id = table.id().clone();
            if self.copies.copies(&id) || self.copies.is_halted(&id) {
                continue;
            }
            let complete = complete_to(&id, table.durable(), newest);
            let policy = source.policy(&id);
            let next = match self.copies.wanted(&id) {
                Some(reason) => Step::Copy(reason.clone()),
                None => step(policy, table.evolution(), complete, confirmed),
            };
            let stopped = |reason: String| StoppedTable {
                id: id.clone(),
                reason,
                cause: StopCause::Definition,
                complete_to: complete.unwrap_or_default(),
            };
            match next {
                Step::Follow(at) => plan.follow.push((table, at)),
                Step::Extend(at) => {
                    table.extend().await?;
                    plan.follow.push((table, at));
                }
                Step::Copy(reason) => drop(plan.copy.insert(id, reason)),
                Step::Stop(reason) => self.stop(stopped(format!("its definition changed: {reason}"))),
                Step::Narrow(at, reason) => match self.narrow(source, table, copying).await? {
                    Some(narrowed) => plan.follow.push((narrowed, at)),
                    None => self.stop(stopped(format!("its definition changed: {reason}"))),
                },
            }
        }
        if let Some(watermark) = newest {
            self.missing(source, watermark, &plan)?;
        }
        Ok(plan)
    }

    /// The table with the columns that the lake has of it; `None` if that does not make it whole.
    async fn narrow(
        &self,
        source: &mut PostgresSource,
        table: CapturedTable,
        copying: &Copying,
    ) -> Result<Option<CapturedTable>, PipelineError> {
        let path = if table.schema().is_history() { table.bronze_path() } else { table.silver_path() };
        let stored = self.lake.definition(path).await?;
        if !stored.is_some_and(|stored| source.ignore_other_columns(&stored)) {
            return Ok(None);
        }
        let narrowed = copying.open_tables(source, Some(&BTreeSet::from([table.id().clone()]))).await?.pop();
        let Some(mut narrowed) = narrowed.filter(|table| *table.evolution() <= Evolution::Grown) else {
            return Ok(None);
        };
        narrowed.extend().await?;
        Ok(Some(narrowed))
    }

    /// Stops the tables of the watermark that cannot be captured any more; those that are gone just leave it.
    ///
    /// # Errors
    /// A table could go on, but is not chosen any more, or we may not: then a start would lose it for good.
    fn missing(
        &mut self,
        source: &PostgresSource,
        watermark: &Watermark,
        plan: &Plan,
    ) -> Result<(), PipelineError> {
        let mut left_out = Vec::new();
        for id in watermark.tables.keys() {
            let planned = plan.copy.contains_key(id) || plan.follow.iter().any(|(table, _)| table.id() == id);
            if planned || self.copies.copies(id) || self.copies.is_halted(id) {
                continue;
            }
            let reason = if let Some(skipped) = source.skipped().iter().find(|table| table.id == *id) {
                if !skipped.by_definition {
                    left_out.push(format!("{id} ({})", skipped.reason));
                    continue;
                }
                skipped.reason.clone()
            } else if source.is_unselected(id) {
                left_out.push(id.to_string());
                continue;
            } else {
                let reason = "the source has no such table any more; the lake keeps its last rows".to_owned();
                self.tell_once(Event::Skipped { table: id.clone(), reason });
                continue;
            };
            let (id, complete_to) = (id.clone(), watermark.lsn);
            self.stop(StoppedTable { id, reason, cause: StopCause::Definition, complete_to });
        }
        if left_out.is_empty() { Ok(()) } else { Err(PipelineError::LeftOut { tables: left_out }) }
    }

    /// Begins the copies that run beside the stream, and says where that begins.
    pub(crate) async fn begun(
        &mut self,
        mut source: PostgresSource,
        plan: Plan,
        newest: Option<Watermark>,
        confirmed: Lsn,
        copying: Copying,
    ) -> Result<Begun, PipelineError> {
        if let Some(newest) = newest.as_ref().filter(|_| source.has_topics()) {
            for entry in plan.follow.iter().filter_map(|(table, _)| newest.tables.get(table.id())) {
                let version = if entry.is_history() { entry.bronze_version } else { entry.silver_version };
                let earlier = self.lake.definition_at(entry.defined_at(), version).await?;
                earlier.iter().for_each(|earlier| source.was(earlier));
            }
        }
        let watermark = match newest {
            Some(watermark) => watermark,
            None => Watermark {
                source: source.name().to_owned(),
                system_id: source.system_id().to_owned(),
                timeline: source.timeline(),
                epoch: 0,
                lsn: confirmed,
                stream_time: Some(source.now().await?),
                written_at: 0,
                reason: "copy".to_owned(),
                tables: BTreeMap::new(),
                stopped: Vec::new(),
                offsets: BTreeMap::new(),
            },
        };
        self.copies.release();
        let from = plan.follow.iter().map(|(_, complete)| *complete).min().unwrap_or(watermark.lsn);
        let from =
            self.copies.hold(self.options.stopped_grace).map_or(from, |hold| hold.min(from)).max(confirmed);
        // Tables that stand beyond the watermark are ahead of the others until the stream is there.
        let not_before = plan.follow.iter().map(|(table, _)| table.reached()).fold(watermark.lsn, Lsn::max);
        if !plan.copy.is_empty() {
            for (table, reason) in &plan.copy {
                (self.observer)(Event::Copying { table: table.clone(), reason: reason.clone() });
            }
            self.copies.begin(copying, plan.copy, from);
        }
        Ok(Begun {
            source,
            tables: plan.follow.into_iter().map(|(table, _)| table).collect(),
            watermark: Arc::new(watermark),
            from,
            not_before,
        })
    }
}
