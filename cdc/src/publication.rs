//! The publication: which tables Postgres sends.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use lakeward_change::TableId;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::Client;

use crate::{CdcError, definition::Definition, name::inserts_name};

/// Marks a publication as ours, so that only ours is altered or dropped.
const MARK: &str = "created by lakeward";
const ALL: &str = "insert, update, delete, truncate";
/// What tables without a key can send: the shop could not update or delete rows in them if that were published.
const INSERTS: &str = "insert, truncate";
/// Partitioned tables in a publication that names their partitions' changes after the partitions; `pg_publication_tables`
/// then has the partitions.
const ROOTS: &str = "
    SELECT n.nspname, c.relname FROM pg_publication p, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE p.pubname = $1 AND NOT p.pubviaroot AND c.relkind = 'p' AND NOT c.relispartition AND (p.puballtables
        OR EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = c.oid)";
/// … by their schema, from PostgreSQL 15 on.
const ROOTS_BY_SCHEMA: &str = " OR EXISTS (SELECT FROM pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = c.relnamespace)";

#[derive(Debug)]
pub(crate) struct Publication {
    name: String,
    pub(crate) ours: bool,
    /// It names a partition's changes after the whole table: then the truncate of one partition is missing.
    pub(crate) via_root: bool,
    /// It publishes all operations.
    complete: bool,
    /// Columns by table; `None` for all columns.
    pub(crate) tables: BTreeMap<TableId, Option<BTreeSet<String>>>,
}

impl Publication {
    /// The publication of this name, if there is one. It must publish every row and operation.
    pub(crate) async fn find(client: &Client, name: &str) -> Result<Option<Self>, CdcError> {
        let found = Self::read(client, name).await?;
        if found.as_ref().is_some_and(|found| !found.complete) {
            return Err(CdcError::Publication {
                name: name.to_owned(),
                problem: "leaves out some operations".into(),
                fix: format!("ALTER PUBLICATION {} SET (publish = '{ALL}')", escape_identifier(name)),
            });
        }
        Ok(found)
    }

    /// Our publication of the inserts of tables without a key, beside the one of the name.
    pub(crate) async fn find_inserts(client: &Client, name: &str) -> Result<Option<Self>, CdcError> {
        Ok(Self::read(client, &inserts_name(name)).await?.filter(|found| found.ours))
    }

    async fn read(client: &Client, name: &str) -> Result<Option<Self>, CdcError> {
        let action = "read its publications";
        let found = client
            .query_opt(
                "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate,
                    coalesce(obj_description(oid, 'pg_publication') = $2, false), pubviaroot,
                    current_setting('server_version_num')::int
                 FROM pg_publication WHERE pubname = $1",
                &[&name, &MARK],
            )
            .await
            .map_err(CdcError::query(action))?;
        let Some(found) = found else { return Ok(None) };
        // Through JSON, since column lists and row filters came with PostgreSQL 15.
        let rows = client
            .query(
                "SELECT t.schemaname, t.tablename, to_jsonb(t) ->> 'rowfilter',
                    CASE WHEN to_jsonb(t) ? 'attnames'
                        THEN ARRAY(SELECT jsonb_array_elements_text(to_jsonb(t) -> 'attnames')) END
                 FROM pg_publication_tables t WHERE pubname = $1",
                &[&name],
            )
            .await
            .map_err(CdcError::query(action))?;
        let mut tables = BTreeMap::new();
        for row in rows {
            let id = TableId::new(row.get::<_, String>(0), row.get::<_, String>(1));
            if row.get::<_, Option<String>>(2).is_some() {
                return Err(CdcError::Publication {
                    name: name.to_owned(),
                    problem: format!("filters the rows of {id}"),
                    fix: "ALTER PUBLICATION … SET TABLE without the WHERE".into(),
                });
            }
            let columns: Option<Vec<String>> = row.get(3);
            tables.insert(id, columns.map(|columns| columns.into_iter().collect()));
        }
        let by_schema = if found.get::<_, i32>(3) >= 150_000 { ROOTS_BY_SCHEMA } else { "" };
        let roots =
            client.query(&format!("{ROOTS}{by_schema})"), &[&name]).await.map_err(CdcError::query(action))?;
        for row in roots {
            tables.insert(TableId::new(row.get::<_, String>(0), row.get::<_, String>(1)), None);
        }
        Ok(Some(Self {
            name: name.to_owned(),
            ours: found.get(1),
            complete: found.get(0),
            via_root: found.get(2),
            tables,
        }))
    }

    /// Creates both publications, in the place of ours: of all changes for tables with a usable replica identity, of
    /// inserts for the others, since an update or delete of a published table without one would fail in the shop. Also
    /// without such a table: a slot must not be older than a publication that its stream names.
    pub(crate) async fn create(client: &Client, name: &str, tables: &[Definition]) -> Result<(), CdcError> {
        let mut sql = String::new();
        for (name, publish, tables) in wanted(name, tables) {
            if Self::is_ours(client, &name).await? {
                let _ = write!(sql, "DROP PUBLICATION {}; ", escape_identifier(&name));
            }
            let quoted = escape_identifier(&name);
            let of = if tables.is_empty() { String::new() } else { format!("FOR TABLE {}", list(&tables)) };
            let _ = write!(
                sql,
                "CREATE PUBLICATION {quoted} {of} WITH (publish = '{publish}', publish_via_partition_root = false); \
                 COMMENT ON PUBLICATION {quoted} IS {}; ",
                escape_literal(MARK)
            );
        }
        // One message is one transaction.
        let action = format!("create publication {}", escape_identifier(name));
        client.batch_execute(&sql).await.map_err(CdcError::query(action))
    }

    /// Makes ours tell of partitions, gives them the tables that they lack, and moves those that got a key or lost it: at once, so that none of their
    /// changes falls between the two.
    pub(crate) async fn arrange(
        client: &Client,
        ours: &[Self],
        tables: &[Definition],
    ) -> Result<(), CdcError> {
        let (mut drops, mut adds) = (String::new(), String::new());
        for found in ours {
            if found.via_root {
                let name = escape_identifier(&found.name);
                let _ = write!(adds, "ALTER PUBLICATION {name} SET (publish_via_partition_root = false); ");
            }
            let wanted = |table: &&Definition| found.complete != table.schema.is_history();
            let holds = |table: &&Definition| found.tables.contains_key(&table.schema.id);
            let out: Vec<_> = tables.iter().filter(|table| holds(table) && !wanted(table)).collect();
            let missing: Vec<_> = tables.iter().filter(|table| !holds(table) && wanted(table)).collect();
            for (sql, how, tables) in [(&mut drops, "DROP", out), (&mut adds, "ADD", missing)] {
                if !tables.is_empty() {
                    let name = escape_identifier(&found.name);
                    let _ = write!(sql, "ALTER PUBLICATION {name} {how} TABLE {}; ", list(&tables));
                }
            }
        }
        if drops.is_empty() && adds.is_empty() {
            return Ok(());
        }
        let sql = drops + &adds;
        client.batch_execute(&sql).await.map_err(CdcError::query("alter its publications"))
    }

    /// Drops both, if they are ours.
    pub(crate) async fn drop(client: &Client, name: &str) -> Result<(), CdcError> {
        for name in [name.to_owned(), inserts_name(name)] {
            if Self::is_ours(client, &name).await? {
                let sql = format!("DROP PUBLICATION IF EXISTS {}", escape_identifier(&name));
                let action = format!("drop publication {}", escape_identifier(&name));
                client.batch_execute(&sql).await.map_err(CdcError::query(action))?;
            }
        }
        Ok(())
    }

    async fn is_ours(client: &Client, name: &str) -> Result<bool, CdcError> {
        let row = client
            .query_opt(
                "SELECT FROM pg_publication WHERE pubname = $1 AND obj_description(oid, 'pg_publication') = $2",
                &[&name, &MARK],
            )
            .await;
        Ok(row.map_err(CdcError::query("read its publications"))?.is_some())
    }
}

/// Both publications: names, operations and tables.
fn wanted<'a>(name: &str, tables: &'a [Definition]) -> [(String, &'static str, Vec<&'a Definition>); 2] {
    let (histories, others) = tables.iter().partition(|table| table.schema.is_history());
    [(name.to_owned(), ALL, others), (inserts_name(name), INSERTS, histories)]
}

fn list(tables: &[&Definition]) -> String {
    tables.iter().map(|table| table.sql_source()).collect::<Vec<_>>().join(", ")
}
