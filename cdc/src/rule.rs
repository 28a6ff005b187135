//! What the configuration says of single tables.

use std::{collections::BTreeSet, sync::Arc};

use lakeward_change::{ColumnType, TableId};

use crate::{PostgresOptions, catalog::Catalog, pattern::Selection, types::NUMERIC};

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
    /// Columns of which the lake gets a salted hash.
    pub hash: Vec<String>,
    /// As [`PostgresOptions::numeric_scale`].
    pub numeric_scale: Option<u8>,
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

/// The columns that rules leave out.
pub(crate) fn left_out<'a>(rules: &'a [TableRule], table: &TableId) -> BTreeSet<&'a str> {
    let rules = rules.iter().filter(|rule| rule.applies_to(table));
    rules.flat_map(|rule| &rule.leave_out).map(String::as_str).collect()
}

/// Gives columns the types that rules say: hashes, and decimals for numerics without a scale of their own. Numerics in
/// a key stay texts, since a key must be held whatever it is.
pub(crate) fn convert(options: &PostgresOptions, catalog: &mut Catalog) {
    for table in &mut catalog.tables {
        let rules: Vec<_> = options.rules.iter().filter(|rule| rule.applies_to(&table.schema.id)).collect();
        let scale = rules.iter().rev().find_map(|rule| rule.numeric_scale).or(options.numeric_scale);
        let schema = Arc::make_mut(&mut table.schema);
        for index in 0..schema.columns.len() {
            let hashed =
                rules.iter().flat_map(|rule| &rule.hash).any(|name| name == schema.source_name(index));
            let is_key = schema.has_key() && schema.key.contains(&index);
            let column_type = &mut schema.columns[index].column_type;
            match scale.and_then(|scale| i8::try_from(scale).ok()) {
                _ if hashed => {
                    *column_type = ColumnType::Hashed { salt: options.salt.mark() };
                    table.salt = options.salt.clone();
                }
                Some(scale)
                    if *column_type == ColumnType::Text && table.base_types[index] == NUMERIC && !is_key =>
                {
                    *column_type = ColumnType::Numeric { precision: 38, scale };
                }
                _ => {}
            }
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
            ..TableRule::default()
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
