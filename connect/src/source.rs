//! What a connector has in the shop's database: its publication and its slot, of one name.

use std::{collections::BTreeMap, time::Duration};

use lakeward_postgres::{Endpoint, Verification};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio::time::{Instant, sleep};
use tokio_postgres::{
    Client,
    config::{Host, SslMode},
};

use crate::{ConnectError, Problem, Slot, Template};

/// Marks a publication as ours, so that only ours is altered or dropped.
const MARK: &str = "created by lakeward";
const ALL: &str = "insert, update, delete, truncate";
/// How long Debezium's session may outlive its task.
const RELEASE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(100);

/// The shop's database.
pub(crate) struct Source {
    url: String,
}

/// Tables of the template's patterns.
#[derive(Default)]
pub(crate) struct Selection {
    /// Quoted, for SQL.
    quoted: Vec<String>,
    pub(crate) names: Vec<String>,
    pub(crate) left_out: Vec<Problem>,
    /// All tables of the database with which Debezium would not start, whatever the patterns are.
    pub(crate) unreadable: Vec<String>,
}

impl Source {
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned() }
    }

    pub(crate) async fn connect(&self) -> Result<Client, ConnectError> {
        lakeward_postgres::connect(&self.url).await.map_err(ConnectError::Source)
    }

    /// What the templates have places for, but the tables.
    pub(crate) fn values(&self) -> Result<BTreeMap<&'static str, String>, ConnectError> {
        let Endpoint { config, verification } = Endpoint::parse(&self.url).map_err(ConnectError::Source)?;
        let host = match config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            _ => return Err(ConnectError::Url("it names no host")),
        };
        let user = config.get_user().ok_or(ConnectError::Url("it names no user"))?;
        let password = String::from_utf8(config.get_password().unwrap_or_default().to_vec());
        let sslmode = match (config.get_ssl_mode(), verification) {
            (SslMode::Disable, _) => "disable",
            (SslMode::Require, Verification::None) => "require",
            (SslMode::Require, Verification::Chain(_)) => "verify-ca",
            (SslMode::Require, Verification::ChainAndName(_)) => "verify-full",
            _ => "prefer",
        };
        Ok(BTreeMap::from([
            ("host", host),
            ("port", config.get_ports().first().unwrap_or(&5432).to_string()),
            ("user", user.to_owned()),
            ("password", password.map_err(|_| ConnectError::Url("its password is not UTF-8"))?),
            ("database", config.get_dbname().unwrap_or(user).to_owned()),
            ("sslmode", sslmode.to_owned()),
        ]))
    }
}

/// The tables that the connector can follow: an update or delete of a published table without a usable replica identity
/// would fail in the shop.
pub(crate) async fn select(client: &Client, template: &Template) -> Result<Selection, ConnectError> {
    let rows = client
        .query(
            "SELECT n.nspname::text, c.relname::text, c.relkind = 'p', c.relispartition, CASE c.relreplident
                WHEN 'f' THEN true
                WHEN 'i' THEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident)
                WHEN 'd' THEN EXISTS (SELECT FROM pg_index i
                    WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate)
                ELSE false END,
                (SELECT count(*) > count(DISTINCT lower(a.attname::text)) FROM pg_attribute a
                    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
                name LIKE ANY ($1) AND NOT name LIKE ANY ($2)
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
                LATERAL (SELECT n.nspname || '.' || c.relname) t(name)
             WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
                AND n.nspname <> 'information_schema' AND NOT starts_with(n.nspname, 'pg_')
             ORDER BY 1, 2",
            &[&like(&template.tables), &like(&template.exclude)],
        )
        .await
        .map_err(ConnectError::query("list its tables"))?;
    let mut selection = Selection::default();
    for row in rows {
        let (schema, table): (&str, &str) = (row.get(0), row.get(1));
        let (partitioned, is_partition, keyed): (bool, bool, bool) = (row.get(2), row.get(3), row.get(4));
        let (has_twins, is_wanted): (bool, bool) = (row.get(5), row.get(6));
        if has_twins {
            selection.unreadable.push(format!("{schema}.{table}"));
        }
        if !is_wanted {
            continue;
        }
        let reason = match (partitioned, is_partition, keyed) {
            // It goes with its table.
            (_, true, _) => continue,
            (true, ..) => {
                Some(("is partitioned", "capture it with `lakeward ingest` directly from Postgres"))
            }
            (.., false) => {
                Some(("has no key", "give it a primary key or REPLICA IDENTITY FULL, then apply again"))
            }
            _ if has_twins => Some((
                "has columns whose names differ only by case, which Debezium does not read",
                "rename one of them, then apply again; or capture it with `lakeward ingest` directly from Postgres",
            )),
            _ => None,
        };
        let name = format!("{schema}.{table}");
        match reason {
            None => {
                selection.quoted.push(format!("{}.{}", escape_identifier(schema), escape_identifier(table)));
                selection.names.push(name);
            }
            Some((why, fix)) => selection.left_out.push(Problem {
                what: format!("{name} is left out: it {why}"),
                fix: fix.to_owned(),
                grave: false,
            }),
        }
    }
    Ok(selection)
}

/// Patterns with `*` as those of LIKE.
fn like(patterns: &[String]) -> Vec<String> {
    let escaped = |pattern: &String| {
        pattern.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_").replace('*', "%")
    };
    patterns.iter().map(escaped).collect()
}

/// The tables as a list of Debezium's regular expressions.
pub(crate) fn regex_list(tables: &[String]) -> String {
    let quoted = |name: &String| {
        let plain = |c: char| c.is_alphanumeric() || c == '_';
        // A comma would begin the next expression.
        name.chars().fold(String::new(), |text, c| match c {
            ',' => text + "\\x2c",
            c if plain(c) => text + &c.to_string(),
            c => text + "\\" + &c.to_string(),
        })
    };
    tables.iter().map(quoted).collect::<Vec<_>>().join(",")
}

/// Makes the publication, or gives it these tables.
pub(crate) async fn publish(client: &Client, name: &str, tables: &Selection) -> Result<(), ConnectError> {
    let quoted = escape_identifier(name);
    let list = tables.quoted.join(", ");
    let sql = match ours(client, name).await? {
        Some(false) => return Err(ConnectError::ForeignPublication { name: name.to_owned() }),
        Some(true) if published(client, name).await? == tables.names => return Ok(()),
        Some(true) => format!("ALTER PUBLICATION {quoted} SET TABLE {list}"),
        // One message is one transaction.
        None => format!(
            "CREATE PUBLICATION {quoted} FOR TABLE {list} WITH (publish = '{ALL}'); \
             COMMENT ON PUBLICATION {quoted} IS {}",
            escape_literal(MARK)
        ),
    };
    client.batch_execute(&sql).await.map_err(ConnectError::query("publish its tables"))
}

/// The publication's tables, in order; none if it is not there.
pub(crate) async fn published(client: &Client, name: &str) -> Result<Vec<String>, ConnectError> {
    let rows = client
        .query(
            "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = $1
             ORDER BY schemaname, tablename",
            &[&name],
        )
        .await;
    Ok(rows.map_err(ConnectError::query("read its publications"))?.iter().map(|row| row.get(0)).collect())
}

/// Whether the publication is ours; `None` if there is none.
async fn ours(client: &Client, name: &str) -> Result<Option<bool>, ConnectError> {
    let row = client
        .query_opt(
            "SELECT coalesce(obj_description(oid, 'pg_publication') = $2, false) FROM pg_publication
             WHERE pubname = $1",
            &[&name, &MARK],
        )
        .await;
    Ok(row.map_err(ConnectError::query("read its publications"))?.map(|row| row.get(0)))
}

pub(crate) async fn slot(client: &Client, name: &str) -> Result<Slot, ConnectError> {
    let row = client
        .query_opt(
            "SELECT active, coalesce(wal_status = 'lost', false),
                coalesce(greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0), 0)::int8
             FROM pg_replication_slots WHERE slot_name = $1",
            &[&name],
        )
        .await
        .map_err(ConnectError::query("read its replication slots"))?;
    let exists = row.is_some();
    let (active, lost, kept) =
        row.map_or((false, false, 0), |row| (row.get(0), row.get(1), row.get::<_, i64>(2)));
    Ok(Slot { name: name.to_owned(), exists, active, lost, kept_bytes: kept.unsigned_abs() })
}

/// Takes slot and publication away, once nobody reads the slot.
pub(crate) async fn drop(client: &Client, name: &str) -> Result<(), ConnectError> {
    let began = Instant::now();
    loop {
        let query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
        let row = client.query_opt(query, &[&name]).await;
        let Some(row) = row.map_err(ConnectError::query("read its replication slots"))? else { break };
        match row.get::<_, Option<i32>>(0) {
            None => {
                let dropped = client.execute("SELECT pg_drop_replication_slot($1)", &[&name]).await;
                dropped.map_err(ConnectError::query("drop a replication slot"))?;
            }
            Some(pid) if began.elapsed() > RELEASE => {
                return Err(ConnectError::SlotInUse { slot: name.to_owned(), pid });
            }
            Some(_) => sleep(PAUSE).await,
        }
    }
    if ours(client, name).await? == Some(true) {
        let sql = format!("DROP PUBLICATION {}", escape_identifier(name));
        client.batch_execute(&sql).await.map_err(ConnectError::query("drop a publication"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_becomes_debeziums_settings() {
        let url = "postgres://cdc:s%40crt@db.example:6432/shop?sslmode=verify-full&sslrootcert=system";
        let values = Source::new(url).values().expect("a good URL");
        let expected = [
            ("host", "db.example"),
            ("port", "6432"),
            ("user", "cdc"),
            ("password", "s@crt"),
            ("database", "shop"),
            ("sslmode", "verify-full"),
        ];
        assert_eq!(values, expected.map(|(key, value)| (key, value.to_owned())).into());
    }

    #[test]
    fn names_are_patterns_of_themselves_alone() {
        assert_eq!(like(&["public.*_a%".to_owned()]), ["public.%\\_a\\%"]);
        let tables = ["public.orders".to_owned(), "My Shop.a,b".to_owned()];
        assert_eq!(regex_list(&tables), "public\\.orders,My\\ Shop\\.a\\x2cb");
    }
}
