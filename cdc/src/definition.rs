//! A captured table as the source defines it.

use std::{collections::BTreeSet, sync::Arc};

use lakeward_change::{Origin, TableSchema};
use postgres_protocol::escape::escape_identifier;

use crate::{hash::Salt, leaves};

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
        if self.partitioned { leaves::sql_rows(&self.sql_name(), "true") } else { self.sql_source() }
    }

    /// What to read those rows from that meet a condition on their places, `t.ctid`.
    pub(crate) fn sql_rows_where(&self, condition: &str) -> String {
        match self.partitioned {
            true => leaves::sql_rows(&self.sql_name(), condition),
            false => format!("{} t WHERE {condition}", self.sql_source()),
        }
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

#[cfg(any(test, fuzzing))]
impl Definition {
    /// A plain table of ours; `types` are those of its columns, without modifiers.
    pub(crate) fn plain(schema: TableSchema, oid: u32, types: Vec<u32>) -> Self {
        Self {
            schema: Arc::new(schema),
            oid,
            types: types.iter().map(|oid| (*oid, -1)).collect(),
            base_types: types,
            identity: b'd',
            partitioned: false,
            owner: String::new(),
            owned: true,
            left_out: BTreeSet::new(),
            ignores_new: false,
            salt: Salt::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use lakeward_change::{Column, ColumnType, TableId};

    use super::*;

    #[test]
    fn a_column_list_must_hold_the_key() {
        let column = |name: &str| Column {
            name: name.into(),
            column_type: ColumnType::Int4,
            source_type: "integer".into(),
        };
        let schema = TableSchema {
            id: TableId::new("s", "t"),
            columns: vec![column("a"), column("b"), column("c")],
            key: vec![2],
            origin: Origin { columns: vec![1, 2, 3], ..Origin::default() },
        };
        let table = Definition::plain(schema, 1, vec![23, 20, 21]);
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
