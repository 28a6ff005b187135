//! What the source's catalog says of its tables.

mod define;
mod read;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use lakeward_change::{Evolution, TableId, evolution};
use postgres_protocol::escape::escape_identifier;

use crate::{CdcError, definition::Definition, known::Known};

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

impl Catalog {
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

    /// Takes columns out; a table whose key has one of them is skipped because of that.
    pub(crate) fn leave_out(&mut self, is_out: impl Fn(&TableId, &str) -> bool, because: &str) {
        for table in std::mem::take(&mut self.tables) {
            let id = table.schema.id.clone();
            let names =
                (0..table.schema.columns.len()).map(|column| table.schema.source_name(column).to_owned());
            let keep: BTreeSet<String> = names.filter(|name| !is_out(&id, name)).collect();
            if keep.len() == table.schema.columns.len() {
                self.tables.push(table);
                continue;
            }
            match table.with_columns(&keep) {
                Some((table, names)) => {
                    self.omitted.extend(names.into_iter().map(|name| (id.clone(), name)));
                    self.tables.push(table);
                }
                None => {
                    let obstacle = Obstacle::of_rights(format!("{because} columns of its key"), None);
                    self.skipped.push(Skipped { table: id, obstacle });
                }
            }
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
