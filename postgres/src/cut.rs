//! Requests for a consistent cut, from a process that compares to the process that ingests.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::PgLsn;

use crate::control::Control;
use crate::error::{Error, Result};

const POLL: Duration = Duration::from_millis(50);

/// First half of the advisory lock's key that a requester holds; the second is the request's id.
const LOCK_CLASS: i64 = 0x6c77_6375;

/// How far a request is. The requester moves it to `Announced` and `Requested`, the ingester to the other states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CutState {
    /// The requester wants a cut; the ingester is to pause at a transaction boundary.
    Announced,
    /// The ingester takes nothing more until it is told where to cut.
    Paused,
    /// The position is known: cut there.
    Requested,
    /// Cut, with an answer.
    Done,
    /// Given up, with a reason.
    Failed,
}

impl CutState {
    const ALL: [Self; 5] = [Self::Announced, Self::Paused, Self::Requested, Self::Done, Self::Failed];

    fn name(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Paused => "paused",
            Self::Requested => "requested",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for CutState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One request as the control database has it.
#[derive(Clone, Debug, PartialEq)]
pub struct CutRequest {
    pub id: i64,
    /// The source's name.
    pub source: String,
    pub state: CutState,
    /// Where to cut: everything that committed before this WAL position, and nothing else. Known from `Requested` on.
    pub at_lsn: Option<u64>,
    /// The watermark of the cut as JSON; known when `Done`.
    pub answer: Option<Value>,
    /// Why it `Failed`.
    pub reason: Option<String>,
}

impl CutRequest {
    const COLUMNS: &str = "id, source, state, at_lsn, answer, reason";

    fn read(row: &Row) -> Self {
        let state: &str = row.get("state");
        Self {
            id: row.get("id"),
            source: row.get("source"),
            // The table's check allows no other.
            state: CutState::ALL.into_iter().find(|known| known.name() == state).unwrap_or(CutState::Failed),
            at_lsn: row.get::<_, Option<PgLsn>>("at_lsn").map(u64::from),
            answer: row.get("answer"),
            reason: row.get("reason"),
        }
    }
}

/// A cut in five steps. Requester: [`announce_cut`](Self::announce_cut), then [`wait_cut`](Self::wait_cut) for
/// [`CutState::Paused`]; ingester: sees it by [`poll_open_cuts`](Self::poll_open_cuts), stops at a transaction boundary,
/// [`mark_paused`](Self::mark_paused); requester: takes its snapshot at S, [`set_cut_lsn`](Self::set_cut_lsn); ingester:
/// goes on to exactly S, commits, [`finish_cut`](Self::finish_cut); requester: `wait_cut` for [`CutState::Done`].
impl Control {
    /// Announces a cut of `source` and gives the request's id. It stays open as long as this `Control`'s connection:
    /// when the requester dies, the ingester no longer sees it.
    pub async fn announce_cut(&self, source: &str) -> Result<i64> {
        let failed = || Error::query(format!("announce a cut of `{source}`"));
        let client = self.client().await?;
        client
            .execute(
                "DELETE FROM cut_requests WHERE state IN ('done', 'failed') AND updated_at < now() - interval '1 day'",
                &[],
            )
            .await
            .map_err(failed())?;
        let row = client
            .query_one("SELECT nextval(pg_get_serial_sequence('cut_requests', 'id'))", &[])
            .await
            .map_err(failed())?;
        let id: i64 = row.get(0);
        // Before the row can be seen, so that it is never seen without.
        client.execute("SELECT pg_advisory_lock($1)", &[&lock_key(id)]).await.map_err(failed())?;
        client
            .execute(
                "INSERT INTO cut_requests (id, source) OVERRIDING SYSTEM VALUE VALUES ($1, $2)",
                &[&id, &source],
            )
            .await
            .map_err(failed())?;
        Ok(id)
    }

    /// The open requests of a source whose requesters live, oldest first. Those of dead ones become `Failed`.
    pub async fn poll_open_cuts(&self, source: &str) -> Result<Vec<CutRequest>> {
        let failed = || Error::query(format!("read the cut requests of `{source}`"));
        let client = self.client().await?;
        let statement = format!(
            "WITH open AS (
                 SELECT *, EXISTS (
                     SELECT FROM pg_locks
                     WHERE locktype = 'advisory' AND granted AND objsubid = 1
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                       AND classid = ($2::bigint + (cut_requests.id >> 32))::oid
                       AND objid = (cut_requests.id & 4294967295)::oid
                 ) AS alive
                 FROM cut_requests
                 WHERE source = $1 AND state IN ('announced', 'paused', 'requested')
             ), given_up AS (
                 UPDATE cut_requests SET state = 'failed', reason = 'its requester is gone', updated_at = now()
                 WHERE id IN (SELECT id FROM open WHERE NOT alive) AND state NOT IN ('done', 'failed')
             )
             SELECT {} FROM open WHERE alive ORDER BY id",
            CutRequest::COLUMNS
        );
        let rows = client.query(&statement, &[&source, &LOCK_CLASS]).await.map_err(failed())?;
        Ok(rows.iter().map(CutRequest::read).collect())
    }

    /// Ingester: nothing more is taken until the position is known. An error if the request is over by now.
    pub async fn mark_paused(&self, id: i64) -> Result<()> {
        self.change(id, "announced", "state = 'paused'", &[]).await
    }

    /// Requester: where to cut.
    pub async fn set_cut_lsn(&self, id: i64, lsn: u64) -> Result<()> {
        let set = "state = 'requested', at_lsn = $2";
        self.change(id, "paused", set, &[&PgLsn::from(lsn)]).await
    }

    /// Ingester: the cut is made; `answer` is its watermark.
    pub async fn finish_cut(&self, id: i64, answer: &Value) -> Result<()> {
        self.change(id, "requested", "state = 'done', answer = $2", &[answer]).await
    }

    /// Ingester: the cut cannot be made. `reason` is shown to the requester.
    pub async fn fail_cut(&self, id: i64, reason: &str) -> Result<()> {
        self.change(id, "open", "state = 'failed', reason = $2", &[&reason]).await
    }

    /// Requester: waits until the request is in `state` or past it.
    ///
    /// # Errors
    /// [`Error::CutFailed`] when it failed, [`Error::CutTimeout`] when `timeout` passed first.
    pub async fn wait_cut(&self, id: i64, state: CutState, timeout: Duration) -> Result<CutRequest> {
        let began = Instant::now();
        let statement = format!("SELECT {} FROM cut_requests WHERE id = $1", CutRequest::COLUMNS);
        loop {
            let row = self
                .client()
                .await?
                .query_opt(&statement, &[&id])
                .await
                .map_err(Error::query(format!("read cut request {id}")))?;
            let request =
                row.map(|row| CutRequest::read(&row)).ok_or(Error::CutNotIn { id, expected: "there" })?;
            if request.state == CutState::Failed {
                return Err(Error::CutFailed { id, reason: request.reason.unwrap_or_default() });
            }
            if request.state >= state {
                return Ok(request);
            }
            if began.elapsed() >= timeout {
                return Err(Error::CutTimeout { id, state: request.state, waited: timeout });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Requester: gives the request up, if it is still open, and lets go of it. Also right after `Done`.
    pub async fn withdraw_cut(&self, id: i64) -> Result<()> {
        let failed = || Error::query(format!("withdraw cut request {id}"));
        let client = self.client().await?;
        client
            .execute(
                "UPDATE cut_requests SET state = 'failed', reason = 'withdrawn', updated_at = now()
                 WHERE id = $1 AND state IN ('announced', 'paused', 'requested')",
                &[&id],
            )
            .await
            .map_err(failed())?;
        client.execute("SELECT pg_advisory_unlock($1)", &[&lock_key(id)]).await.map_err(failed())?;
        Ok(())
    }

    async fn change(
        &self,
        id: i64,
        expected: &'static str,
        set: &str,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<()> {
        let from = match expected {
            "open" => "IN ('announced', 'paused', 'requested')".to_owned(),
            state => format!("= '{state}'"),
        };
        let statement =
            format!("UPDATE cut_requests SET {set}, updated_at = now() WHERE id = $1 AND state {from}");
        let mut parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> = vec![&id];
        parameters.extend(values);
        let changed = self
            .client()
            .await?
            .execute(&statement, &parameters)
            .await
            .map_err(Error::query(format!("change cut request {id}")))?;
        if changed == 0 {
            return Err(Error::CutNotIn { id, expected });
        }
        Ok(())
    }
}

fn lock_key(id: i64) -> i64 {
    (LOCK_CLASS << 32) + id
}
