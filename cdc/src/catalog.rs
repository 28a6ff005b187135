//! What the source's catalog says of its tables.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    sync::Arc,
};

use lakeward_change::{Column, ColumnType, Evolution, LEAF, Origin, TableId, TableSchema, evolution};
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::Client;

use crate::{
    CdcError,
    hash::Salt,
    known::Known,
    leaves::{self, Leaves, TABLEOID},
    pattern::Selection,
    types::{TEXT, column_type},
};

/// A captured table: its schema and what the stream's description of it is compared with.
#[derive(Debug, Clone)]
pub(crate) struct Definition {
    pub(crate) schema: Arc<TableSchema>,
    /// The table's OID, which survives renaming.
    pub(crate) oid: u32,
    /// Type and modifier of each column, domains not resolved.
    pub(crate) types: Vec<(u32, i32)>,
    /// Type of each column, domains resolved.
    pub(crate) base_types: Vec<u32>,
    /// REPLICA IDENTITY: `d`, `i` or `f`.
    pub(crate) identity: u8,
    pub(crate) partitioned: bool,
    /// The role that may publish it, and whether we have that role's rights.
    pub(crate) owner: String,
    pub(crate) owned: bool,
    /// Columns that are there and not captured.
    pub(crate) left_out: BTreeSet<String>,
    /// Columns that come are not captured either.
    pub(crate) ignores_new: bool,
    /// Of its hashed columns.
    pub(crate) salt: Salt,
}

impl Definition {
    /// `"schema"."table"`.
    pub(crate) fn sql_name(&self) -> String {
        let id = &self.schema.id;
        format!("{}.{}", escape_identifier(&id.schema), escape_identifier(&id.name))
    }

    /// What to name in a publication or lock: a plain table without its inheriting ones, which are tables of their own.
    pub(crate) fn sql_source(&self) -> String {
        let only = if self.partitioned { "" } else { "ONLY " };
        format!("{only}{}", self.sql_name())
    }

    /// What to read rows from.
    pub(crate) fn sql_rows(&self) -> String {
        if self.partitioned { leaves::sql_rows(&self.sql_name()) } else { self.sql_source() }
    }

    pub(crate) fn column_list(&self) -> String {
        let names: Vec<_> = (0..self.schema.columns.len()).map(|column| self.sql_column(column)).collect();
        names.join(", ")
    }

    /// Whether its changes hold values that must not reach the lake: of columns that are hashed, or not captured.
    pub(crate) fn is_private(&self) -> bool {
        self.schema.has_hashes() || !self.left_out.is_empty()
    }

    /// A column's name in the source, quoted.
    pub(crate) fn sql_column(&self, column: usize) -> String {
        escape_identifier(self.schema.source_name(column))
    }
}

/// All tables a selection names: captured ones, and others with the reason.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalog {
    pub(crate) tables: Vec<Definition>,
    pub(crate) skipped: Vec<Skipped>,
    /// Why the updates and deletes of some tables cannot be published.
    pub(crate) without_key: BTreeMap<TableId, Obstacle>,
    /// Tables that nobody asked for.
    pub(crate) unselected: BTreeSet<TableId>,
    /// Generated columns, which Postgres does not publish.
    pub(crate) omitted: Vec<(TableId, String)>,
    /// The publication is ours, and does not tell of partitions.
    pub(crate) via_root: bool,
    /// What there is besides, and as of when.
    pub(crate) known: Known,
}

/// A table that cannot be captured as it is.
#[derive(Debug, Clone)]
pub(crate) struct Skipped {
    pub(crate) table: TableId,
    pub(crate) obstacle: Obstacle,
}

#[derive(Debug, Clone)]
pub(crate) struct Obstacle {
    pub(crate) reason: String,
    /// The SQL that takes it away.
    pub(crate) fix: Option<String>,
    /// The table itself is in the way, not a right to it.
    pub(crate) by_definition: bool,
}

impl Obstacle {
    pub(crate) fn new(reason: impl Into<String>, fix: impl Into<Option<String>>) -> Self {
        Self { reason: reason.into(), fix: fix.into(), by_definition: true }
    }

    /// Not the table is in the way, but a right to it or a publication without it.
    pub(crate) fn of_rights(reason: impl Into<String>, fix: impl Into<Option<String>>) -> Self {
        Self { by_definition: false, ..Self::new(reason, fix) }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        self.fix.iter().try_for_each(|fix| write!(f, "; mend it with: {fix}"))
    }
}

const TABLES: &str = "
    SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.relreplident::text, c.relpersistence::text,
        pg_get_userbyid(c.relowner)::text, has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'),
        (SELECT (string_to_array(i.indkey::text, ' ')::int2[])[1:i.indnkeyatts] FROM pg_index i
          WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
            AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary END),
        EXISTS (SELECT FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid
          WHERE c.relkind = 'p' AND l.relreplident <> 'd'),
        pg_has_role(c.relowner, 'USAGE'), coalesce(pg_relation_filenode(c.oid), 0)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
        AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    ORDER BY n.nspname, c.relname";

const COLUMNS: &str = "
    WITH RECURSIVE base(oid, base, modifier) AS (
        SELECT oid, oid, -1 FROM pg_type WHERE typtype <> 'd'
        UNION ALL
        SELECT t.oid, b.base, CASE WHEN t.typtypmod <> -1 THEN t.typtypmod ELSE b.modifier END
        FROM pg_type t JOIN base b ON t.typtype = 'd' AND t.typbasetype = b.oid)
    SELECT a.attrelid, a.attnum, a.attname, a.attgenerated::text, a.atttypid, a.atttypmod, b.base,
        CASE WHEN a.atttypmod <> -1 THEN a.atttypmod ELSE b.modifier END, format_type(a.atttypid, a.atttypmod),
        a.atthasmissing
    FROM pg_attribute a JOIN base b ON b.oid = a.atttypid
    WHERE a.attrelid = ANY($1) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attrelid, a.attnum";

struct TableRow {
    oid: u32,
    id: TableId,
    kind: u8,
    identity: u8,
    persistence: u8,
    owner: String,
    owned: bool,
    readable: bool,
    key: Option<Vec<i16>>,
    mixed_identity: bool,
    storage: u32,
    leaves: Leaves,
}

struct ColumnRow {
    number: i16,
    generated: bool,
    filled: bool,
    type_oid: u32,
    type_modifier: i32,
    base: u32,
    column: Column,
}

impl Catalog {
    pub(crate) async fn read(client: &Client, selection: &Selection) -> Result<Self, CdcError> {
        let action = "read its catalog";
        let known = known(client).await?;
        let (mut tables, mut unselected) = (Vec::new(), BTreeSet::new());
        for row in client.query(TABLES, &[]).await.map_err(CdcError::query(action))? {
            let id = TableId::new(row.get::<_, String>(1), row.get::<_, String>(2));
            let letter = |index| row.get::<_, String>(index).bytes().next().unwrap_or_default();
            if !selection.contains(&id) {
                unselected.insert(id);
            } else {
                tables.push(TableRow {
                    oid: row.get(0),
                    id,
                    kind: letter(3),
                    identity: letter(4),
                    persistence: letter(5),
                    owner: row.get(6),
                    owned: row.get(10),
                    readable: row.get(7),
                    key: row.get(8),
                    mixed_identity: row.get(9),
                    storage: row.get(11),
                    leaves: Leaves::default(),
                });
            }
        }
        let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
        let mut leaves = leaves::read(client, &oids).await?;
        let mut columns: BTreeMap<u32, Vec<ColumnRow>> = BTreeMap::new();
        for row in client.query(COLUMNS, &[&oids]).await.map_err(CdcError::query(action))? {
            let (base, modifier) = (row.get(6), row.get(7));
            columns.entry(row.get(0)).or_default().push(ColumnRow {
                number: row.get(1),
                generated: !row.get::<_, String>(3).is_empty(),
                filled: row.get(9),
                type_oid: row.get(4),
                type_modifier: row.get(5),
                base,
                column: Column {
                    name: row.get(2),
                    column_type: column_type(base, modifier),
                    source_type: row.get(8),
                },
            });
        }
        let mut catalog = Self { unselected, known, ..Self::default() };
        for mut table in tables {
            let mut columns = columns.remove(&table.oid).unwrap_or_default();
            if let Some(leaves) = leaves.remove(&table.oid) {
                columns.iter_mut().for_each(|c| c.filled |= leaves.filled_columns.contains(&c.column.name));
                table.storage = leaves.storage;
                table.leaves = leaves;
            }
            let generated = columns.iter().filter(|column| column.generated);
            let omitted: Vec<_> = generated.map(|c| (table.id.clone(), c.column.name.clone())).collect();
            match define(&table, columns) {
                Ok((definition, without_key)) => {
                    catalog.without_key.extend(without_key.map(|obstacle| (table.id.clone(), obstacle)));
                    catalog.tables.push(definition);
                    catalog.omitted.extend(omitted);
                }
                Err(obstacle) => catalog.skipped.push(Skipped { table: table.id, obstacle }),
            }
        }
        Ok(catalog)
    }

    /// Leaves out the tables that only the publication of inserts could hold.
    pub(crate) fn leave_out_histories(&mut self, reason: &str) {
        for table in self.tables.extract_if(.., |table| table.schema.is_history()) {
            let id = table.schema.id.clone();
            let obstacle = match self.without_key.remove(&id) {
                Some(obstacle) => {
                    Obstacle { reason: format!("{}, and {reason}", obstacle.reason), ..obstacle }
                }
                None => Obstacle::new(reason, None),
            };
            self.skipped.push(Skipped { table: id, obstacle });
        }
    }

    /// Keeps the tables and columns that an existing publication publishes; `published` has them by table, `None`
    /// standing for all columns. One `via_root` does not tell of the truncate of a partition.
    pub(crate) fn restrict(
        &mut self,
        published: &BTreeMap<TableId, Option<BTreeSet<String>>>,
        via_root: bool,
        publication: &str,
    ) {
        let tables = std::mem::take(&mut self.tables);
        for table in tables {
            let id = table.schema.id.clone();
            let publication = escape_identifier(publication);
            let obstacle = match published.get(&id) {
                None => Obstacle::of_rights(
                    format!("publication {publication} does not hold it"),
                    format!("ALTER PUBLICATION {publication} ADD TABLE {}", table.sql_source()),
                ),
                Some(_) if via_root && table.partitioned => Obstacle::of_rights(
                    format!(
                        "publication {publication} does not tell which partition a change is in, so the truncate of one would be lost"
                    ),
                    format!("ALTER PUBLICATION {publication} SET (publish_via_partition_root = false)"),
                ),
                Some(None) => {
                    self.tables.push(table);
                    continue;
                }
                Some(Some(columns)) => match table.with_columns(columns) {
                    Some((table, left_out)) => {
                        self.omitted.extend(left_out.into_iter().map(|name| (id.clone(), name)));
                        self.tables.push(table);
                        continue;
                    }
                    None => Obstacle::of_rights(
                        format!("publication {publication} leaves out columns of its key"),
                        None,
                    ),
                },
            };
            self.skipped.push(Skipped { table: id, obstacle });
        }
    }

    /// Keeps the tables that are published already as they should be, and those that `user` may put into a publication:
    /// an owner's right.
    pub(crate) fn restrict_to_owned(&mut self, user: &str, published: impl Fn(&Definition) -> bool) {
        let unfit = |table: &mut Definition| !table.owned && !published(table);
        for table in self.tables.extract_if(.., unfit) {
            let owner = escape_identifier(&table.owner);
            let obstacle = Obstacle::of_rights(
                format!("it belongs to {owner}, and only an owner may publish a table"),
                format!(
                    "GRANT {owner} TO {}, or let an owner create the publication",
                    escape_identifier(user)
                ),
            );
            self.skipped.push(Skipped { table: table.schema.id.clone(), obstacle });
        }
    }

    /// Tables that are defined otherwise here than in `before`, or in one of both only.
    pub(crate) fn differing(&self, before: &Self) -> Vec<TableId> {
        let same = |a: &Definition, b: &Definition| {
            evolution(&a.schema, &b.schema) == Evolution::Same
                && (&a.types, a.identity, a.partitioned) == (&b.types, b.identity, b.partitioned)
        };
        let ids =
            |catalog: &Self| catalog.tables.iter().map(|t| t.schema.id.clone()).collect::<BTreeSet<_>>();
        ids(self)
            .union(&ids(before))
            .filter(|id| match (before.find(id), self.find(id)) {
                (Ok(before), Ok(now)) => !same(before, now),
                _ => true,
            })
            .cloned()
            .collect()
    }

    pub(crate) fn find(&self, table: &TableId) -> Result<&Definition, CdcError> {
        let found = self.tables.iter().find(|definition| &definition.schema.id == table);
        found.ok_or_else(|| CdcError::UnknownTable(table.clone()))
    }
}

impl Definition {
    /// The table with some of its columns, given by their names in the source, and the names of the others; `None` if a
    /// key column is not among them.
    pub(crate) fn with_columns(&self, keep: &BTreeSet<String>) -> Option<(Self, Vec<String>)> {
        // Without its partition a row could not be found when that is emptied.
        let leaf = if self.partitioned { self.schema.leaf() } else { None };
        let is_kept = |&i: &usize| keep.contains(self.schema.source_name(i)) || Some(i) == leaf;
        let kept: Vec<usize> = (0..self.schema.columns.len()).filter(is_kept).collect();
        let key = self.schema.key.iter().map(|i| kept.iter().position(|k| k == i));
        let key = if self.schema.counts_rows() { Some((0..kept.len()).collect()) } else { key.collect() };
        if kept.is_empty() {
            return None;
        }
        let schema = TableSchema {
            id: self.schema.id.clone(),
            columns: kept.iter().map(|&i| self.schema.columns[i].clone()).collect(),
            key: key?,
            origin: Origin {
                columns: kept.iter().map(|&i| self.schema.origin.columns[i]).collect(),
                ..self.schema.origin.clone()
            },
        };
        let schema = schema.named_for_the_lake();
        let left = (0..self.schema.columns.len()).filter(|i| !kept.contains(i));
        let left_out: Vec<String> = left.map(|i| self.schema.source_name(i).to_owned()).collect();
        let table = Self {
            left_out: self.left_out.iter().chain(&left_out).cloned().collect(),
            schema: Arc::new(schema),
            types: kept.iter().map(|&i| self.types[i]).collect(),
            base_types: kept.iter().map(|&i| self.base_types[i]).collect(),
            ..self.clone()
        };
        Some((table, left_out))
    }
}

/// Every table and partition there is. What commits after this is called may be among them, but is not seen.
async fn known(client: &Client) -> Result<Known, CdcError> {
    let failed = || CdcError::query("read its catalog");
    let snapshot = client.query_one("SELECT pg_current_snapshot()::text", &[]).await.map_err(failed())?;
    let relations =
        client.query("SELECT oid FROM pg_class WHERE relkind IN ('r', 'p')", &[]).await.map_err(failed())?;
    let relations: HashSet<u32> = relations.iter().map(|row| row.get(0)).collect();
    Known::new(relations, snapshot.get(0))
        .ok_or_else(|| CdcError::Sequence("a transaction snapshot that is none".into()))
}

/// The column that says in which partition a row is. Rows that were captured without it do not know.
fn leaf_column() -> ColumnRow {
    ColumnRow {
        number: TABLEOID,
        generated: false,
        filled: true,
        type_oid: TEXT,
        type_modifier: -1,
        base: TEXT,
        column: Column {
            name: LEAF.to_owned(),
            column_type: ColumnType::Text,
            source_type: "partition".to_owned(),
        },
    }
}

/// The definition of a table that can be captured, with what its updates and deletes lack if they cannot be; or why
/// nothing of it can.
fn define(table: &TableRow, columns: Vec<ColumnRow>) -> Result<(Definition, Option<Obstacle>), Obstacle> {
    let name = table.sql_name();
    if table.persistence == b'u' {
        return Err(Obstacle::new(
            "it is unlogged, so the write-ahead log does not hold its changes",
            format!("ALTER TABLE {name} SET LOGGED"),
        ));
    }
    if !table.readable {
        return Err(Obstacle::of_rights(
            "this role may not read it",
            format!("GRANT SELECT ON {name} TO CURRENT_USER (as its owner, with the role's name)"),
        ));
    }
    if let Some(obstacle) = table.leaves.obstacle() {
        return Err(obstacle);
    }
    if table.kind == b'p' && table.mixed_identity {
        let reason = "it or one of its partitions has a REPLICA IDENTITY other than DEFAULT";
        return Err(Obstacle::new(
            reason,
            format!("ALTER TABLE {name} REPLICA IDENTITY DEFAULT, and each partition"),
        ));
    }
    if table.kind == b'p' && columns.iter().any(|column| column.column.name.eq_ignore_ascii_case(LEAF)) {
        let reason = format!("it has a column {LEAF}, which is what the lake calls a row's partition");
        return Err(Obstacle::new(reason, None));
    }
    let leaf = (table.kind == b'p').then(leaf_column);
    let published: Vec<_> = columns.into_iter().filter(|column| !column.generated).chain(leaf).collect();
    if published.is_empty() {
        return Err(Obstacle::new("it has no column that Postgres publishes", None));
    }
    let (key, whole_rows, without_key) = match key(table, &published) {
        Ok(key) => (key, false, None),
        Err(_) if table.identity == b'f' => ((0..published.len()).collect(), true, None),
        Err(obstacle) => (Vec::new(), false, Some(obstacle)),
    };
    let schema = TableSchema {
        id: table.id.clone(),
        origin: Origin {
            table: table.oid,
            storage: table.storage,
            columns: published.iter().map(|c| c.number).collect(),
            filled: published.iter().filter(|c| c.filled).map(|c| c.number).collect(),
            leaves: table.leaves.leaves.clone(),
            whole_rows,
            ..Origin::default()
        },
        columns: published.iter().map(|c| c.column.clone()).collect(),
        key,
    };
    let definition = Definition {
        schema: Arc::new(schema.named_for_the_lake()),
        salt: Salt::default(),
        oid: table.oid,
        types: published.iter().map(|c| (c.type_oid, c.type_modifier)).collect(),
        base_types: published.iter().map(|c| c.base).collect(),
        identity: table.identity,
        left_out: BTreeSet::new(),
        ignores_new: false,
        partitioned: table.kind == b'p',
        owner: table.owner.clone(),
        owned: table.owned,
    };
    Ok((definition, without_key))
}

/// Where the key's columns stand, or why updates and deletes cannot be published: the shop's own would fail.
fn key(table: &TableRow, published: &[ColumnRow]) -> Result<Vec<usize>, Obstacle> {
    let name = table.sql_name();
    if table.identity == b'n' {
        return Err(Obstacle::new(
            "its REPLICA IDENTITY is NOTHING, so updates and deletes cannot be published",
            format!(
                "ALTER TABLE {name} REPLICA IDENTITY DEFAULT, with a primary key; or REPLICA IDENTITY FULL"
            ),
        ));
    }
    let Some(key) = &table.key else {
        return Err(Obstacle::new(
            "it has no usable key (a primary key, or REPLICA IDENTITY USING INDEX; not a deferrable one)",
            format!("ALTER TABLE {name} ADD PRIMARY KEY (…), or ALTER TABLE {name} REPLICA IDENTITY FULL"),
        ));
    };
    let key = key.iter().map(|number| published.iter().position(|c| c.number == *number));
    key.collect::<Option<_>>().ok_or_else(|| {
        Obstacle::new(
            "its key has a generated column, which Postgres does not publish",
            format!("ALTER TABLE {name} REPLICA IDENTITY FULL"),
        )
    })
}

impl TableRow {
    fn sql_name(&self) -> String {
        format!("{}.{}", escape_identifier(&self.id.schema), escape_identifier(&self.id.name))
    }
}

#[cfg(test)]
mod tests {
    use lakeward_change::ColumnType;

    use super::*;

    #[test]
    fn a_column_list_must_hold_the_key() {
        let column = |name: &str| Column {
            name: name.into(),
            column_type: ColumnType::Int4,
            source_type: "integer".into(),
        };
        let table = Definition {
            schema: Arc::new(TableSchema {
                id: TableId::new("s", "t"),
                columns: vec![column("a"), column("b"), column("c")],
                key: vec![2],
                origin: Origin { columns: vec![1, 2, 3], ..Origin::default() },
            }),
            oid: 1,
            types: vec![(23, -1), (20, -1), (21, -1)],
            base_types: vec![23, 20, 21],
            identity: b'd',
            partitioned: false,
            owner: String::new(),
            owned: true,
            left_out: BTreeSet::new(),
            ignores_new: false,
            salt: Salt::default(),
        };
        let keep = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let (kept, left_out) = table.with_columns(&keep(&["a", "c"])).expect("key is there");
        assert_eq!(
            (kept.schema.key.as_slice(), kept.types.as_slice()),
            (&[1][..], &[(23, -1), (21, -1)][..])
        );
        assert_eq!(left_out, ["b"]);
        assert!(table.with_columns(&keep(&["a", "b"])).is_none());
    }
}
