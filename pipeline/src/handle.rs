//! How other parts of the process speak with a running pipeline.

use std::sync::Arc;

use lakeward_cdc::Chunk;
use lakeward_lakehouse::Watermark;
use tokio::sync::{mpsc, oneshot};

use crate::PipelineError;

/// A subscriber that lags further behind is dropped: capture never waits for one.
const SUBSCRIPTION_CHUNKS: usize = 16_384;

pub(crate) enum Command {
    Cut(oneshot::Sender<Arc<Watermark>>),
    Subscribe(mpsc::Sender<Arc<Chunk>>, oneshot::Sender<()>),
}

/// A cheap handle on a pipeline; it stays valid over the pipeline's retries.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

/// The live stream: every change as it is read, which is before it is durable in the lake, and every transaction's end.
/// After a retry changes may come again; their positions tell. It ends with the pipeline, or when its reader lags too
/// far behind.
pub type Subscription = mpsc::Receiver<Arc<Chunk>>;

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
        self.ask(Command::Cut).await
    }

    /// # Errors
    /// [`PipelineError::Stopped`] if the pipeline has ended.
    pub async fn subscribe(&self) -> Result<Subscription, PipelineError> {
        let (sender, chunks) = mpsc::channel(SUBSCRIPTION_CHUNKS);
        self.ask(|reply| Command::Subscribe(sender.clone(), reply)).await?;
        Ok(chunks)
    }

    /// Asks anew if an attempt of the pipeline failed before it answered.
    async fn ask<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Result<T, PipelineError> {
        loop {
            let (reply, answer) = oneshot::channel();
            self.commands.send(command(reply)).await.map_err(|_| PipelineError::Stopped("the pipeline"))?;
            if let Ok(answer) = answer.await {
                return Ok(answer);
            }
        }
    }
}
