//! Copies of tables, within one exported snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use backon::BackoffBuilder;
use futures::{StreamExt, TryStreamExt, future::ready, stream};
use lakeward_cdc::{CdcError, PostgresSource, Snapshot};
use lakeward_change::{StopCause, StoppedTable, TableId, TableSchema};
use lakeward_lakehouse::{CapturedTable, Lake, LakeError, SourceRef};
use tokio::sync::Semaphore;

use crate::{
    Event, Observer, Options, PipelineError,
    error::{LONGEST_DELAY, chain, retry_delays},
};

/// Rows a batch of the copy holds.
const BATCH_ROWS: usize = 32 * 1024;
/// Tables opened, or told of a term, at the same time.
pub(crate) const TABLES_AT_ONCE: usize = 8;
/// A new slot waits for every transaction that is open: this long, then it is said who holds it up.
pub(crate) const SLOT_WAIT: Duration = Duration::from_secs(120);

/// What came of a copy.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    pub(crate) rows: BTreeMap<TableId, u64>,
    /// Tables of which too many rows cannot be taken in.
    pub(crate) unfit: Vec<StoppedTable>,
}

/// What a copy needs, wherever it runs.
#[derive(Clone)]
pub(crate) struct Copying {
    pub(crate) lake: Arc<Lake>,
    pub(crate) options: Options,
    pub(crate) observer: Observer,
    pub(crate) term: i64,
}

impl Copying {
    /// Copies tables at a snapshot of their own, over connections of its own; passing failures are retried without
    /// end. Each table then stands at that snapshot, in a new epoch.
    pub(crate) async fn anew(self, tables: BTreeSet<TableId>) -> Result<Copied, PipelineError> {
        let (mut before, mut total) = (None, Copied::default());
        let mut delays = retry_delays().build();
        loop {
            match self.once(&tables, &mut before, &mut total).await {
                Err(error) if error.is_retryable() => {
                    let delay = delays.next().unwrap_or(LONGEST_DELAY);
                    let reason = chain(&error);
                    (self.observer)(Event::Retrying { reason, seconds: delay.as_secs_f64() });
                    tokio::time::sleep(delay).await;
                }
                ended => return ended.map(|()| total),
            }
        }
    }

    /// `before` has the tables' epochs before the first try: what is beyond them is copied already.
    async fn once(
        &self,
        wanted: &BTreeSet<TableId>,
        before: &mut Option<BTreeMap<TableId, i64>>,
        total: &mut Copied,
    ) -> Result<(), PipelineError> {
        let source = PostgresSource::open(self.options.postgres.clone()).await?;
        source.prepare().await?;
        let mut tables = Vec::new();
        for table in self.open_tables(&source, Some(wanted)).await? {
            let known = before.as_ref().and_then(|epochs| epochs.get(table.id()));
            if known.is_none_or(|known| table.durable().is_none_or(|durable| durable.epoch <= *known)) {
                tables.push(table);
            }
        }
        if before.is_none() {
            let epoch = |table: &CapturedTable| (table.id().clone(), table.epoch().unwrap_or(0));
            *before = Some(tables.iter().map(epoch).collect());
        }
        let taken_at = source.now().await?;
        let snapshot = source.temporary_snapshot(SLOT_WAIT).await?;
        self.at(&snapshot, tables, taken_at, total).await
    }

    /// The source's tables as the lake has them, those that are `wanted`; a table that cannot be one of the lake's is
    /// left out, and that is told.
    pub(crate) async fn open_tables(
        &self,
        source: &PostgresSource,
        wanted: Option<&BTreeSet<TableId>>,
    ) -> Result<Vec<CapturedTable>, PipelineError> {
        let is_wanted = |schema: &&Arc<TableSchema>| wanted.is_none_or(|wanted| wanted.contains(&schema.id));
        let tables = source.tables().iter().filter(is_wanted);
        let opening: Vec<_> = tables.map(|schema| self.open(source, schema)).collect();
        let opened = stream::iter(opening).buffered(TABLES_AT_ONCE);
        opened.try_filter_map(|table| ready(Ok(table))).try_collect().await
    }

    async fn open(
        &self,
        source: &PostgresSource,
        schema: &Arc<TableSchema>,
    ) -> Result<Option<CapturedTable>, PipelineError> {
        match CapturedTable::open(&self.lake, &reference(source), Arc::clone(schema)).await {
            Ok(mut table) => {
                table.own(self.term, false).await?;
                Ok(Some(table))
            }
            Err(error @ LakeError::Column { .. }) => {
                (self.observer)(Event::Skipped { table: schema.id.clone(), reason: error.to_string() });
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Copies tables at a snapshot that was `taken_at` (microseconds UTC), some at a time, each in parts; each lands whole in one
    /// commit or not at all.
    pub(crate) async fn at(
        &self,
        snapshot: &Snapshot,
        tables: Vec<CapturedTable>,
        taken_at: i64,
        total: &mut Copied,
    ) -> Result<(), PipelineError> {
        (self.observer)(Event::CopyStarted { tables: tables.len(), snapshot: snapshot.lsn() });
        let sessions = Arc::new(Semaphore::new(self.options.copy_parallel));
        let mut copies = stream::iter(tables)
            .map(|table| self.copy(snapshot, table, taken_at, &sessions))
            .buffer_unordered(self.options.copy_parallel);
        let mut rewritten = None;
        while let Some(copied) = copies.next().await {
            match copied {
                Ok(Ok((id, rows))) => drop(total.rows.insert(id, rows)),
                Ok(Err(unfit)) => total.unfit.push(unfit),
                // A table that is emptied all the time shall not keep the others from being copied.
                Err(error @ PipelineError::Source(CdcError::Rewritten { .. })) => rewritten = Some(error),
                Err(error) => return Err(error),
            }
        }
        if let Some(error) = rewritten {
            return Err(error);
        }
        if snapshot.nulled() > 0 {
            (self.observer)(Event::Nulled { values: snapshot.nulled() });
        }
        Ok(())
    }

    async fn copy(
        &self,
        snapshot: &Snapshot,
        mut table: CapturedTable,
        taken_at: i64,
        sessions: &Arc<Semaphore>,
    ) -> Result<Result<(TableId, u64), StoppedTable>, PipelineError> {
        let id = table.id().clone();
        let epoch = table.next_epoch();
        let dead = AtomicU64::new(0);
        let rows = snapshot.copy(&id, BATCH_ROWS, sessions).await?.inspect_ok(|copied| {
            dead.fetch_add(copied.letters.len() as u64, Ordering::Relaxed);
        });
        let progress = {
            let (observer, id) = (Arc::clone(&self.observer), id.clone());
            move |rows| observer(Event::CopyProgress { table: id.clone(), rows })
        };
        match table.copy(epoch, snapshot.lsn(), taken_at, rows, &progress).await {
            Ok(rows) => {
                (self.observer)(Event::CopyFinished { table: id.clone(), rows });
                let dead = dead.into_inner();
                if dead > 0 {
                    (self.observer)(Event::SetAside { table: id.clone(), rows: dead });
                }
                Ok(Ok((id, rows)))
            }
            Err(LakeError::Rows { source, .. })
                if matches!(source.downcast_ref(), Some(CdcError::Flood { .. })) =>
            {
                let (reason, complete_to) = (source.to_string(), snapshot.lsn());
                Ok(Err(StoppedTable { id, reason, cause: StopCause::Rows, complete_to }))
            }
            Err(error) => Err(error.into()),
        }
    }
}

pub(crate) fn reference(source: &PostgresSource) -> SourceRef {
    SourceRef { name: source.name().to_owned(), system_id: source.system_id().to_owned() }
}
