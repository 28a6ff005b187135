//! What other processes ask for one table: its lane does it beside the stream, and the control database has the answer.

use std::collections::HashSet;

use lakeward_cdc::PostgresSource;
use lakeward_change::TableId;
use lakeward_postgres::TableRequest;
use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    PipelineError,
    error::chain,
    lane::Message,
    repair::{self, RepairRequest},
    upkeep::Chore,
};

/// An answer as the control database has it, or why there is none.
type Answer = Result<serde_json::Value, String>;

#[derive(Default)]
pub(crate) struct Errands {
    tasks: JoinSet<(i64, Answer)>,
    running: HashSet<i64>,
}

impl Errands {
    pub(crate) fn is_running(&self, request: i64) -> bool {
        self.running.contains(&request)
    }

    /// Begins what is asked for; `lane` is the table's, if it is followed.
    pub(crate) fn begin(
        &mut self,
        request: TableRequest,
        table: TableId,
        source: &PostgresSource,
        lane: Option<mpsc::Sender<Message>>,
    ) {
        self.running.insert(request.id);
        let id = request.id;
        let Some(lane) = lane else {
            self.tasks.spawn(async move { (id, Err(format!("{table} is not followed at the moment"))) });
            return;
        };
        match request.action.as_str() {
            repair::ACTION => {
                let repair = serde_json::from_value::<RepairRequest>(request.argument.unwrap_or_default());
                let repair =
                    repair.map(|repair| (source.imported_snapshot(&repair.snapshot, repair.lsn), repair));
                self.tasks.spawn(async move {
                    let done = match repair {
                        Ok((snapshot, repair)) => repair.carry_out(&snapshot, &table, &lane).await,
                        Err(error) => {
                            return (id, Err(format!("the keys to repair cannot be read: {error}")));
                        }
                    };
                    (id, answer(done))
                });
            }
            action if let Some(chore) = Chore::ALL.into_iter().find(|chore| chore.name() == action) => {
                self.tasks.spawn(async move {
                    let (reply, answer_of_lane) = oneshot::channel();
                    let sent = lane.send(Message::Maintain { chore, reply }).await.is_ok();
                    let done = if sent { answer_of_lane.await.ok() } else { None };
                    (id, answer(done.map_or(Err(PipelineError::Stopped("a lane")), |done| Ok(done?))))
                });
            }
            action => {
                let refusal = format!("this ingester knows no {action:?}: it is of another version");
                self.tasks.spawn(async move { (id, Err(refusal)) });
            }
        }
    }

    /// Waits for the next answer; pending forever if nothing runs.
    pub(crate) async fn answered(&mut self) -> (i64, Answer) {
        loop {
            match self.tasks.join_next().await {
                None => return std::future::pending().await,
                Some(Ok((id, answer))) => {
                    self.running.remove(&id);
                    return (id, answer);
                }
                // Its request stays open, and is begun again with the next stream.
                Some(Err(_)) => {}
            }
        }
    }
}

fn answer<T: Serialize>(done: Result<T, PipelineError>) -> Answer {
    let done = done.map_err(|error| chain(&error))?;
    serde_json::to_value(done).map_err(|error| error.to_string())
}
