//! The replication slot, and the snapshots that come with a new one.

use std::time::Duration;

use lakeward_change::Lsn;
use pgwire_replication::{ReplicationClient, ReplicationConfig};
use postgres_protocol::escape::escape_identifier;
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, types::PgLsn};

use crate::{CdcError, connection::connect_replication};

/// How long a reader that is going away may still hold the slot.
const RELEASE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// The slot as the server has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    Missing,
    Present {
        /// Postgres may have forgotten what committed before.
        confirmed: Lsn,
        /// Who reads it now.
        active_pid: Option<i32>,
        /// The server has removed log that the slot still needed: it cannot be read any more.
        lost: bool,
    },
}

pub(crate) async fn state(client: &Client, name: &str) -> Result<SlotState, CdcError> {
    let row = client
        .query_opt(
            "SELECT coalesce(confirmed_flush_lsn, '0/0'), active_pid, coalesce(wal_status = 'lost', false),
                coalesce(plugin = 'pgoutput' AND database = current_database() AND NOT temporary, false)
             FROM pg_replication_slots WHERE slot_name = $1",
            &[&name],
        )
        .await
        .map_err(CdcError::query("read its replication slots"))?;
    let Some(row) = row else { return Ok(SlotState::Missing) };
    if !row.get::<_, bool>(3) {
        let problem =
            "is not a lasting pgoutput slot of this database: it belongs to something else; name another";
        return Err(CdcError::SlotUnfit { slot: name.to_owned(), problem: problem.to_owned() });
    }
    Ok(SlotState::Present {
        confirmed: Lsn(row.get::<_, PgLsn>(0).into()),
        active_pid: row.get(1),
        lost: row.get(2),
    })
}

pub(crate) fn parse_lsn(text: &str) -> Result<Lsn, CdcError> {
    text.parse().map_err(|error| CdcError::Sequence(format!("{error}")))
}

/// Of the server's log, what is kept for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SlotWal {
    pub kept_bytes: u64,
    /// The most that may be kept before the slot is invalidated (`max_slot_wal_keep_size`); `None`: no limit.
    pub limit_bytes: Option<u64>,
}

pub(crate) async fn wal(client: &Client, name: &str) -> Result<Option<SlotWal>, CdcError> {
    let row = client
        .query_opt(
            "SELECT greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::int8,
                nullif(setting::int8, -1) * 1048576
             FROM pg_replication_slots, pg_settings WHERE slot_name = $1 AND name = 'max_slot_wal_keep_size'",
            &[&name],
        )
        .await
        .map_err(CdcError::query("say what it keeps for the slot"))?;
    let bytes = |row: &tokio_postgres::Row, column| {
        row.get::<_, Option<i64>>(column).and_then(|bytes| u64::try_from(bytes).ok())
    };
    Ok(row.map(|row| SlotWal { kept_bytes: bytes(&row, 0).unwrap_or_default(), limit_bytes: bytes(&row, 1) }))
}

/// The right to create, drop and read a slot, as long as this lives: a session with an advisory lock on the slot's name.
/// One process at a time decides what becomes of a slot, also while nobody reads from it.
pub struct Claim {
    session: Client,
}

impl Claim {
    /// Whether the session is there; without it another process may have the claim by now.
    pub fn holds(&self) -> bool {
        !self.session.is_closed()
    }
}

pub(crate) async fn claim(client: Client, name: &str) -> Result<Claim, CdcError> {
    let deadline = Instant::now() + RELEASE;
    loop {
        let row = client
            .query_one(
                "SELECT pg_try_advisory_lock(key), (SELECT pid FROM pg_locks
                    WHERE locktype = 'advisory' AND granted AND pid <> pg_backend_pid()
                      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                      AND classid = (key >> 32 & 4294967295)::oid AND objid = (key & 4294967295)::oid LIMIT 1)
                 FROM hashtextextended('lakeward ' || $1, 0) key",
                &[&name],
            )
            .await
            .map_err(CdcError::query("lock the replication slot's name"))?;
        match (row.get::<_, bool>(0), row.get::<_, Option<i32>>(1)) {
            (true, _) => return Ok(Claim { session: client }),
            (false, Some(pid)) if Instant::now() >= deadline => {
                return Err(CdcError::SlotInUse { slot: name.to_owned(), pid });
            }
            (false, _) => sleep(PAUSE).await,
        }
    }
}

/// Waits until nobody reads the slot.
pub(crate) async fn wait_released(client: &Client, name: &str) -> Result<SlotState, CdcError> {
    let deadline = Instant::now() + RELEASE;
    loop {
        match state(client, name).await? {
            SlotState::Present { active_pid: Some(pid), .. } if Instant::now() >= deadline => {
                return Err(CdcError::SlotInUse { slot: name.to_owned(), pid });
            }
            SlotState::Present { active_pid: Some(_), .. } => sleep(PAUSE).await,
            free => return Ok(free),
        }
    }
}

pub(crate) async fn drop(client: &Client, name: &str) -> Result<(), CdcError> {
    if wait_released(client, name).await? == SlotState::Missing {
        return Ok(());
    }
    client
        .execute("SELECT pg_drop_replication_slot($1)", &[&name])
        .await
        .map_err(CdcError::query(format!("drop replication slot {name}")))?;
    Ok(())
}

/// A new slot: its session, which keeps the exported snapshot alive.
pub(crate) struct Created {
    pub(crate) session: ReplicationClient,
    /// Where the slot begins and the snapshot stands.
    pub(crate) lsn: Lsn,
    pub(crate) snapshot: String,
}

/// Creates a slot with an exported snapshot. Postgres first waits for all transactions that write just now; longer
/// than `wait` is an error that names them.
pub(crate) async fn create(
    client: &Client,
    config: ReplicationConfig,
    name: &str,
    temporary: bool,
    wait: Duration,
) -> Result<Created, CdcError> {
    let failed = || CdcError::replication(format!("create replication slot {name}"));
    let mut session = connect_replication(config).await?;
    let pid = session.simple_query("SELECT pg_backend_pid()").await.map_err(failed())?;
    let pid: i32 = text(&pid, 0)
        .and_then(|pid| pid.parse().ok())
        .ok_or_else(|| CdcError::Sequence("the session has no process id".into()))?;
    // The older form of the options, which every server since 10 reads.
    let sql = format!(
        "CREATE_REPLICATION_SLOT {}{} LOGICAL pgoutput EXPORT_SNAPSHOT",
        escape_identifier(name),
        if temporary { " TEMPORARY" } else { "" }
    );
    let answer = tokio::time::timeout(wait, session.simple_query(&sql)).await;
    let Ok(answer) = answer else {
        let holder = holders(client, pid).await?;
        // The server does not notice that we left while it waits.
        client
            .execute("SELECT pg_terminate_backend($1)", &[&pid])
            .await
            .map_err(CdcError::query("end the waiting session"))?;
        return Err(CdcError::HeldUp { waited: wait, holder });
    };
    let answer = answer.map_err(failed())?;
    match (text(&answer, 1), text(&answer, 2)) {
        (Some(lsn), Some(snapshot)) => Ok(Created { lsn: parse_lsn(&lsn)?, snapshot, session }),
        _ => Err(CdcError::Sequence("a new slot without a snapshot".into())),
    }
}

fn text(rows: &[pgwire_replication::QueryRow], column: usize) -> Option<String> {
    let value = rows.first()?.get(column)?.as_ref()?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// Which transactions the process waits for, in words.
async fn holders(client: &Client, pid: i32) -> Result<String, CdcError> {
    let rows = client
        .query(
            "SELECT CASE WHEN b.pid = 0 THEN 'a prepared transaction (see pg_prepared_xacts)'
                ELSE format('process %s (%s) in a transaction since %s; end it with SELECT pg_terminate_backend(%s)',
                    b.pid, concat_ws(', ', a.usename, nullif(a.application_name, '')), a.xact_start, b.pid) END
             FROM unnest(pg_blocking_pids($1)) b(pid) LEFT JOIN pg_stat_activity a ON a.pid = b.pid",
            &[&pid],
        )
        .await
        .map_err(CdcError::query("say which transaction is open"))?;
    let holders: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(if holders.is_empty() { "none at this moment; try again".into() } else { holders.join(", ") })
}
