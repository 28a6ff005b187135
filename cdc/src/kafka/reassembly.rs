//! The log, put together from what a connector wrote of it: no I/O.
//!
//! Within a partition, events stand in the log's order; so do the ends of transactions in their topic. An end tells how
//! many events each table has of it: those that stand at the heads of the table's partitions. A connector that starts
//! again may repeat itself: what repeats within a transaction is known by its number there, and the events of one that
//! has ended before by the end that they come after. Each end has one transaction after it: events of another one there
//! are no repeats, but those of a transaction whose own end is missing.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use lakeward_change::{ChangeBatch, DeadLetter, Lsn, Position, TableId};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    joined::joined,
    queue::{Piece, Queue, Standing, Wanted},
};
use crate::{Boundary, CdcError, Offsets};

/// So many transactions that have gone on are known by the ends before them.
const FOLLOWERS: usize = 100_000;

/// The end of a transaction.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) xid: i64,
    /// Where the log goes on after it.
    pub(super) end: Lsn,
    /// How many events each of the tables has, by the tables' numbers.
    pub(super) counts: Vec<(usize, i64)>,
    /// In the topic of transactions.
    pub(super) offset: i64,
    /// Of those that were read together.
    pub(super) _room: Option<Arc<OwnedSemaphorePermit>>,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) id: TableId,
    /// What came before is in the lake.
    pub(super) durable: Position,
    pub(super) queues: Vec<Queue>,
    /// How many events of the open transaction have gone on.
    gone: i64,
}

impl Table {
    pub(super) fn new(id: TableId, durable: Position) -> Self {
        Self { id, durable, queues: Vec::new(), gone: 0 }
    }

    fn wanted(&self, end: &End, after: Lsn) -> Wanted {
        Wanted { xid: end.xid, gone: self.gone, after: after.as_i64() }
    }

    fn standing(&self, of: &Wanted) -> Standing {
        let add = |all: Standing, queue: &Queue| {
            let here = queue.standing(of);
            Standing { known: all.known + here.known, unknown: all.unknown + here.unknown }
        };
        self.queues.iter().fold(Standing::default(), add)
    }

    /// Lets events of a transaction go on, up to so many of all that it has.
    fn select(&mut self, of: &Wanted, until: i64, mut unknown: i64, commit: i64) {
        // What the lake has is not needed, whatever it is.
        let commit = Some(commit).filter(|commit| *commit >= self.durable.commit);
        for queue in &mut self.queues {
            queue.select(of, until, &mut unknown, commit);
        }
        self.gone = until;
    }

    /// How many events can go on before all have come: those with none missing before them. So many are held back, since
    /// the last may belong to the next.
    fn prefix(&self, of: &Wanted, held: i64) -> i64 {
        let mut orders: Vec<i64> = self.queues.iter().flat_map(|queue| queue.table_orders(of)).collect();
        orders.sort_unstable();
        let whole = orders.iter().zip(self.gone + 1..).take_while(|(order, next)| *order == next).count();
        self.gone + (whole as i64 - held).max(0)
    }
}

/// The position of a transaction's changes among commits. It compares with a snapshot's LSN and a cut's as that of its
/// commit record does, which lies right before its end.
fn commit(end: &End) -> i64 {
    end.end.as_i64() - 1
}

/// A transaction of which a table's events are not all there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lacking {
    end: Lsn,
    pub(super) table: TableId,
    pub(super) found: i64,
    /// Events that could not be read, and may be those that are missing.
    pub(super) unknown: i64,
    pub(super) expected: i64,
}

/// Changes that go on.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) batches: Vec<ChangeBatch>,
    pub(super) letters: Vec<DeadLetter>,
    pub(super) boundary: Boundary,
    /// Events that had gone on before.
    pub(super) repeats: u64,
}

#[derive(Debug)]
pub(super) struct Reassembly {
    pub(super) tables: Vec<Table>,
    ends: VecDeque<End>,
    /// What committed before has gone on, or is not wanted.
    last: Lsn,
    /// The last end that was passed, and its offset. Events that come after an earlier one are repeats.
    after: Lsn,
    end_offset: i64,
    /// The transactions that have gone on, by the ends before them.
    followers: BTreeMap<i64, i64>,
    /// The end of the transaction whose missing events will not come: those that could not be read are taken for them.
    without: Option<Lsn>,
}

impl Reassembly {
    /// Transactions that end up to `from` do not go on. `end_offset`: where the topic of transactions is read from.
    pub(super) fn new(tables: Vec<Table>, from: Lsn, end_offset: i64) -> Self {
        let (ends, followers) = (VecDeque::new(), BTreeMap::new());
        Self { tables, ends, last: from, after: Lsn(0), end_offset, followers, without: None }
    }

    pub(super) fn push(&mut self, table: usize, queue: usize, piece: Piece) {
        self.tables[table].queues[queue].push(piece);
    }

    pub(super) fn push_end(&mut self, end: End) {
        self.ends.push_back(end);
    }

    /// What the first transaction that waits lacks.
    pub(super) fn lacks(&self) -> Option<Lacking> {
        let end = self.ends.front()?;
        end.counts.iter().find_map(|&(table, expected)| {
            let table = &self.tables[table];
            let Standing { known, unknown } = table.standing(&table.wanted(end, self.after));
            let found = table.gone + known;
            let missing = expected - found - if self.without == Some(end.end) { unknown } else { 0 };
            (missing > 0).then(|| Lacking { end: end.end, table: table.id.clone(), found, unknown, expected })
        })
    }

    /// What the first transaction lacks will not come.
    pub(super) fn do_without(&mut self, lacking: &Lacking) {
        self.without = Some(lacking.end);
    }

    /// The changes of the transactions that are whole, up to about so many rows; of a large one those that can go on
    /// before it is whole. `admits` is asked before a transaction begins. `None` if there is nothing new.
    pub(super) fn take(
        &mut self,
        max_rows: usize,
        mut admits: impl FnMut(Lsn) -> bool,
    ) -> Result<Option<Stretch>, CdcError> {
        let (mut rows, mut moved, mut open) = (0, false, None);
        while let Some(end) = self.ends.front().filter(|_| rows < max_rows) {
            // One that has ended before is told of again.
            if end.end > self.last {
                match self.pass(max_rows, &mut admits)? {
                    Passed::All(passed) => {
                        rows += passed;
                        moved = true;
                    }
                    Passed::Some => {
                        open = Some(Lsn::from_i64(commit(&self.ends[0])));
                        break;
                    }
                    Passed::None => break,
                }
            }
            if let Some(end) = self.ends.pop_front() {
                if Lsn(0) < self.after && self.after < end.end {
                    self.followers.insert(self.after.as_i64(), end.xid);
                    if self.followers.len() > FOLLOWERS {
                        self.followers.pop_first();
                    }
                }
                self.last = self.last.max(end.end);
                self.after = self.after.max(end.end);
                self.end_offset = end.offset;
            }
            self.tables.iter_mut().for_each(|table| table.gone = 0);
        }
        self.check_earlier()?;
        if !moved && open.is_none() {
            return Ok(None);
        }
        let boundary = match open {
            Some(commit) => Boundary::Open { commit },
            None => Boundary::Closed { end: self.last },
        };
        let (mut batches, mut letters, mut repeats) = (Vec::new(), Vec::new(), 0);
        for table in &mut self.tables {
            let selected: Vec<_> =
                table.queues.iter_mut().map(|queue| std::mem::take(&mut queue.selected)).collect();
            if selected.iter().any(|selection| selection.changed) {
                return Err(CdcError::NewRelation { relation: table.id.to_string() });
            }
            repeats += selected.iter().map(|selection| selection.repeats).sum::<u64>();
            letters.extend(selected.iter().flat_map(|selection| selection.letters.iter().cloned()));
            let batch =
                joined(&selected).map_err(|source| CdcError::Batch { table: table.id.clone(), source })?;
            batches.extend(batch);
        }
        Ok(Some(Stretch { batches, letters, boundary, repeats }))
    }

    /// What was passed over as repeats must be of the transactions that have gone on.
    fn check_earlier(&mut self) -> Result<(), CdcError> {
        let Self { tables, followers, .. } = self;
        for table in tables {
            for (after, xid) in table.queues.iter_mut().flat_map(|queue| queue.selected.earlier.drain(..)) {
                if followers.get(&after).is_some_and(|gone| *gone != xid) {
                    return Err(CdcError::NoEnd { table: table.id.clone(), xid });
                }
            }
        }
        Ok(())
    }

    /// Lets the first transaction go on.
    fn pass(&mut self, max_rows: usize, admits: &mut impl FnMut(Lsn) -> bool) -> Result<Passed, CdcError> {
        let (end, after) = (&self.ends[0], self.after);
        for &(table, _) in &end.counts {
            let of = self.tables[table].wanted(end, after);
            self.tables[table].queues.iter_mut().for_each(|queue| queue.clear(&of));
        }
        let (commit, begun) = (commit(end), self.tables.iter().any(|table| table.gone > 0));
        let without = self.without == Some(end.end);
        let (mut lacking, mut waiting) = (false, 0);
        let mut plans = Vec::with_capacity(end.counts.len());
        for &(table, count) in &end.counts {
            let of = self.tables[table].wanted(end, after);
            let Standing { known, unknown } = self.tables[table].standing(&of);
            let missing = count - of.gone - known;
            if missing < 0 {
                let told = "a transaction has more events than its end tells";
                return Err(CdcError::Sequence(format!("{told}, in {}", self.tables[table].id)));
            }
            lacking |= missing > if without { unknown } else { 0 };
            waiting += known;
            plans.push((table, of, count, missing));
        }
        if !lacking {
            if !begun && !admits(Lsn::from_i64(commit)) {
                return Ok(Passed::None);
            }
            for (table, of, count, unknown) in plans {
                self.tables[table].select(&of, count, unknown, commit);
            }
            return Ok(Passed::All(usize::try_from(waiting).unwrap_or_default()));
        }
        let full = plans.iter().any(|(table, ..)| self.tables[*table].queues.iter().any(Queue::is_full));
        if !full && waiting < i64::try_from(max_rows).unwrap_or(i64::MAX) {
            return Ok(Passed::None);
        }
        let prefixes = |held| -> Option<Vec<i64>> {
            let untils = plans.iter().map(|(table, of, ..)| self.tables[*table].prefix(of, held));
            let untils: Vec<i64> = untils.collect();
            plans.iter().zip(&untils).any(|((_, of, ..), until)| *until > of.gone).then_some(untils)
        };
        // Without room nothing more would come.
        let untils = prefixes(1).or_else(|| prefixes(0).filter(|_| full));
        let Some(untils) = untils else { return Ok(Passed::None) };
        if !begun && !admits(Lsn::from_i64(commit)) {
            return Ok(Passed::None);
        }
        for ((table, of, ..), until) in plans.into_iter().zip(untils) {
            self.tables[table].select(&of, until, 0, commit);
        }
        Ok(Passed::Some)
    }

    /// Where a reader has to begin that wants all that has not gone on; of use between two transactions. The topic of
    /// transactions is read again from the last end: it tells repeats.
    pub(super) fn resume_at(&self, transactions: &str) -> Offsets {
        let mut offsets = Offsets::new();
        for queue in self.tables.iter().flat_map(|table| &table.queues) {
            offsets.entry(queue.topic.clone()).or_default().insert(queue.partition, queue.resume_at());
        }
        offsets.entry(transactions.to_owned()).or_default().insert(0, self.end_offset);
        offsets
    }
}

/// What of a transaction went on.
enum Passed {
    /// So many rows.
    All(usize),
    Some,
    None,
}

#[cfg(test)]
mod tests;
