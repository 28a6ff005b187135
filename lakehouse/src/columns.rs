//! Which columns a captured table can have.

use lakeward_change::TableSchema;

use crate::LakeError;

/// Refuses names that a source should have exchanged ([`TableSchema::named_for_the_lake`]).
pub(crate) fn check_columns(table: &TableSchema) -> Result<(), LakeError> {
    let named = table.clone().named_for_the_lake();
    let unfit = table.columns.iter().zip(&named.columns).find(|(column, named)| column.name != named.name);
    unfit.map_or(Ok(()), |(column, _)| {
        Err(LakeError::Column { table: table.id.to_string(), column: column.name.clone() })
    })
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

#[cfg(test)]
mod tests {
    use lakeward_change::{Column, ColumnType, Origin, RAW, TableId};

    use super::*;
    use crate::{bronze, rewrite, silver};

    #[test]
    fn no_table_has_a_column_of_the_lakes_own() {
        let own = [silver::COUNT, rewrite::FILE, "_key_0", RAW, "a b"];
        for name in bronze::ADDED.into_iter().chain(own) {
            let column =
                Column { name: name.into(), column_type: ColumnType::Text, source_type: "text".into() };
            let table = TableSchema {
                id: TableId::new("s", "t"),
                columns: vec![column],
                key: vec![0],
                origin: Origin::default(),
            };
            assert!(check_columns(&table).is_err(), "{name}");
            assert!(check_columns(&table.named_for_the_lake()).is_ok(), "{name}");
        }
    }
}
