//! The partitions that hold a partitioned table's rows.
//!
//! Rows and changes come under the partition's name, at whatever depth it lies; the lake has the table as one, with a
//! column for the partition.

use std::collections::{BTreeMap, BTreeSet};

use lakeward_change::{LEAF, Leaf};
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::{Client, Error};

use crate::{CdcError, catalog::Obstacle};

/// The number of the system column that says in which table a row is.
pub(crate) const TABLEOID: i16 = -6;

/// Partitions below tables. All rows of one that was made by `CREATE TABLE … PARTITION OF` came as changes of the table,
/// however many they are by now: no ATTACH has written its columns' catalog rows anew. Of any other it is known only if
/// it is empty; and after a crash the server has forgotten which command of a transaction wrote what.
const LEAVES: &str = "
    WITH RECURSIVE tree(root, oid, attached) AS (
        SELECT oid, oid, false FROM pg_class WHERE oid = ANY($1) AND relkind = 'p'
        UNION ALL
        SELECT t.root, i.inhrelid, t.attached OR NOT EXISTS (
            SELECT FROM pg_attribute s JOIN pg_attribute a ON a.attrelid = s.attrelid
            WHERE s.attrelid = i.inhrelid AND s.attnum = -6 AND a.attnum > 0 AND NOT a.attisdropped
                AND a.xmin = s.xmin AND a.cmin = s.cmin AND i.xmin = s.xmin AND NOT i.cmin = s.cmin)
        FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid AND NOT i.inhdetachpending)
    SELECT t.root, l.oid, n.nspname || '.' || l.relname, l.relkind = 'r', l.relpersistence = 'p',
        CASE WHEN t.attached AND l.relkind = 'r' AND l.relpages = 0
            THEN coalesce(pg_relation_size(l.oid) > 0, true) ELSE t.attached END,
        coalesce(pg_relation_filenode(l.oid), 0),
        ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = l.oid AND a.atthasmissing)
    FROM tree t JOIN pg_class l ON l.oid = t.oid JOIN pg_namespace n ON n.oid = l.relnamespace
    WHERE l.relkind <> 'p' ORDER BY 1, 2";

/// Whether a transaction's snapshot, which is what a query of the catalog sees, has the partitions that there are now,
/// none rewritten since.
const STILL: &str = "
    WITH RECURSIVE seen(oid) AS (
        SELECT $1::oid
        UNION ALL
        SELECT i.inhrelid FROM seen s JOIN pg_inherits i ON i.inhparent = s.oid AND NOT i.inhdetachpending)
    SELECT (SELECT array_agg(oid ORDER BY oid) FROM seen)
            = (SELECT array_agg(relid::oid ORDER BY relid::oid) FROM pg_partition_tree($1::oid::regclass))
        AND NOT EXISTS (SELECT FROM seen s JOIN pg_class c ON c.oid = s.oid
            WHERE c.relkind = 'r' AND c.relfilenode IS DISTINCT FROM pg_relation_filenode(c.oid))";

/// The leaves of one table.
#[derive(Debug, Default)]
pub(crate) struct Leaves {
    pub(crate) leaves: Vec<Leaf>,
    /// Another number, once any of them has been written anew.
    pub(crate) storage: u32,
    /// Columns that came with a value for the rows in one of them.
    pub(crate) filled_columns: BTreeSet<String>,
    /// Those that the log does not hold: foreign tables, and unlogged ones.
    foreign: Option<String>,
    unlogged: Option<String>,
}

/// The leaves of those of the tables that are partitioned.
pub(crate) async fn read(client: &Client, tables: &[u32]) -> Result<BTreeMap<u32, Leaves>, CdcError> {
    let rows = client.query(LEAVES, &[&tables]).await.map_err(CdcError::query("read its partitions"))?;
    let mut trees: BTreeMap<u32, Leaves> = BTreeMap::new();
    for row in rows {
        let tree = trees.entry(row.get(0)).or_default();
        let name: String = row.get(2);
        match (row.get::<_, bool>(3), row.get::<_, bool>(4)) {
            (false, _) => tree.foreign = Some(name.clone()),
            (true, false) => tree.unlogged = Some(name.clone()),
            (true, true) => {}
        }
        tree.storage = tree.storage.wrapping_add(row.get(6));
        tree.filled_columns.extend(row.get::<_, Vec<String>>(7));
        tree.leaves.push(Leaf { table: row.get(1), name, filled: row.get(5) });
    }
    Ok(trees)
}

impl Leaves {
    /// Why the table cannot be captured whole.
    pub(crate) fn obstacle(&self) -> Option<Obstacle> {
        let mut names = BTreeSet::new();
        if let Some(name) = &self.foreign {
            let reason = format!(
                "its partition {name} is a foreign table, whose changes are not in this server's log"
            );
            return Some(Obstacle::new(reason, None));
        }
        if let Some(name) = &self.unlogged {
            let reason =
                format!("its partition {name} is unlogged, so the write-ahead log does not hold its changes");
            return Some(Obstacle::new(reason, "ALTER TABLE … SET LOGGED for the partition".to_owned()));
        }
        let doubled = self.leaves.iter().find(|leaf| !names.insert(&leaf.name))?;
        let reason = format!("two of its partitions, of two schemas, are both written {}", doubled.name);
        Some(Obstacle::new(reason, "ALTER TABLE … RENAME for one of the partitions".to_owned()))
    }
}

/// A partitioned table's rows with their leaf, as SQL to select from; `condition` may speak of `t.ctid`.
pub(crate) fn sql_rows(table: &str, condition: &str) -> String {
    format!(
        "(SELECT t.*, l.name AS {} FROM {table} t JOIN \
         (SELECT c.oid, n.nspname || '.' || c.relname AS name \
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace) l \
         ON l.oid = t.tableoid WHERE {condition}) leaves",
        escape_identifier(LEAF)
    )
}

/// Whether the partitions that the session's snapshot shows are those that there are, which must be locked.
pub(crate) async fn are_still(client: &Client, table: u32) -> Result<bool, Error> {
    let row = client.query_one(STILL, &[&table]).await?;
    Ok(row.try_get::<_, Option<bool>>(0)?.unwrap_or(false))
}
