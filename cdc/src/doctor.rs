//! What a server lacks to be a source, and the SQL that mends it.

use postgres_protocol::escape::escape_identifier;
use serde::Serialize;
use tokio_postgres::Client;

use crate::{CdcError, catalog::Catalog, connection::connect, pattern::Selection};

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    pub what: String,
    /// SQL, or a step in words.
    pub fix: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Ok,
    Warn,
    /// Capture cannot work.
    Error,
}

impl Finding {
    fn new(level: Level, what: impl Into<String>, fix: Option<String>) -> Self {
        Self { level, what: what.into(), fix }
    }

    /// `good` if it holds, else the problem.
    fn check(holds: bool, good: String, level: Level, bad: String, fix: String) -> Self {
        if holds { Self::new(Level::Ok, good, None) } else { Self::new(level, bad, Some(fix)) }
    }
}

/// Examines the server at `url`. Changes nothing; what cannot be examined is a finding too.
pub async fn doctor(url: &str) -> Vec<Finding> {
    match examine(url).await {
        Ok(findings) => findings,
        Err(error) => {
            let mut what = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                what.push_str(": ");
                what.push_str(&cause.to_string());
                source = cause.source();
            }
            vec![Finding::new(Level::Error, what, None)]
        }
    }
}

async fn examine(url: &str) -> Result<Vec<Finding>, CdcError> {
    let client = connect(url).await?;
    let mut findings = server(&client).await?;
    findings.extend(tables(&client).await?);
    Ok(findings)
}

async fn server(client: &Client) -> Result<Vec<Finding>, CdcError> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'), pg_is_in_recovery(),
                current_setting('wal_level'), current_user::text, current_database()::text,
                (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user),
                has_database_privilege(current_database(), 'CREATE'),
                current_setting('max_replication_slots')::int, (SELECT count(*)::int FROM pg_replication_slots),
                current_setting('max_wal_senders')::int, (SELECT count(*)::int FROM pg_stat_replication),
                current_setting('max_slot_wal_keep_size')",
            &[],
        )
        .await
        .map_err(CdcError::query("show its settings"))?;
    let (number, version): (i32, String) = (row.get(0), row.get(1));
    let (wal_level, user, database): (String, String, String) = (row.get(3), row.get(4), row.get(5));
    let user = escape_identifier(&user);
    let mut findings = vec![
        Finding::check(
            number >= 140_000,
            format!("PostgreSQL {version}"),
            Level::Error,
            format!("PostgreSQL {version} is too old: 14 is the oldest that is read"),
            "upgrade the server".into(),
        ),
        Finding::check(
            !row.get::<_, bool>(2),
            "the server is a primary".into(),
            Level::Error,
            "the server is a standby: a publication cannot be created here".into(),
            "name the primary in the URL".into(),
        ),
        Finding::check(
            wal_level == "logical",
            "wal_level is logical".into(),
            Level::Error,
            format!("wal_level is {wal_level}: the log lacks what logical decoding needs"),
            "ALTER SYSTEM SET wal_level = 'logical'; then restart the server".into(),
        ),
        Finding::check(
            row.get::<_, Option<bool>>(6).unwrap_or_default(),
            format!("role {user} may replicate"),
            Level::Error,
            format!("role {user} may not replicate"),
            format!(
                "ALTER ROLE {user} REPLICATION (on a managed service, grant its replication role instead)"
            ),
        ),
        Finding::check(
            row.get(7),
            format!("role {user} may create a publication"),
            Level::Error,
            format!("role {user} may not create a publication in database {database}"),
            format!("GRANT CREATE ON DATABASE {} TO {user}", escape_identifier(&database)),
        ),
    ];
    // Capture takes one slot and sender, reconcile another for a while.
    for (setting, limit, used) in [("max_replication_slots", 8, 9), ("max_wal_senders", 10, 11)] {
        let (limit, used): (i32, i32) = (row.get(limit), row.get(used));
        let free = limit - used;
        findings.push(Finding::check(
            free >= 2,
            format!("{setting}: {free} of {limit} are free"),
            if free >= 1 { Level::Warn } else { Level::Error },
            format!(
                "{setting}: {free} of {limit} are free; capture takes one, reconcile another for a while"
            ),
            format!("ALTER SYSTEM SET {setting} = {}; then restart the server", used + 2),
        ));
    }
    let keep: String = row.get(12);
    findings.push(Finding::check(
        keep != "-1",
        format!("max_slot_wal_keep_size is {keep}: a stopped reader cannot fill the disk"),
        Level::Warn,
        "max_slot_wal_keep_size is unlimited: while ingestion stands still, the server keeps its log until the disk is full"
            .into(),
        "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf()".into(),
    ));
    findings.extend(long_transactions(client).await?);
    Ok(findings)
}

/// Open writers that a new snapshot would wait for.
async fn long_transactions(client: &Client) -> Result<Vec<Finding>, CdcError> {
    let rows = client
        .query(
            "SELECT pid, to_char(xact_start, 'YYYY-MM-DD HH24:MI:SS TZ') FROM pg_stat_activity
             WHERE backend_xid IS NOT NULL AND xact_start < clock_timestamp() - interval '1 minute' ORDER BY xact_start",
            &[],
        )
        .await
        .map_err(CdcError::query("show its open transactions"))?;
    let finding = |row: &tokio_postgres::Row| {
        let (pid, since): (i32, String) = (row.get(0), row.get(1));
        Finding::new(
            Level::Warn,
            format!(
                "process {pid} has a writing transaction open since {since}: a first copy and reconcile wait for its end"
            ),
            Some(format!("SELECT pg_terminate_backend({pid})")),
        )
    };
    Ok(rows.iter().map(finding).collect())
}

async fn tables(client: &Client) -> Result<Vec<Finding>, CdcError> {
    let catalog = Catalog::read(client, &Selection::new(&[], &[])).await?;
    let count = catalog.tables.len();
    let mut findings = vec![Finding::check(
        count > 0,
        format!("{count} tables can be captured"),
        Level::Error,
        "no table can be captured".into(),
        "give at least one table a primary key".into(),
    )];
    for skipped in catalog.skipped {
        let what = format!("table {} cannot be captured: {}", skipped.table, skipped.obstacle.reason);
        findings.push(Finding::new(Level::Warn, what, skipped.obstacle.fix));
    }
    for (table, lacking) in catalog.without_key {
        let what = format!("of table {table} only inserts and truncates can be captured: {}", lacking.reason);
        findings.push(Finding::new(Level::Warn, what, lacking.fix));
    }
    for (table, column) in catalog.omitted {
        let what = format!("column {column} of table {table} is generated: Postgres does not publish it");
        findings.push(Finding::new(Level::Warn, what, None));
    }
    findings.extend(foreign_owners(client).await?);
    Ok(findings)
}

/// Only a table's owner may put it into a publication.
async fn foreign_owners(client: &Client) -> Result<Option<Finding>, CdcError> {
    let row = client
        .query_one(
            "SELECT count(*), string_agg(DISTINCT pg_get_userbyid(c.relowner)::text, ', '), current_user::text
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
                AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND NOT pg_has_role(c.relowner, 'USAGE')",
            &[],
        )
        .await
        .map_err(CdcError::query("show who owns its tables"))?;
    let count: i64 = row.get(0);
    let owners: Option<String> = row.get(1);
    let user: String = row.get(2);
    Ok(owners.map(|owners| {
        Finding::new(
            Level::Warn,
            format!("{count} tables belong to {owners}: only an owner may publish a table"),
            Some(format!(
                "GRANT {owners} TO {}, or let an owner create the publication and name it in the configuration",
                escape_identifier(&user)
            )),
        )
    }))
}
