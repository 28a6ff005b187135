//! What other processes ask for one table: its lane does it beside the stream, and the control database has the answer.

use std::{collections::HashSet, sync::Arc};

use lakeward_cdc::PostgresSource;
use lakeward_change::TableId;
use lakeward_lakehouse::Lake;
use lakeward_postgres::TableRequest;
use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    PipelineError,
    copy::reference,
    error::chain,
    lane::Message,
    repair::{self, RepairRequest},
    replay::{self, ReplayRequest},
    upkeep::{Chore, Maintained},
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
        lake: &Arc<Lake>,
        lane: Option<mpsc::UnboundedSender<Message>>,
    ) {
        self.running.insert(request.id);
        let id = request.id;
        // Here, since the task outlives the borrowed source.
        let repair = (request.action == repair::ACTION).then(|| {
            let asked = serde_json::from_value::<RepairRequest>(request.argument.clone().unwrap_or_default());
            asked.map(|asked| (source.imported_snapshot(&asked.snapshot, asked.lsn), asked))
        });
        let replay = (request.action == replay::ACTION)
            .then(|| serde_json::from_value::<ReplayRequest>(request.argument.unwrap_or_default()));
        let (lake, source, reader) = (Arc::clone(lake), reference(source), source.letter_reader(&table));
        self.tasks.spawn(async move {
            let Some(lane) = lane else {
                return (id, Err(format!("{table} is not followed at the moment")));
            };
            if let (Some(asked), Some(reader)) = (replay, reader) {
                return match asked {
                    Ok(asked) => (id, answer(asked.carry_out(&lake, &source, &table, &reader, &lane).await)),
                    Err(error) => (id, Err(format!("the letters to replay cannot be read: {error}"))),
                };
            }
            let chore = Chore::ALL.into_iter().find(|chore| chore.name() == request.action);
            let answer = match (repair, chore) {
                (Some(Ok((snapshot, asked))), _) => answer(asked.carry_out(&snapshot, &table, &lane).await),
                (Some(Err(error)), _) => Err(format!("the keys to repair cannot be read: {error}")),
                (None, Some(chore)) => answer(maintain(&lane, chore).await),
                (None, None) => {
                    Err(format!("this ingester knows no {:?}: it is of another version", request.action))
                }
            };
            (id, answer)
        });
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

async fn maintain(lane: &mpsc::UnboundedSender<Message>, chore: Chore) -> Result<Maintained, PipelineError> {
    let (reply, answer) = oneshot::channel();
    let stopped = || PipelineError::Stopped("a lane");
    lane.send(Message::Maintain { chore, reply }).map_err(|_| stopped())?;
    Ok(answer.await.map_err(|_| stopped())??)
}

fn answer<T: Serialize>(done: Result<T, PipelineError>) -> Answer {
    let done = done.map_err(|error| chain(&error))?;
    serde_json::to_value(done).map_err(|error| error.to_string())
}
