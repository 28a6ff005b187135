//! Which columns a captured table can have.

use std::collections::HashSet;

use lakeward_change::TableSchema;

use crate::{LakeError, bronze, silver};

/// Delta tables without column mapping refuse some characters, and take names that differ in case for the same.
pub(crate) fn check_columns(table: &TableSchema) -> Result<(), LakeError> {
    let mut seen = HashSet::new();
    for column in &table.columns {
        let name = column.name.to_lowercase();
        let reason = if bronze::ADDED.contains(&name.as_str())
            || name == silver::DELETED
            || name.starts_with(silver::WANTED_KEY)
            || table.counts_rows() && [silver::COUNT, silver::ROW].contains(&name.as_str())
        {
            "has a name that the lake uses itself"
        } else if name.chars().any(|c| " ,;{}()\n\t=".contains(c)) {
            "has a character that a Delta column cannot have: a space or one of ,;{}()="
        } else if !seen.insert(name) {
            "differs from another one only in upper and lower case"
        } else {
            continue;
        };
        return Err(LakeError::Column { table: table.id.to_string(), column: column.name.clone(), reason });
    }
    Ok(())
}

pub(crate) fn check_same(table: &str, before: &TableSchema, now: &TableSchema) -> Result<(), LakeError> {
    let difference = if before.columns.len() != now.columns.len() {
        format!("it had {} columns and has {}", before.columns.len(), now.columns.len())
    } else if let Some((old, new)) = before
        .columns
        .iter()
        .zip(&now.columns)
        .find(|(old, new)| (&old.name, old.column_type) != (&new.name, new.column_type))
    {
        format!(
            "the column {:?} of type {} is now {:?} of type {}",
            old.name, old.source_type, new.name, new.source_type
        )
    } else if before.key != now.key || before.counts_rows() != now.counts_rows() {
        "its key has other columns".to_owned()
    } else {
        return Ok(());
    };
    Err(LakeError::SchemaChanged { table: table.to_owned(), difference })
}
