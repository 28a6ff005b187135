//! The stream of a replication slot.

use std::{future::pending, sync::Arc, time::Duration};

use async_trait::async_trait;
use lakeward_change::Lsn;
use pgwire_replication::{ReplicationClient, ReplicationEvent, ReplicationMetrics};
use tokio::time::{sleep, timeout};

use crate::{
    Boundary, CdcError, ChangeStream, Chunk, Offsets,
    assembler::Assembler,
    connection::STATUS_INTERVAL,
    cursor::Cursor,
    protocol::{Begin, POSTGRES_EPOCH_MICROS},
};

const PAUSE: Duration = Duration::from_millis(10);

/// Changes of one Postgres database, read from its replication slot.
pub(crate) struct PostgresStream {
    client: ReplicationClient,
    metrics: Arc<ReplicationMetrics>,
    /// Events taken from the client.
    received: u64,
    /// An event taken and not yet looked at.
    next_event: Option<ReplicationEvent>,
    assembler: Assembler,
    cursor: Cursor,
    confirmed: Lsn,
    max_rows: usize,
    max_bytes: usize,
    ended: bool,
}

impl PostgresStream {
    /// `client` streams from `from` on.
    pub(crate) fn new(
        client: ReplicationClient,
        from: Lsn,
        assembler: Assembler,
        max_rows: usize,
        max_bytes: usize,
    ) -> Self {
        Self {
            metrics: client.metrics(),
            client,
            received: 0,
            next_event: None,
            assembler,
            cursor: Cursor::new(from),
            confirmed: from,
            max_rows,
            max_bytes,
            ended: false,
        }
    }

    /// Takes the next event from the connection; returns at once if one is at hand.
    async fn receive(&mut self) -> Result<(), CdcError> {
        // No await between taking the event and keeping it: a dropped future loses nothing.
        match self.client.recv().await {
            Ok(Some(event)) => {
                self.received += 1;
                self.next_event = Some(event);
                Ok(())
            }
            Ok(None) => Err(CdcError::Ended),
            Err(source) => Err(CdcError::Replication { action: "stream changes".into(), source }),
        }
    }

    fn at_hand(&self) -> bool {
        self.metrics.events_forwarded() > self.received
    }

    fn is_full(&self) -> bool {
        self.assembler.rows() >= self.max_rows || self.assembler.bytes() >= self.max_bytes
    }

    /// Takes the kept event in, unless the bound holds it back.
    fn accept(&mut self) -> Result<(), CdcError> {
        let Some(event) = self.next_event.take() else {
            return Ok(());
        };
        match event {
            ReplicationEvent::Begin { final_lsn, xid, commit_time_micros } => {
                let final_lsn = Lsn(final_lsn.as_u64());
                if !self.cursor.admits(final_lsn) {
                    self.next_event = Some(event);
                    return Ok(());
                }
                let committed_at = commit_time_micros.saturating_add(POSTGRES_EPOCH_MICROS);
                self.assembler.begin(Begin { final_lsn, committed_at, xid })
            }
            ReplicationEvent::Commit { end_lsn, .. } => {
                self.assembler.commit()?;
                self.cursor.advance(Lsn(end_lsn.as_u64()));
                Ok(())
            }
            ReplicationEvent::XLogData { wal_start, data, .. } => {
                self.assembler.read(&data, Lsn(wal_start.as_u64()))
            }
            ReplicationEvent::KeepAlive { wal_end, .. } => {
                if self.assembler.open_transaction().is_none() {
                    self.cursor.advance(Lsn(wal_end.as_u64()));
                }
                Ok(())
            }
            ReplicationEvent::Message { .. } | ReplicationEvent::StoppedAt { .. } => Ok(()),
        }
    }

    fn chunk(&mut self) -> Result<Option<Chunk>, CdcError> {
        let news = self.assembler.rows() > 0 || self.assembler.has_stopped();
        let boundary = match self.assembler.open_transaction() {
            Some(_) if !news => return Ok(None),
            Some(commit) if self.assembler.is_inside_transaction() => Boundary::Open { commit },
            _ => match self.cursor.report(news) {
                Some(end) => Boundary::Closed { end },
                None => return Ok(None),
            },
        };
        let (batches, committed_at) = self.assembler.take()?;
        let (letters, stopped) = (self.assembler.take_letters(), self.assembler.take_stopped());
        Ok(Some(Chunk { batches, letters, stopped, boundary, committed_at, offsets: None }))
    }

    /// Takes in what is at hand, up to a full chunk.
    async fn fill(&mut self) -> Result<(), CdcError> {
        while !self.is_full() {
            if self.next_event.is_none() {
                if !self.at_hand() {
                    return Ok(());
                }
                self.receive().await?;
            }
            self.accept()?;
            if self.cursor.blocked {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn step(&mut self) -> Result<Chunk, CdcError> {
        loop {
            self.fill().await?;
            if (self.assembler.open_transaction().is_none() || self.is_full())
                && let Some(chunk) = self.chunk()?
            {
                return Ok(chunk);
            }
            if self.cursor.bound_reported {
                pending::<()>().await;
            }
            self.receive().await?;
        }
    }
}

#[async_trait]
impl ChangeStream for PostgresStream {
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

    fn confirm(&mut self, durable: Lsn, _: Option<&Offsets>) {
        self.confirmed = self.confirmed.max(durable);
        self.client.update_applied_lsn(pgwire_replication::Lsn(durable.0));
    }

    fn take_described_anew(&mut self) -> bool {
        self.assembler.take_described_anew()
    }

    fn nulled(&self) -> u64 {
        self.assembler.nulled()
    }

    /// The slot is free soon afterwards.
    async fn close(mut self: Box<Self>) {
        let confirmed = self.confirmed;
        let told = async {
            while self.metrics.last_applied_lsn().as_u64() < confirmed.0 && self.client.is_running() {
                sleep(PAUSE).await;
            }
        };
        // Both are courtesies: the position is told again at the next start, and the server ends a broken session.
        let _ = timeout(2 * STATUS_INTERVAL, told).await;
        let _ = self.client.shutdown().await;
    }
}
