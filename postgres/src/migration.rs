//! The control database's schema: numbered SQL files of `migrations/`, each applied once, in order.

use tokio_postgres::Client;

use crate::error::{Error, Result};

const MIGRATIONS: &[(i32, &str)] = &[
    (1, include_str!("../../migrations/0001_cut_requests.sql")),
    (2, include_str!("../../migrations/0002_ingesters.sql")),
    (3, include_str!("../../migrations/0003_table_requests.sql")),
    (4, include_str!("../../migrations/0004_leases.sql")),
    (5, include_str!("../../migrations/0005_owner_sessions.sql")),
];

/// Serialises processes that open one control database at the same time ("lakeward" in ASCII).
const LOCK: i64 = 0x6c61_6b65_7761_7264;

/// Brings the database up to date in one transaction.
///
/// # Errors
/// A recorded migration that is not among ours, or no longer the same.
pub(crate) async fn migrate(client: &mut Client) -> Result<()> {
    let failed = || Error::query("apply the migrations of the control database");
    let transaction = client.transaction().await.map_err(failed())?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(failed())?;
    transaction
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (
                 version integer PRIMARY KEY,
                 md5 text NOT NULL,
                 applied_at timestamptz NOT NULL DEFAULT now()
             )",
        )
        .await
        .map_err(failed())?;
    let applied = transaction
        .query("SELECT version, md5 FROM schema_migrations ORDER BY version", &[])
        .await
        .map_err(failed())?;
    for row in &applied {
        let (version, sum): (i32, &str) = (row.get(0), row.get(1));
        let ours = MIGRATIONS.iter().find(|(number, _)| *number == version);
        let same = match ours {
            Some((_, sql)) => {
                let row = transaction.query_one("SELECT md5($1)", &[sql]).await.map_err(failed())?;
                row.get::<_, &str>(0) == sum
            }
            None => false,
        };
        if !same {
            return Err(Error::Migration { version });
        }
    }
    for (version, sql) in MIGRATIONS.iter().skip(applied.len()) {
        transaction.batch_execute(sql).await.map_err(failed())?;
        transaction
            .execute("INSERT INTO schema_migrations (version, md5) VALUES ($1, md5($2))", &[version, sql])
            .await
            .map_err(failed())?;
    }
    transaction.commit().await.map_err(failed())
}
