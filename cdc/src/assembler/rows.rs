//! What an insert, update, delete or truncate gives.

use lakeward_change::{Lsn, Op};

use super::{Assembler, Change};
use crate::{
    CdcError,
    protocol::{Datum, Old, Tuple},
};

impl Assembler {
    pub(super) fn truncate(&mut self, relations: Vec<u32>, lsn: Lsn) -> Result<(), CdcError> {
        for relation in relations {
            let Some(change) = self.change(relation, lsn)? else { continue };
            let mut nothing = vec![Datum::Null; change.places.len()];
            self.name_leaf(&change, &mut nothing);
            self.push(change.table, Op::Truncate, change.stamp, &nothing, None, 0)?;
        }
        Ok(())
    }

    pub(super) fn insert(&mut self, change: &Change, new: Tuple<'_>) -> Result<(), CdcError> {
        let row = self.row(change, new)?;
        if row.contains(&Datum::Unchanged) {
            return Err(self.bad(change.table, "is inserted and lacks a value"));
        }
        self.push(change.table, Op::Insert, change.stamp, &row, None, new.size())
    }

    pub(super) fn update(
        &mut self,
        change: &Change,
        old: Option<Old<'_>>,
        new: Tuple<'_>,
    ) -> Result<(), CdcError> {
        let table = change.table;
        let key = &self.schema(table).key;
        let mut row = self.row(change, new)?;
        let Some(old) = old else {
            if self.schema(table).counts_rows() || key.iter().any(|&i| row[i] == Datum::Unchanged) {
                return Err(self.bad(table, "is updated and lacks a value of its key"));
            }
            return self.push(table, Op::Update, change.stamp, &row, None, new.size());
        };
        let before = self.row(change, old.tuple())?;
        let whole = matches!(old, Old::Full(_));
        for (i, datum) in row.iter_mut().enumerate() {
            // Key values and the rows of REPLICA IDENTITY FULL are logged in full, TOASTed or not.
            if *datum == Datum::Unchanged && (whole || key.contains(&i)) {
                *datum = before[i];
            }
        }
        let old_key: Vec<_> = key.iter().map(|&i| before[i]).collect();
        let new_key: Vec<_> = key.iter().map(|&i| row[i]).collect();
        if old_key.iter().chain(&new_key).any(|datum| *datum == Datum::Unchanged) {
            return Err(self.bad(table, "is updated and lacks a value of its key"));
        }
        let changed = (old_key != new_key).then_some(old_key.as_slice());
        let size = new.size() + if self.schema(table).counts_rows() { old.tuple().size() } else { 0 };
        self.push(table, Op::Update, change.stamp, &row, changed, size)
    }

    pub(super) fn delete(&mut self, change: &Change, old: Tuple<'_>) -> Result<(), CdcError> {
        let key = &self.schema(change.table).key;
        let mut row = self.row(change, old)?;
        let whole = self.schema(change.table).counts_rows();
        for (i, datum) in row.iter_mut().enumerate() {
            if !whole && !key.contains(&i) {
                *datum = Datum::Null;
            }
        }
        if row.contains(&Datum::Unchanged) {
            return Err(self.bad(change.table, "is deleted and lacks a value of its key"));
        }
        self.push(change.table, Op::Delete, change.stamp, &row, None, if whole { old.size() } else { 0 })
    }

    /// A row's values in the order of the table's columns; what the relation lacks is null.
    fn row<'a>(&self, change: &'a Change, tuple: Tuple<'a>) -> Result<Vec<Datum<'a>>, CdcError> {
        if tuple.len() != change.width {
            return Err(
                self.bad(change.table, "has another number of columns than the description of its table")
            );
        }
        let datums: Vec<_> = tuple.iter().collect();
        let at = |place: &Option<usize>| place.and_then(|place| datums.get(place).copied());
        let mut row: Vec<_> = change.places.iter().map(|place| at(place).unwrap_or(Datum::Null)).collect();
        self.name_leaf(change, &mut row);
        Ok(row)
    }

    /// Says in which partition a row is: the relation is that.
    fn name_leaf<'a>(&self, change: &'a Change, row: &mut [Datum<'a>]) {
        if let (Some(leaf), Some(column)) = (&change.leaf, self.schema(change.table).leaf()) {
            row[column] = Datum::Text(leaf.as_bytes());
        }
    }
}
