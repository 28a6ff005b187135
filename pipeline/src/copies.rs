//! Which tables are being copied anew beside the stream, and which are out of it.
//!
//! While a copy runs, the source keeps its log from where the copy began: that is what the table catches up from.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lakeward_change::{Lsn, StopCause, StoppedTable, TableId};
use lakeward_postgres::Control;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Event, Observer, PipelineError,
    copy::{Copied, Copying},
    error::chain,
    request::answer_table,
};

/// Outlives the attempts of a pipeline.
#[derive(Default)]
pub(crate) struct Copies {
    tasks: JoinSet<(BTreeSet<TableId>, Result<Copied, PipelineError>)>,
    running: BTreeMap<TableId, StoppedTable>,
    /// What the source must keep for the running copies.
    hold: Option<Lsn>,
    /// Tables whose next step is a copy, and why.
    wanted: BTreeMap<TableId, String>,
    /// Requests that the end of a table's copy answers.
    asked: BTreeMap<TableId, Vec<i64>>,
    /// Tables that have stopped, since when: no copy brings them back by itself.
    halted: BTreeMap<TableId, (StoppedTable, Instant)>,
}

impl Copies {
    pub(crate) fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    pub(crate) fn copies(&self, table: &TableId) -> bool {
        self.running.contains_key(table)
    }

    /// A table needs a new copy; `request` is answered at its end.
    pub(crate) fn want(&mut self, table: TableId, reason: String, request: Option<i64>) {
        self.halted.remove(&table);
        let asked = self.asked.entry(table.clone()).or_default();
        asked.extend(request.filter(|id| !asked.contains(id)));
        if !self.running.contains_key(&table) {
            self.wanted.insert(table, reason);
        }
    }

    pub(crate) fn wanted(&self, table: &TableId) -> Option<&String> {
        self.wanted.get(table)
    }

    pub(crate) fn has_request(&self, request: i64) -> bool {
        self.asked.values().flatten().any(|id| *id == request)
    }

    pub(crate) fn halt(&mut self, table: StoppedTable) {
        self.halted.entry(table.id.clone()).or_insert((table, Instant::now()));
    }

    pub(crate) fn is_halted(&self, table: &TableId) -> bool {
        self.halted.contains_key(table)
    }

    /// Tables that the next watermark lacks.
    pub(crate) fn stopped(&self) -> Vec<StoppedTable> {
        self.running.values().chain(self.halted.values().map(|(table, _)| table)).cloned().collect()
    }

    /// Before what the source must forget nothing: for running copies, and for `grace` after a table has stopped.
    pub(crate) fn hold(&self, grace: Duration) -> Option<Lsn> {
        let fresh = self.halted.values().filter(|(_, since)| since.elapsed() < grace);
        fresh.map(|(table, _)| table.complete_to).chain(self.hold).min()
    }

    /// What is copied is being followed: unless copies run, the source need not keep anything for them.
    pub(crate) fn release(&mut self) {
        if self.running.is_empty() {
            self.hold = None;
        }
    }

    /// Begins to copy tables; the source holds all that commits at or after `from`.
    pub(crate) fn begin(&mut self, copying: Copying, tables: BTreeMap<TableId, String>, from: Lsn) {
        let ids: BTreeSet<TableId> = tables.keys().cloned().collect();
        for (id, reason) in tables {
            self.wanted.remove(&id);
            let reason = format!("it is being copied anew: {reason}");
            let cause = StopCause::Copying;
            let stopped = StoppedTable { id: id.clone(), reason, cause, complete_to: Lsn(0) };
            self.running.insert(id, stopped);
        }
        self.hold = Some(self.hold.map_or(from, |hold| hold.min(from)));
        self.tasks.spawn(async move {
            let copied = copying.anew(ids.clone()).await;
            (ids, copied)
        });
    }

    /// Waits for the end of a copy; pending forever if none runs.
    ///
    /// # Errors
    /// If a copy's task was lost.
    pub(crate) async fn finished(&mut self) -> Result<Finished, PipelineError> {
        let Some(ended) = self.tasks.join_next().await else { return std::future::pending().await };
        let (ids, copied) = ended.map_err(|_| PipelineError::Stopped("a copy"))?;
        let copied = match copied {
            Ok(copied) => copied,
            Err(error) => {
                let reason = format!("its copy failed: {}", chain(&error));
                let stop = |id: &TableId| StoppedTable {
                    id: id.clone(),
                    reason: reason.clone(),
                    cause: StopCause::Rows,
                    complete_to: Lsn(0),
                };
                Copied { rows: BTreeMap::new(), unfit: ids.iter().map(stop).collect() }
            }
        };
        Ok(self.conclude(ids, copied))
    }

    /// Tables have been copied, or cannot be.
    pub(crate) fn conclude(&mut self, ids: BTreeSet<TableId>, copied: Copied) -> Finished {
        let mut finished = Finished::default();
        for id in ids {
            self.running.remove(&id);
            self.wanted.remove(&id);
            let unfit = copied.unfit.iter().find(|table| table.id == id);
            for request in self.asked.remove(&id).unwrap_or_default() {
                let answer = match (unfit, copied.rows.get(&id)) {
                    (Some(table), _) => Err(table.reason.clone()),
                    (None, Some(rows)) => Ok(*rows),
                    (None, None) => Err(format!("the source has no table {id} that can be captured")),
                };
                finished.answers.push((request, answer));
            }
        }
        for table in copied.unfit {
            finished.halted.push(table.clone());
            self.halt(table);
        }
        finished
    }
}

/// The end of a copy.
#[derive(Default)]
pub(crate) struct Finished {
    /// Requests and their answers: rows copied, or why not.
    pub(crate) answers: Vec<(i64, Result<u64, String>)>,
    pub(crate) halted: Vec<StoppedTable>,
}

impl Finished {
    /// Answers those who asked, and says what has stopped.
    pub(crate) async fn tell(self, control: &Control, observer: &Observer) {
        for table in self.halted {
            observer(Event::Stopped(table));
        }
        for (request, answer) in self.answers {
            let answer = answer.map(|rows| serde_json::json!({ "rows": rows }));
            answer_table(control, request, answer.as_ref().map_err(String::as_str)).await;
        }
    }
}
