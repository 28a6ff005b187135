//! What the relations that the stream describes are to us.

use std::sync::Arc;

use lakeward_change::TableId;

use super::{Assembler, Described};
use crate::{CdcError, definition::Definition, protocol::Relation};

impl Assembler {
    pub(super) fn describe(&mut self, relation: &Relation) -> Result<(), CdcError> {
        let id = TableId::new(relation.schema.as_str(), relation.name.as_str());
        let by_oid = self.tables.iter().position(|table| table.definition.oid == relation.id);
        let described = if let Some((table, leaf)) = self.leaves.get(&relation.id) {
            self.fit(*table, Some(leaf), relation, &id)
        } else if let Some(table) = by_oid.or_else(|| self.by_name.get(&id).copied()) {
            self.fit(table, None, relation, &id)
        } else if self.known.has(relation.id)
            || self.transaction.is_some_and(|t| self.known.has_seen(t.begin.xid))
        {
            // Not followed; or it was there once, and is gone with its rows.
            Described::Other
        } else {
            return Err(CdcError::NewRelation { relation: id.to_string() });
        };
        let followed = !matches!(described, Described::Other);
        if self.relations.insert(relation.id, described).is_some() && followed {
            self.described_anew = true;
        }
        Ok(())
    }

    /// What a relation is that has a table's rows.
    fn fit(&self, table: usize, leaf: Option<&Arc<str>>, relation: &Relation, id: &TableId) -> Described {
        let definition = &self.tables[table].definition;
        let leaf = leaf.cloned();
        // A partition's new name is the catalog's to tell.
        let same = if leaf.is_some() { Ok(()) } else { is_same(definition, relation.id, id) };
        let fitting = same.and_then(|()| places(definition, relation));
        match fitting {
            Ok(places) => {
                Described::Table { table, leaf, places: places.into(), width: relation.columns.len() }
            }
            Err(difference) => Described::Unfit(table, format!("its definition changed: {difference}")),
        }
    }
}

fn is_same(table: &Definition, oid: u32, id: &TableId) -> Result<(), String> {
    if oid != table.oid {
        return Err("it was dropped and created anew".into());
    }
    if *id != table.schema.id {
        return Err(format!("it was renamed to {id}"));
    }
    if table.partitioned {
        return Err("its publication did not tell of its partitions".into());
    }
    Ok(())
}

/// Where the table's columns stand in a relation of the stream, or why its rows are not the table's. Columns that the
/// relation does not have yet, since it describes older rows, are null there.
fn places(table: &Definition, relation: &Relation) -> Result<Vec<Option<usize>>, String> {
    let schema = &table.schema;
    for column in &relation.columns {
        let known = table.ignores_new
            || table.left_out.contains(&column.name)
            || (0..schema.columns.len()).any(|known| schema.source_name(known) == column.name);
        if !known {
            return Err(format!("column {} was added", column.name));
        }
    }
    let place = |name: &str| relation.columns.iter().position(|column| column.name == name);
    let places: Vec<_> = (0..schema.columns.len()).map(|column| place(schema.source_name(column))).collect();
    // A column that came later stands behind all others.
    let present = places.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    for (index, (known, types)) in schema.columns.iter().zip(&table.types).enumerate() {
        let is_key = relation.identity == b'f' || schema.key.contains(&index);
        match places[index].map(|place| &relation.columns[place]) {
            None if index < present || is_key => return Err(format!("column {} is gone", known.name)),
            None => {}
            Some(column) if *types != (column.type_oid, column.type_modifier) => {
                return Err(format!("column {} is no longer {}", known.name, known.source_type));
            }
            Some(column) if column.key != is_key && !schema.is_history() => {
                return Err("its key has other columns".into());
            }
            Some(_) => {}
        }
    }
    if relation.identity != table.identity {
        return Err("its REPLICA IDENTITY is another one".into());
    }
    Ok(places)
}
