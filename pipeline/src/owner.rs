//! Who owns a source: the claim of its slot, the lease in the control database, the term in every commit.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use lakeward_cdc::{CdcError, Claim, PostgresSource, SlotState};
use lakeward_change::TableSchema;
use lakeward_faults::failpoint;
use lakeward_lakehouse::{CapturedTable, Lake, LakeError};
use lakeward_postgres::{Control, Error};
use tokio::time::timeout;

use crate::{
    PipelineError,
    copy::{TABLES_AT_ONCE, reference},
};

/// How long the control database may take to renew the lease, or to take it back.
const PATIENCE: Duration = Duration::from_secs(2);

/// Ownership of one source, from the first attempt to the last: nobody else may slip in between two.
#[derive(Default)]
pub(crate) struct Owner {
    claim: Option<Claim>,
    /// The source's name and the term.
    lease: Option<(String, i64)>,
}

impl Owner {
    pub(crate) fn term(&self) -> Option<i64> {
        self.lease.as_ref().map(|(_, term)| *term)
    }

    /// Takes the source's lease, once, as whoever has claimed its slot; gives the term.
    ///
    /// # Errors
    /// Another owner has the source, or has taken it over.
    pub(crate) async fn own(
        &mut self,
        source: &PostgresSource,
        lake: &Lake,
        control: &Control,
    ) -> Result<i64, PipelineError> {
        if let Some((name, term)) = &self.lease
            && let Ok(Err(lost @ Error::LeaseLost { .. })) =
                timeout(PATIENCE, control.renew_lease(name, *term)).await
        {
            return Err(lost.into());
        }
        if !source.has_topics() && !self.claim.as_ref().is_some_and(Claim::holds) {
            self.claim = Some(claim_slot(source, control).await?);
        }
        if let Some(term) = self.term() {
            return Ok(term);
        }
        let holder = format!("process {}", std::process::id());
        // The claim says that no other owner's session lives; topics have none.
        let lease = control.take_lease(source.name(), &holder, self.claim.is_some()).await?;
        if lease.taken_over {
            let raise = |schema| raise_term(lake, source, schema, lease.term);
            let raising: Vec<_> = source.tables().iter().map(raise).collect();
            stream::iter(raising).buffer_unordered(TABLES_AT_ONCE).try_collect::<()>().await?;
        }
        self.lease = Some((source.name().to_owned(), lease.term));
        Ok(lease.term)
    }

    /// Gives the lease back. One that is not is taken over, which costs a commit a table.
    pub(crate) async fn release(&mut self, control: &Control) {
        if let Some((name, term)) = self.lease.take() {
            let _ = timeout(PATIENCE, control.release_lease(&name, term)).await;
        }
    }
}

/// Makes the term known to a table: an owner before, wherever it still is, cannot commit to it any more.
async fn raise_term(
    lake: &Lake,
    source: &PostgresSource,
    schema: &Arc<TableSchema>,
    term: i64,
) -> Result<(), PipelineError> {
    let mut table = match CapturedTable::open(lake, &reference(source), Arc::clone(schema)).await {
        // It is left out, which those who open it to write tell.
        Err(LakeError::Column { .. }) => return Ok(()),
        opened => opened?,
    };
    table.own(term, true).await?;
    failpoint("term_raised").await?;
    Ok(())
}

/// Whether somebody reads the source.
pub(crate) async fn is_read(source: &PostgresSource, control: &Control) -> Result<bool, PipelineError> {
    if source.has_topics() {
        return Ok(!control.lease_is_free(source.name()).await?);
    }
    Ok(matches!(source.slot().await?, SlotState::Present { active_pid: Some(_), .. }))
}

/// Takes the slot's claim, also from a process that stands still: such a one keeps its session. Once the server has
/// ended its reader, and nobody renews its lease, it is replaced.
async fn claim_slot(source: &PostgresSource, control: &Control) -> Result<Claim, PipelineError> {
    let (slot, pid) = match source.claim().await {
        Err(CdcError::SlotInUse { slot, pid }) => (slot, pid),
        claimed => return Ok(claimed?),
    };
    let unread = matches!(source.slot().await?, SlotState::Present { active_pid: None, .. });
    if !unread || !control.lease_is_free(source.name()).await? {
        return Err(CdcError::SlotInUse { slot, pid }.into());
    }
    source.evict(pid).await?;
    Ok(source.claim().await?)
}
