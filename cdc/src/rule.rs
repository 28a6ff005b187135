//! What the configuration says of single tables.

use std::collections::BTreeSet;

use lakeward_change::TableId;

use crate::{
    catalog::{Catalog, Obstacle, Skipped},
    pattern::Selection,
};

/// What is done about a table whose definition changes in the source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchemaPolicy {
    /// The lake takes the new definition, with a new copy where rows may have changed without messages.
    #[default]
    Follow,
    /// Columns that come are not captured.
    Ignore,
    /// The table stops; the others go on.
    Stop,
}

/// What holds for the tables that a pattern names.
#[derive(Debug, Clone, Default)]
pub struct TableRule {
    /// As in [`crate::PostgresOptions::include`].
    pub pattern: String,
    pub schema_changes: Option<SchemaPolicy>,
    /// Columns that are not captured.
    pub leave_out: Vec<String>,
}

impl TableRule {
    fn applies_to(&self, table: &TableId) -> bool {
        Selection::new(std::slice::from_ref(&self.pattern), &[]).contains(table)
    }
}

/// The last rule that says something decides.
pub(crate) fn policy(rules: &[TableRule], table: &TableId) -> SchemaPolicy {
    let mut named = rules.iter().rev().filter(|rule| rule.applies_to(table));
    named.find_map(|rule| rule.schema_changes).unwrap_or_default()
}

/// Takes the columns out that rules leave out.
pub(crate) fn leave_out(rules: &[TableRule], catalog: &mut Catalog) {
    for table in std::mem::take(&mut catalog.tables) {
        let id = table.schema.id.clone();
        let left_out: BTreeSet<&String> =
            rules.iter().filter(|rule| rule.applies_to(&id)).flat_map(|rule| &rule.leave_out).collect();
        let names = table.schema.columns.iter().map(|column| &column.name);
        let keep: BTreeSet<String> = names.filter(|name| !left_out.contains(name)).cloned().collect();
        if keep.len() == table.schema.columns.len() {
            catalog.tables.push(table);
            continue;
        }
        match table.with_columns(&keep) {
            Some((table, names)) => {
                catalog.omitted.extend(names.into_iter().map(|name| (id.clone(), name)));
                catalog.tables.push(table);
            }
            None => catalog.skipped.push(Skipped {
                table: id,
                obstacle: Obstacle::of_rights("the configuration leaves out columns of its key", None),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rule_that_says_something_decides() {
        let rule = |pattern: &str, schema_changes| TableRule {
            pattern: pattern.to_owned(),
            schema_changes,
            leave_out: Vec::new(),
        };
        let rules = [
            rule("*", Some(SchemaPolicy::Stop)),
            rule("shop.*", Some(SchemaPolicy::Ignore)),
            rule("shop.orders", None),
        ];
        assert_eq!(policy(&rules, &TableId::new("shop", "orders")), SchemaPolicy::Ignore);
        assert_eq!(policy(&rules, &TableId::new("other", "orders")), SchemaPolicy::Stop);
        assert_eq!(policy(&[], &TableId::new("shop", "orders")), SchemaPolicy::Follow);
    }
}
