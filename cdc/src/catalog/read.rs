//! Reading the source's catalog.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use lakeward_change::{Column, TableId};
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::Client;

use super::{Catalog, Skipped, define::define};
use crate::{
    CdcError,
    known::Known,
    leaves::{self, Leaves},
    pattern::Selection,
    types::column_type,
};

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

pub(super) struct TableRow {
    pub(super) oid: u32,
    pub(super) id: TableId,
    pub(super) kind: u8,
    pub(super) identity: u8,
    pub(super) persistence: u8,
    pub(super) owner: String,
    pub(super) owned: bool,
    pub(super) readable: bool,
    pub(super) key: Option<Vec<i16>>,
    pub(super) mixed_identity: bool,
    pub(super) storage: u32,
    pub(super) leaves: Leaves,
}

pub(super) struct ColumnRow {
    pub(super) number: i16,
    pub(super) generated: bool,
    pub(super) filled: bool,
    pub(super) type_oid: u32,
    pub(super) type_modifier: i32,
    pub(super) base: u32,
    pub(super) column: Column,
}

impl TableRow {
    pub(super) fn sql_name(&self) -> String {
        format!("{}.{}", escape_identifier(&self.id.schema), escape_identifier(&self.id.name))
    }
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
