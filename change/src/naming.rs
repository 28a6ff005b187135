//! What the lake calls a column whose own name it cannot hold.

use std::collections::{BTreeMap, HashSet};

use crate::{Origin, TableSchema};

/// What the lake calls its own columns.
const OWN: [&str; 15] = [
    "_op",
    "_epoch",
    "_commit",
    "_order",
    "_lsn",
    "_txid",
    "_committed_at",
    "_ingested_at",
    "_ingest_date",
    "_unavailable",
    "_old_key",
    "_file",
    "_count",
    "_row",
    crate::RAW,
];
/// With a number after it, a name that the lake uses while it reads.
const KEY: &str = "_key_";
/// Characters that a column of a Delta table cannot have.
const REFUSED: &str = " ,;{}()\n\t=";

impl TableSchema {
    /// What the source calls a column.
    pub fn source_name(&self, column: usize) -> &str {
        let name = &self.columns[column].name;
        self.origin.renamed.get(name).unwrap_or(name)
    }

    /// The table with names that the lake can hold, all different also in lower case. Whatever cannot stay has `_` for
    /// each character that the lake refuses, and a number behind it if that name is taken; others keep theirs.
    #[must_use]
    pub fn named_for_the_lake(self) -> Self {
        let sources: Vec<String> = (0..self.columns.len()).map(|i| self.source_name(i).to_owned()).collect();
        let mut taken = HashSet::new();
        let mut names: Vec<Option<String>> = sources
            .iter()
            .map(|name| (is_fit(name) && taken.insert(name.to_lowercase())).then(|| name.clone()))
            .collect();
        for (name, source) in names.iter_mut().zip(&sources).filter(|(name, _)| name.is_none()) {
            let plain = source.replace(|c| REFUSED.contains(c), "_");
            let mut candidates = std::iter::once(plain.clone()).chain((2..).map(|n| format!("{plain}_{n}")));
            *name = candidates.find(|name| is_fit(name) && taken.insert(name.to_lowercase()));
        }
        let names: Vec<String> = names
            .into_iter()
            .zip(&sources)
            .map(|(name, source)| name.unwrap_or_else(|| source.clone()))
            .collect();
        let renamed: BTreeMap<_, _> =
            names.iter().cloned().zip(sources).filter(|(name, source)| name != source).collect();
        let mut columns = self.columns;
        columns.iter_mut().zip(names).for_each(|(column, name)| column.name = name);
        Self { columns, origin: Origin { renamed, ..self.origin }, ..self }
    }
}

fn is_fit(name: &str) -> bool {
    let lower = name.to_lowercase();
    let is_key = lower.strip_prefix(KEY).is_some_and(|rest| rest.bytes().all(|c| c.is_ascii_digit()));
    !OWN.contains(&lower.as_str()) && !is_key && !name.contains(|c| REFUSED.contains(c))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Column, ColumnType, TableId};

    fn named(names: &[String]) -> TableSchema {
        let column = |name: &String| Column {
            name: name.clone(),
            column_type: ColumnType::Int4,
            source_type: "integer".into(),
        };
        TableSchema {
            id: TableId::new("s", "t"),
            columns: names.iter().map(column).collect(),
            key: vec![0],
            origin: Origin::default(),
        }
        .named_for_the_lake()
    }

    fn names(table: &TableSchema) -> Vec<&str> {
        table.columns.iter().map(|column| column.name.as_str()).collect()
    }

    #[test]
    fn names_that_the_lake_can_hold_stay() {
        let sources = [
            "unit price",
            "unit_price",
            "Price",
            "price",
            "_op",
            "_key_1",
            "_keys",
            "a=b",
            "größe",
            "a;b",
            "_RAW",
        ];
        let table = named(&sources.map(str::to_owned));
        let expected = [
            "unit_price_2",
            "unit_price",
            "Price",
            "price_2",
            "_op_2",
            "_key_1_2",
            "_keys",
            "a_b",
            "größe",
            "a_b_2",
            "_RAW_2",
        ];
        assert_eq!(names(&table), expected);
        assert_eq!((0..sources.len()).map(|i| table.source_name(i)).collect::<Vec<_>>(), sources);
        assert_eq!(table.origin.renamed.len(), 7);
        assert_eq!(table.clone().named_for_the_lake(), table, "naming twice is naming once");
    }

    proptest! {
        #[test]
        fn names_are_fit_and_different_whatever_they_were(
            sources in prop::collection::hash_set("[aA_ ,=2]{1,4}|_op|_OP|_op_2|_key_[0-9]", 1..500),
        ) {
            let sources: Vec<String> = sources.into_iter().collect();
            let table = named(&sources);
            let lower: HashSet<String> = names(&table).iter().map(|name| name.to_lowercase()).collect();
            prop_assert_eq!(lower.len(), sources.len());
            for (index, source) in sources.iter().enumerate() {
                prop_assert!(is_fit(&table.columns[index].name));
                prop_assert_eq!(table.source_name(index), source);
            }
        }
    }
}
