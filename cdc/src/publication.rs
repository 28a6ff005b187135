//! The publication: which tables Postgres sends.

use std::collections::{BTreeMap, BTreeSet};

use lakeward_change::TableId;
use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::Client;

use crate::{CdcError, catalog::Definition};

/// Marks a publication as ours, so that only ours is altered or dropped.
const MARK: &str = "created by lakeward";
const OPTIONS: &str = "publish = 'insert, update, delete, truncate', publish_via_partition_root = false";
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
    pub(crate) ours: bool,
    /// It names a partition's changes after the whole table: then the truncate of one partition is missing.
    pub(crate) via_root: bool,
    /// Columns by table; `None` for all columns.
    pub(crate) tables: BTreeMap<TableId, Option<BTreeSet<String>>>,
}

impl Publication {
    /// The publication of this name, if there is one. One that is not ours must publish every row and operation.
    pub(crate) async fn find(client: &Client, name: &str) -> Result<Option<Self>, CdcError> {
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
        if !found.get::<_, bool>(0) {
            return Err(CdcError::Publication {
                name: name.to_owned(),
                problem: "leaves out some operations".into(),
                fix: format!(
                    "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate')",
                    escape_identifier(name)
                ),
            });
        }
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
        Ok(Some(Self { ours: found.get(1), via_root: found.get(2), tables }))
    }

    /// Makes ours name the changes of partitions after these.
    pub(crate) async fn tell_partitions(client: &Client, name: &str) -> Result<(), CdcError> {
        let quoted = escape_identifier(name);
        let sql = format!("ALTER PUBLICATION {quoted} SET (publish_via_partition_root = false)");
        client.batch_execute(&sql).await.map_err(CdcError::query(format!("alter publication {quoted}")))
    }

    /// Creates the publication of these tables, which all have a usable replica identity: an update or delete of a
    /// published table without one would fail in the shop.
    pub(crate) async fn create(client: &Client, name: &str, tables: &[Definition]) -> Result<(), CdcError> {
        let quoted = escape_identifier(name);
        // One message is one transaction.
        let sql = format!(
            "CREATE PUBLICATION {quoted} FOR TABLE {} WITH ({OPTIONS}); \
             COMMENT ON PUBLICATION {quoted} IS {}",
            list(tables),
            escape_literal(MARK)
        );
        client.batch_execute(&sql).await.map_err(CdcError::query(format!("create publication {quoted}")))
    }

    /// Makes ours hold exactly these tables.
    pub(crate) async fn set_tables(
        client: &Client,
        name: &str,
        tables: &[Definition],
    ) -> Result<(), CdcError> {
        Self::alter(client, name, "SET", tables).await
    }

    /// Adds tables to ours.
    pub(crate) async fn add_tables(
        client: &Client,
        name: &str,
        tables: &[Definition],
    ) -> Result<(), CdcError> {
        Self::alter(client, name, "ADD", tables).await
    }

    async fn alter(
        client: &Client,
        name: &str,
        how: &'static str,
        tables: &[Definition],
    ) -> Result<(), CdcError> {
        let quoted = escape_identifier(name);
        let sql = format!("ALTER PUBLICATION {quoted} {how} TABLE {}", list(tables));
        client.batch_execute(&sql).await.map_err(CdcError::query(format!("alter publication {quoted}")))
    }

    /// Drops it if it is ours.
    pub(crate) async fn drop(client: &Client, name: &str) -> Result<(), CdcError> {
        let action = || CdcError::query(format!("drop publication {}", escape_identifier(name)));
        let ours = client
            .query_opt(
                "SELECT FROM pg_publication WHERE pubname = $1 AND obj_description(oid, 'pg_publication') = $2",
                &[&name, &MARK],
            )
            .await
            .map_err(action())?;
        if ours.is_some() {
            let sql = format!("DROP PUBLICATION IF EXISTS {}", escape_identifier(name));
            client.batch_execute(&sql).await.map_err(action())?;
        }
        Ok(())
    }
}

fn list(tables: &[Definition]) -> String {
    tables.iter().map(Definition::sql_source).collect::<Vec<_>>().join(", ")
}
