//! Who may write a source's tables: one owner at a time, and a term that counts them.

use std::time::Duration;

use crate::control::Control;
use crate::error::{Error, Result};

/// An owner that has not renewed its lease for so long may be replaced; one whose session has ended, at once.
pub const LEASE: Duration = Duration::from_secs(10);

/// Whether the lease `l` may be taken; $1 is the length of a lease in seconds. Where the session's beginning cannot be seen,
/// as by another role, its number must do.
const FREE: &str = "(l.released OR l.renewed_at < now() - make_interval(secs => $1)
    OR l.session_pid IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_stat_activity a
        WHERE a.pid = l.session_pid AND coalesce(a.backend_start = l.session_start, true)))";
/// The session that asks.
const SESSION: &str = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()";

/// Ownership of a source's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Greater with every owner.
    pub term: i64,
    /// The owner before did not give it back: it may still be alive somewhere.
    pub taken_over: bool,
}

impl Control {
    /// Takes the lease of a source; `holder` tells people who has it. One that was given back, not renewed for [`LEASE`],
    /// or whose holder's session has ended is free; with `force` any is: the caller knows that its holder cannot go on.
    ///
    /// # Errors
    /// [`Error::LeaseHeld`] if another one has it.
    pub async fn take_lease(&self, source: &str, holder: &str, force: bool) -> Result<Lease> {
        let failed = || Error::query(format!("take the lease of `{source}`"));
        let client = self.client().await?;
        let seconds = LEASE.as_secs_f64();
        let taken = client
            .query_opt(
                &format!(
                    "INSERT INTO leases AS l (source, holder, session_pid, session_start)
                        SELECT $2, $3, pid, backend_start FROM ({SESSION}) s
                     ON CONFLICT (source) DO UPDATE
                        SET term = l.term + 1, holder = excluded.holder, released = false, renewed_at = now(),
                            session_pid = excluded.session_pid, session_start = excluded.session_start
                        WHERE $4 OR {FREE}
                     RETURNING term, (SELECT NOT released FROM leases WHERE source = $2)"
                ),
                &[&seconds, &source, &holder, &force],
            )
            .await
            .map_err(failed())?;
        if let Some(row) = taken {
            // The statement's snapshot has the row as it was before.
            return Ok(Lease {
                term: row.get(0),
                taken_over: row.get::<_, Option<bool>>(1).unwrap_or(false),
            });
        }
        let row = client
            .query_one("SELECT holder FROM leases WHERE source = $1", &[&source])
            .await
            .map_err(failed())?;
        Err(Error::LeaseHeld { source_name: source.to_owned(), holder: row.get(0) })
    }

    /// Whether nobody has the lease, or its owner cannot go on, as far as can be told.
    pub async fn lease_is_free(&self, source: &str) -> Result<bool> {
        let row = self
            .client()
            .await?
            .query_opt(
                &format!("SELECT {FREE} FROM leases l WHERE source = $2"),
                &[&LEASE.as_secs_f64(), &source],
            )
            .await
            .map_err(Error::query(format!("read the lease of `{source}`")))?;
        Ok(row.is_none_or(|row| row.get(0)))
    }

    /// Says that the owner of this term is alive.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if another one has taken the lease.
    pub async fn renew_lease(&self, source: &str, term: i64) -> Result<()> {
        let renewed = self
            .client()
            .await?
            .execute(
                &format!(
                    "UPDATE leases SET renewed_at = now(), session_pid = pid, session_start = backend_start
                     FROM ({SESSION}) s WHERE source = $1 AND term = $2 AND NOT released"
                ),
                &[&source, &term],
            )
            .await
            .map_err(Error::query(format!("renew the lease of `{source}`")))?;
        if renewed == 0 {
            return Err(Error::LeaseLost { source_name: source.to_owned() });
        }
        Ok(())
    }

    /// Gives the lease back, if it is still this term's.
    pub async fn release_lease(&self, source: &str, term: i64) -> Result<()> {
        self.client()
            .await?
            .execute("UPDATE leases SET released = true WHERE source = $1 AND term = $2", &[&source, &term])
            .await
            .map_err(Error::query(format!("give the lease of `{source}` back")))?;
        Ok(())
    }
}
