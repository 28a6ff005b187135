//! Where the table's columns stand in a row of an event.

use simd_json::Node;

use super::{
    Topic,
    json::{self, Value},
    names::Names,
};

/// A column that the row does not have.
const ABSENT: u32 = u32::MAX;

/// Places of columns, in memory that is used again.
#[derive(Debug)]
pub(super) struct Places(Vec<u32>);

/// Why a row is not the table's.
pub(super) enum Difference {
    /// It cannot be a row of any definition of the table.
    Foreign(&'static str),
    /// The table is another one now.
    Definition(String),
}

impl Places {
    pub(super) fn new(columns: usize) -> Self {
        Self(vec![ABSENT; columns])
    }

    pub(super) fn find(&mut self, row: Value<'_>, called: &Names, topic: &Topic) -> Result<(), Difference> {
        let names = called.columns();
        if !json::is_object(row) {
            return Err(Difference::Foreign("has a row that is no object"));
        }
        self.0.fill(ABSENT);
        let (mut at, mut expected, mut added) = (1, 0, None);
        while let [Node::String(name), value, ..] = &row[at..] {
            // Mostly the fields come in the columns' order.
            let column = match names.get(expected) {
                Some(next) if next == name => Some(expected),
                _ => names.iter().position(|known| known == name),
            };
            match column {
                Some(column) => {
                    let place = u32::try_from(at + 1).unwrap_or(ABSENT);
                    if std::mem::replace(&mut self.0[column], place) != ABSENT {
                        return Err(Difference::Foreign("has a column twice"));
                    }
                    expected = column + 1;
                }
                None if topic.ignores_new || called.is_left_out(name) => {}
                None => added = added.or(Some(*name)),
            }
            at += 1 + json::size(value);
        }
        let (table, leaf) = (&topic.table, topic.table.leaf());
        let is_absent = |column: &usize| {
            self.0[*column] == ABSENT
                && Some(*column) != leaf
                && !topic.came.contains(table.source_name(*column))
        };
        if (0..names.len()).all(|column| self.0[column] == ABSENT) {
            return Err(Difference::Foreign("has a row without any of the table's columns"));
        }
        if let Some(name) = added {
            return Err(Difference::Definition(format!("column {name} was added")));
        }
        match (0..names.len()).find(is_absent) {
            Some(column) => Err(Difference::Definition(format!(
                "column {} is not in its events: it was dropped, or its type is one that the connector leaves out",
                table.source_name(column)
            ))),
            None => Ok(()),
        }
    }

    /// A column's value; `None` if the row does not have it.
    pub(super) fn value<'a>(&self, row: Value<'a>, column: usize) -> Option<Value<'a>> {
        let at = usize::try_from(self.0[column]).ok()?;
        row.get(at..at + json::size(row.get(at)?))
    }
}
