//! How other parts of the process speak with a running pipeline.

use std::sync::Arc;

use lakeward_cdc::Chunk;
use lakeward_change::Lsn;
use lakeward_lakehouse::Watermark;
use tokio::sync::{mpsc, oneshot};

use crate::PipelineError;

/// Chunks a subscriber may lag behind before reading waits for it.
const SUBSCRIPTION_CHUNKS: usize = 256;

pub(crate) enum Command {
    Cut(oneshot::Sender<Arc<Watermark>>),
    Subscribe(mpsc::Sender<Arc<Chunk>>, oneshot::Sender<Lsn>),
}

/// A cheap handle on a pipeline; it stays valid over the pipeline's retries.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

/// The live stream from `from` on: every change of the transactions that commit there or later, as it is read, which
/// is before it is durable in the lake. After a retry changes may come again; their positions tell.
pub struct Subscription {
    pub from: Lsn,
    pub chunks: mpsc::Receiver<Arc<Chunk>>,
}

impl Handle {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, inbox) = mpsc::channel(16);
        (Self { commands }, inbox)
    }

    /// Makes everything read so far durable and gives its watermark.
    ///
    /// # Errors
    /// [`PipelineError::Stopped`] if the pipeline has ended.
    pub async fn cut(&self) -> Result<Arc<Watermark>, PipelineError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Cut(reply)).await?;
        answer.await.map_err(|_| PipelineError::Stopped("the pipeline"))
    }

    /// # Errors
    /// [`PipelineError::Stopped`] if the pipeline has ended.
    pub async fn subscribe(&self) -> Result<Subscription, PipelineError> {
        let (sender, chunks) = mpsc::channel(SUBSCRIPTION_CHUNKS);
        let (reply, answer) = oneshot::channel();
        self.send(Command::Subscribe(sender, reply)).await?;
        let from = answer.await.map_err(|_| PipelineError::Stopped("the pipeline"))?;
        Ok(Subscription { from, chunks })
    }

    async fn send(&self, command: Command) -> Result<(), PipelineError> {
        self.commands.send(command).await.map_err(|_| PipelineError::Stopped("the pipeline"))
    }
}
