//! What makes a table of the catalog one that can be captured.

use std::{collections::BTreeSet, sync::Arc};

use lakeward_change::{Column, ColumnType, LEAF, Origin, TableSchema};

use super::{
    Obstacle,
    read::{ColumnRow, TableRow},
};
use crate::{definition::Definition, hash::Salt, leaves::TABLEOID, types::TEXT};

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
pub(super) fn define(
    table: &TableRow,
    columns: Vec<ColumnRow>,
) -> Result<(Definition, Option<Obstacle>), Obstacle> {
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
