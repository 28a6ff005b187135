//! The one way in for history: all tables by COPY in a single transaction, so a load is there whole or not at all.

use bytes::Bytes;
use futures::SinkExt;
use tokio::sync::mpsc;
use tokio_postgres::{Client, CopyInSink};
use tokio_util::sync::CancellationToken;

use crate::Progress;
use crate::copy::Rows;
use crate::error::Error;
use crate::schema::{self, TABLES, Table};

/// Chunks that may wait between the producer and the database: a few MiB.
const QUEUE: usize = 8;

enum Message {
    Chunk(Table, Bytes),
    Progress(u64, u64),
}

/// Where a producer writes its rows, table by table. Blocks while the database is behind.
pub(crate) struct Output {
    sender: mpsc::Sender<Message>,
    current: Option<(Table, Rows)>,
    done: u64,
    total: u64,
}

impl Output {
    /// Says how many rows will come in all.
    pub(crate) fn expect_rows(&mut self, total: u64) {
        self.total = total;
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.sender.is_closed()
    }

    /// Ends the table before, begins this one.
    pub(crate) fn table(&mut self, table: Table) -> Result<(), Error> {
        self.finish_table()?;
        self.current = Some((table, Rows::new(table.columns.len())));
        Ok(())
    }

    /// Writes one row of the current table.
    pub(crate) fn row(&mut self, write: impl FnOnce(&mut Rows)) -> Result<(), Error> {
        let (table, rows) = self.current.as_mut().expect("a table was begun");
        write(rows.row());
        self.done += 1;
        if let Some(chunk) = rows.full_chunk() {
            let table = *table;
            self.send(Message::Chunk(table, chunk))?;
            self.send(Message::Progress(self.done, self.total.max(self.done)))?;
        }
        Ok(())
    }

    fn finish_table(&mut self) -> Result<(), Error> {
        match self.current.take() {
            Some((table, rows)) => self.send(Message::Chunk(table, rows.finish())),
            None => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), Error> {
        self.finish_table()?;
        self.send(Message::Progress(self.done, self.done))
    }

    fn send(&self, message: Message) -> Result<(), Error> {
        // The receiver goes away when the load was cancelled or failed; its own error is the one that is told.
        self.sender.blocking_send(message).map_err(|_| Error::Cancelled)
    }
}

/// Fills an empty shop with what `produce` writes, on a thread of its own, and returns what `produce` returns.
pub(crate) async fn load<T: Send + 'static>(
    url: &str,
    produce: impl FnOnce(&mut Output) -> Result<T, Error> + Send + 'static,
    progress: Progress<'_>,
    cancel: &CancellationToken,
) -> Result<T, Error> {
    let client = lakeward_postgres::connect(url).await.map_err(Error::Connect)?;
    begin(&client).await?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let producer = tokio::task::spawn_blocking(move || {
        let mut output = Output { sender, current: None, done: 0, total: 0 };
        let produced = produce(&mut output)?;
        output.finish()?;
        Ok(produced)
    });
    let copied = tokio::select! {
        copied = copy(&client, receiver, progress) => copied,
        () = cancel.cancelled() => Err(Error::Cancelled),
    };
    let produced = producer.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    let result = match (copied, produced) {
        (Ok(()), Ok(produced)) => commit(&client).await.map(|()| produced),
        // A producer that failed closes the queue, and then its error is the cause; otherwise the database's is.
        (Ok(()), Err(error)) | (Err(error), _) => Err(error),
    };
    if result.is_err() {
        // Best effort, to return only when nothing is left of it: a lost connection rolls back by itself.
        let _ = client.batch_execute("rollback").await;
    }
    result
}

async fn begin(client: &Client) -> Result<(), Error> {
    client
        .batch_execute("begin; set local maintenance_work_mem = '256MB'; set local work_mem = '128MB'")
        .await
        .map_err(Error::postgres("begin the load"))?;
    schema::create_tables(client).await?;
    for table in TABLES {
        let name = table.name;
        let filled: bool = client
            .query_one(&format!("select exists (select from {name})"), &[])
            .await
            .map_err(Error::postgres(format!("read table {name}")))?
            .get(0);
        if filled {
            return Err(Error::NotEmpty { table: name });
        }
    }
    schema::drop_constraints(client).await
}

async fn copy(
    client: &Client,
    mut receiver: mpsc::Receiver<Message>,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let mut open: Option<(Table, std::pin::Pin<Box<CopyInSink<Bytes>>>)> = None;
    while let Some(message) = receiver.recv().await {
        let (table, chunk) = match message {
            Message::Progress(done, total) => {
                progress(done, total);
                continue;
            }
            Message::Chunk(table, chunk) => (table, chunk),
        };
        let failed = Error::postgres(format!("copy into table {}", table.name));
        let mut sink = match open.take() {
            Some((same, sink)) if same == table => sink,
            other => {
                finish(other).await?;
                let columns = table.columns.join(", ");
                let statement = format!("copy {} ({columns}) from stdin (format binary)", table.name);
                match client.copy_in(&statement).await {
                    Ok(sink) => Box::pin(sink),
                    Err(error) => return Err(failed(error)),
                }
            }
        };
        sink.send(chunk).await.map_err(failed)?;
        open = Some((table, sink));
    }
    finish(open).await
}

async fn finish(open: Option<(Table, std::pin::Pin<Box<CopyInSink<Bytes>>>)>) -> Result<(), Error> {
    if let Some((table, mut sink)) = open {
        sink.as_mut().finish().await.map_err(Error::postgres(format!("copy into table {}", table.name)))?;
    }
    Ok(())
}

async fn commit(client: &Client) -> Result<(), Error> {
    schema::add_constraints(client).await?;
    schema::advance_sequences(client).await?;
    client.batch_execute("commit").await.map_err(Error::postgres("commit the load"))
}
