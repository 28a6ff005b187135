//! What a changed definition means for the rows that were captured under the one before.

use crate::{Column, Leaf, TableSchema};

/// How a table's definition relates to the one it was captured under.
///
/// In the order of what there is to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evolution {
    /// The captured rows are whole.
    Same,
    /// Partitions came, and every row in them is one that the stream tells of.
    Grown,
    /// Columns came that are null in every row from before; the captured rows are whole with nulls for them.
    Extended,
    /// Rows may have changed without a message: only a new copy is sure. Says why.
    Replaced(String),
}

/// Compares two definitions of one table.
///
/// A rewrite of all rows counts only together with new columns: VACUUM FULL and TRUNCATE rewrite, too, and change
/// nothing that the stream does not tell.
pub fn evolution(before: &TableSchema, now: &TableSchema) -> Evolution {
    let replaced = |reason: String| Evolution::Replaced(reason);
    let known = |number: u32| number != 0;
    if known(before.origin.table) && known(now.origin.table) && before.origin.table != now.origin.table {
        return replaced("it was dropped and created anew".into());
    }
    let rewritten = before.origin.storage != now.origin.storage;
    for (index, column) in before.columns.iter().enumerate() {
        let Some(place) = now.columns.iter().position(|other| other.name == column.name) else {
            return replaced(format!("column {} is gone", column.name));
        };
        if let Some(reason) = retyped(column, &now.columns[place], rewritten) {
            return replaced(reason);
        }
        if let (Some(old), Some(new)) = (before.origin.columns.get(index), now.origin.columns.get(place))
            && old != new
        {
            return replaced(format!("column {} was dropped and added again", column.name));
        }
    }
    if before.origin.whole_rows != now.origin.whole_rows || !before.key_names().eq(now.key_names()) {
        return replaced("its key has other columns".into());
    }
    let mut extended = false;
    for (index, column) in now.columns.iter().enumerate() {
        if before.columns.iter().any(|other| other.name == column.name) {
            continue;
        }
        let filled = now.origin.columns.get(index).is_none_or(|number| now.origin.filled.contains(number));
        if filled || rewritten || !known(now.origin.storage) {
            return replaced(format!(
                "column {} was added, and rows from before may have a value in it",
                column.name
            ));
        }
        extended = true;
    }
    let (before, now) = (&before.origin.leaves, &now.origin.leaves);
    match regrouped(before, now) {
        Some(reason) => replaced(reason),
        None if extended => Evolution::Extended,
        None if now.len() > before.len() => Evolution::Grown,
        None => Evolution::Same,
    }
}

/// Why rows may have come or gone together with a partition.
fn regrouped(before: &[Leaf], now: &[Leaf]) -> Option<String> {
    let find = |leaves: &[Leaf], table| leaves.iter().find(|leaf| leaf.table == table).cloned();
    let gone = before.iter().find_map(|leaf| match find(now, leaf.table) {
        None => Some(format!("partition {} is gone", leaf.name)),
        Some(other) if other.name != leaf.name => {
            Some(format!("partition {} is now {}", leaf.name, other.name))
        }
        Some(_) => None,
    });
    let came = || now.iter().find(|leaf| leaf.filled && find(before, leaf.table).is_none());
    gone.or_else(|| came().map(|leaf| format!("partition {} came, perhaps with rows", leaf.name)))
}

fn retyped(before: &Column, now: &Column, rewritten: bool) -> Option<String> {
    // varchar(10) to text, say, leaves every row as it is; with a rewrite each may be another.
    let changed = before.column_type != now.column_type
        || (before.source_type != now.source_type && rewritten && !before.source_type.is_empty());
    changed.then(|| format!("column {} was {} and is now {}", now.name, before.source_type, now.source_type))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnType, LEAF, Origin, TableId};

    fn table(columns: &[(&str, ColumnType, i16)]) -> TableSchema {
        let column = |&(name, column_type, _): &(&str, ColumnType, i16)| Column {
            name: name.to_owned(),
            column_type,
            source_type: format!("{column_type:?}"),
        };
        TableSchema {
            id: TableId::new("s", "t"),
            columns: columns.iter().map(column).collect(),
            key: vec![0],
            origin: Origin {
                table: 7,
                storage: 8,
                columns: columns.iter().map(|column| column.2).collect(),
                filled: Vec::new(),
                ..Origin::default()
            },
        }
    }

    fn parted(leaves: &[(u32, &str, bool)]) -> TableSchema {
        let mut table = table(&[("id", INT, 1), (LEAF, TEXT, -6)]);
        let leaf = |&(table, name, filled): &(u32, &str, bool)| Leaf { table, name: name.into(), filled };
        table.origin.leaves = leaves.iter().map(leaf).collect();
        table
    }

    const INT: ColumnType = ColumnType::Int4;
    const TEXT: ColumnType = ColumnType::Text;

    fn reason(before: &TableSchema, now: &TableSchema) -> String {
        match evolution(before, now) {
            Evolution::Replaced(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_and_an_empty_new_column_keep_the_rows() {
        let before = table(&[("id", INT, 1), ("a", TEXT, 2)]);
        assert_eq!(evolution(&before, &before), Evolution::Same);
        let vacuumed =
            TableSchema { origin: Origin { storage: 9, ..before.origin.clone() }, ..before.clone() };
        assert_eq!(evolution(&before, &vacuumed), Evolution::Same);
        let extended = table(&[("id", INT, 1), ("a", TEXT, 2), ("b", TEXT, 3)]);
        assert_eq!(evolution(&before, &extended), Evolution::Extended);
        let mut wider = before.clone();
        wider.columns[1].source_type = "character varying".into();
        assert_eq!(evolution(&before, &wider), Evolution::Same);
    }

    #[test]
    fn whatever_may_change_rows_asks_for_a_copy() {
        let before = table(&[("id", INT, 1), ("a", TEXT, 2)]);
        let mut now = table(&[("id", INT, 1), ("a", TEXT, 2), ("b", TEXT, 3)]);
        now.origin.filled = vec![3];
        assert!(reason(&before, &now).contains("column b was added"));
        now.origin = Origin { storage: 9, filled: Vec::new(), ..now.origin };
        assert!(reason(&before, &now).contains("column b was added"));
        assert!(reason(&before, &table(&[("id", INT, 1)])).contains("column a is gone"));
        assert!(reason(&before, &table(&[("id", INT, 1), ("c", TEXT, 2)])).contains("column a is gone"));
        assert!(reason(&before, &table(&[("id", INT, 1), ("a", INT, 2)])).contains("column a was"));
        assert!(reason(&before, &table(&[("id", INT, 1), ("a", TEXT, 3)])).contains("added again"));
        let keyed = TableSchema { key: vec![1], ..before.clone() };
        assert!(reason(&before, &keyed).contains("key"));
        let mut counted = before.clone();
        counted.origin.whole_rows = true;
        assert!(reason(&before, &counted).contains("key"), "equal rows are counted from now on");
        let other = TableSchema { origin: Origin { table: 70, ..before.origin.clone() }, ..before.clone() };
        assert!(reason(&before, &other).contains("created anew"));
        let mut rewritten =
            TableSchema { origin: Origin { storage: 9, ..before.origin.clone() }, ..before.clone() };
        rewritten.columns[1].source_type = "varchar".into();
        assert!(reason(&before, &rewritten).contains("column a was"));
    }

    #[test]
    fn only_partitions_that_may_bring_or_take_rows_ask_for_a_copy() {
        let before = parted(&[(10, "s.a", true), (11, "s.b", false)]);
        let same = parted(&[(11, "s.b", true), (10, "s.a", false)]);
        assert_eq!(evolution(&before, &same), Evolution::Same, "what was there has been copied or streamed");
        let grown = parted(&[(10, "s.a", true), (11, "s.b", false), (12, "s.c", false)]);
        assert_eq!(evolution(&before, &grown), Evolution::Grown);
        let mut wider = grown.clone();
        wider.columns.insert(1, Column { name: "x".into(), ..wider.columns[1].clone() });
        wider.origin.columns = vec![1, 2, -6];
        assert_eq!(evolution(&before, &wider), Evolution::Extended);
        let attached = parted(&[(10, "s.a", true), (11, "s.b", false), (12, "s.c", true)]);
        assert!(reason(&before, &attached).contains("s.c came"));
        assert!(reason(&before, &parted(&[(10, "s.a", true)])).contains("s.b is gone"));
        let renamed = parted(&[(10, "s.a", true), (11, "s.old", false)]);
        assert!(reason(&before, &renamed).contains("s.b is now s.old"));
        let exchanged = parted(&[(10, "s.a", true), (12, "s.b", false)]);
        assert!(reason(&before, &exchanged).contains("s.b is gone"), "dropped and created anew");
    }
}
