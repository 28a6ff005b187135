//! The topics as a stream of changes.

use std::{collections::BTreeMap, future::pending, sync::Arc, time::Duration};

use async_trait::async_trait;
use lakeward_change::Lsn;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    client::Client,
    reader::{Incoming, RawEnd},
    reassembly::{End, Lacking, Reassembly, Stretch},
    topics::{blocking, partitions},
};
use crate::{Boundary, CdcError, ChangeStream, Chunk, Offsets, cursor::Cursor};

/// So long a transaction waits for events that its end tells of, though Kafka answers: then they will not come.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(10);
/// Events of topics that had gone on already.
const REPEATS: &str = "lakeward_source_repeats_total";

/// Changes of one Postgres database, read from its connector's topics.
pub(crate) struct TopicsStream {
    pub(super) consumer: Arc<Client>,
    pub(super) transactions: String,
    /// The tables' numbers, by the names that the connector counts their events under.
    pub(super) collections: BTreeMap<String, usize>,
    pub(super) reassembly: Reassembly,
    pub(super) incoming: mpsc::UnboundedReceiver<Incoming>,
    pub(super) _tasks: JoinSet<()>,
    pub(super) cursor: Cursor,
    pub(super) max_rows: usize,
    /// What the first transaction lacks, and since when.
    pub(super) lacking: Option<(Lacking, Instant)>,
    pub(super) ended: bool,
}

/// Tells the metrics recorder what they mean.
pub(super) fn describe() {
    metrics::describe_counter!(REPEATS, "events of topics that had gone on already");
}

impl TopicsStream {
    fn take_in(&mut self, incoming: Incoming) -> Result<(), CdcError> {
        match incoming {
            Incoming::Piece { table, queue, piece } => self.reassembly.push(table, queue, piece),
            Incoming::Ends { ends, room } => {
                let room = Arc::new(room);
                for end in ends {
                    let end = self.end(&end, &room);
                    self.reassembly.push_end(end);
                }
            }
            Incoming::Failed(error) => return Err(error),
        }
        Ok(())
    }

    fn end(&self, raw: &RawEnd, room: &Arc<OwnedSemaphorePermit>) -> End {
        let mut counts: BTreeMap<usize, i64> = BTreeMap::new();
        for (name, count) in &raw.tables {
            if let Some(&table) = self.collections.get(name) {
                *counts.entry(table).or_default() += count;
            }
        }
        let counts = counts.into_iter().filter(|(_, count)| *count > 0).collect();
        let RawEnd { xid, end, offset, beginning, written, .. } = *raw;
        End { xid, end, counts, offset, beginning, written, _room: Some(Arc::clone(room)) }
    }

    fn chunk(&mut self) -> Result<Option<Chunk>, CdcError> {
        if self.cursor.bound_reported {
            return Ok(None);
        }
        let Self { reassembly, cursor, max_rows, .. } = self;
        let stretch = reassembly.take(*max_rows, |commit| cursor.admits(commit))?;
        let (batches, letters, stopped, boundary) = match stretch {
            Some(Stretch { batches, letters, stopped, boundary, repeats }) => {
                metrics::counter!(REPEATS).increment(repeats);
                (batches, letters, stopped, Some(boundary))
            }
            None => Default::default(),
        };
        let boundary = match boundary {
            Some(open @ Boundary::Open { .. }) => open,
            closed => {
                if let Some(Boundary::Closed { end }) = closed {
                    cursor.advance(end);
                }
                match cursor.report(!batches.is_empty() || !letters.is_empty() || !stopped.is_empty()) {
                    Some(end) => Boundary::Closed { end },
                    None => return Ok(None),
                }
            }
        };
        let committed_at = batches.iter().flat_map(|batch| batch.committed_at.values().iter().copied()).max();
        let offsets = matches!(boundary, Boundary::Closed { .. })
            .then(|| Arc::new(reassembly.resume_at(&self.transactions)));
        Ok(Some(Chunk { batches, letters, stopped, boundary, committed_at, offsets }))
    }

    async fn step(&mut self) -> Result<Chunk, CdcError> {
        loop {
            while let Ok(incoming) = self.incoming.try_recv() {
                self.take_in(incoming)?;
            }
            if let Some(chunk) = self.chunk()? {
                return Ok(chunk);
            }
            if self.cursor.bound_reported {
                pending::<()>().await;
            }
            self.check_lacking().await?;
            match timeout(LOOK, self.incoming.recv()).await {
                Ok(Some(incoming)) => self.take_in(incoming)?,
                Ok(None) => return Err(CdcError::Ended),
                Err(_) => {}
            }
        }
    }

    async fn check_lacking(&mut self) -> Result<(), CdcError> {
        let Some(lacking) = self.reassembly.lacks() else {
            self.lacking = None;
            return Ok(());
        };
        let since = self.lacking.as_ref().filter(|(known, _)| *known == lacking).map(|(_, since)| *since);
        if since.is_some_and(|since| since.elapsed() > PATIENCE) {
            let topic = self.transactions.clone();
            let asked = blocking(&self.consumer, move |consumer| partitions(consumer, &topic));
            if asked.await.is_ok() {
                self.reassembly.do_without(lacking)?;
            }
            self.lacking = None;
        } else if since.is_none() {
            self.lacking = Some((lacking, Instant::now()));
        }
        Ok(())
    }
}

#[async_trait]
impl ChangeStream for TopicsStream {
    async fn next(&mut self) -> Result<Chunk, CdcError> {
        if self.ended {
            return Err(CdcError::Ended);
        }
        let step = self.step().await;
        self.ended = step.is_err();
        step
    }

    fn stop_before(&mut self, lsn: Option<Lsn>) {
        self.cursor.set_bound(lsn);
    }

    /// For tools that show how far a group lags behind; nothing depends on it.
    fn confirm(&mut self, _: Lsn, offsets: Option<&Offsets>) {
        let mut list = TopicPartitionList::new();
        for (topic, partitions) in offsets.into_iter().flatten() {
            for (partition, offset) in partitions {
                let _ = list.add_partition_offset(topic, *partition, Offset::Offset(*offset));
            }
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "Kafka was not told how far we are");
        }
    }

    fn take_described_anew(&mut self) -> bool {
        false
    }

    fn nulled(&self) -> u64 {
        0
    }

    async fn close(self: Box<Self>) {}
}
