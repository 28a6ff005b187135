//! Who may write a source's tables: one owner at a time, and a term that counts them.

use std::time::Duration;

use crate::control::Control;
use crate::error::{Error, Result};

/// An owner that has not renewed its lease for so long may be replaced.
pub const LEASE: Duration = Duration::from_secs(10);

/// Ownership of a source's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Greater with every owner.
    pub term: i64,
    /// The owner before did not give it back: it may still be alive somewhere.
    pub taken_over: bool,
}

impl Control {
    /// Takes the lease of a source; `holder` tells people who has it. One that was given back, or not renewed for
    /// [`LEASE`], is free; with `force` any is: the caller knows that its holder cannot go on.
    ///
    /// # Errors
    /// [`Error::LeaseHeld`] if another one has it.
    pub async fn take_lease(&self, source: &str, holder: &str, force: bool) -> Result<Lease> {
        let failed = || Error::query(format!("take the lease of `{source}`"));
        let client = self.client().await?;
        let seconds = LEASE.as_secs_f64();
        let taken = client
            .query_opt(
                "INSERT INTO leases AS l (source, holder) VALUES ($1, $2)
                 ON CONFLICT (source) DO UPDATE
                    SET term = l.term + 1, holder = excluded.holder, released = false, renewed_at = now()
                    WHERE l.released OR $3 OR l.renewed_at < now() - make_interval(secs => $4)
                 RETURNING term, (SELECT NOT released FROM leases WHERE source = $1)",
                &[&source, &holder, &force, &seconds],
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

    /// Whether nobody has the lease, or its owner has not been heard of for [`LEASE`].
    pub async fn lease_is_free(&self, source: &str) -> Result<bool> {
        let row = self
            .client()
            .await?
            .query_opt(
                "SELECT released OR renewed_at < now() - make_interval(secs => $2) FROM leases WHERE source = $1",
                &[&source, &LEASE.as_secs_f64()],
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
                "UPDATE leases SET renewed_at = now() WHERE source = $1 AND term = $2 AND NOT released",
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
