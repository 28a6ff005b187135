//! The log, put together from what a connector wrote of it: no I/O.
//!
//! Within a partition, events stand in the log's order; so do the ends of transactions in their topic. An end tells how
//! many events each table has of it: those that stand at the heads of the table's partitions. A connector that starts
//! again may repeat itself: what repeats within a transaction is known by its number there, and the events of one that
//! has ended before by the end that they come after. What is passed over as a repeat must stand in the log where its
//! partition has been: else no end has counted it, or the connector has counted anew, and its table is to be copied anew.

use std::{collections::VecDeque, sync::Arc};

use lakeward_change::{ChangeBatch, DeadLetter, Lsn, Position, StopCause, StoppedTable, TableId};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    interruption::{Written, may_lack},
    joined::joined,
    queue::{Piece, Queue, Selection, Standing, Wanted},
};
use crate::{
    Boundary, CdcError, Offsets,
    letter::{Flood, MOST_LETTERS, flood},
};

/// No transaction has this number.
const NOBODY: i64 = i64::MIN;

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
    /// The transaction's beginning, if that was read, and its end.
    pub(super) beginning: Option<Written>,
    pub(super) written: Written,
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
    /// None of its changes is in the lake, but a copy is: what cannot be read before the first change may be older than that.
    at_copy: bool,
    flood: Flood,
    /// Too much of it cannot be read: it is to stop.
    hopeless: bool,
    /// It is followed no further.
    stopped: bool,
    /// The last end of which the lake has everything that this table had before it.
    covered: Lsn,
}

impl Table {
    pub(super) fn new(id: TableId, durable: Position) -> Self {
        let at_copy = durable.order == 0;
        Self {
            id,
            durable,
            queues: Vec::new(),
            gone: 0,
            at_copy,
            flood: Flood::default(),
            hopeless: false,
            stopped: false,
            covered: Lsn(0),
        }
    }

    fn wanted(&self, end: &End, after: Lsn) -> Wanted {
        Wanted { xid: end.xid, gone: self.gone, after: after.as_i64(), covered: self.covered.as_i64() }
    }

    /// Whether the lake has all that the table had by this end.
    fn covers(&self, end: &End) -> bool {
        commit(end) < self.durable.commit
    }

    /// What is wanted between two transactions: nothing, so what came before this end may go.
    fn nothing_wanted(&self, after: Lsn) -> Wanted {
        Wanted { xid: NOBODY, gone: 0, after: after.as_i64(), covered: self.covered.as_i64() }
    }

    /// Makes room at the heads of the queues.
    fn clear(&mut self, of: &Wanted) {
        self.queues.iter_mut().for_each(|queue| queue.clear(of, self.at_copy));
    }

    fn standing(&self, of: &Wanted) -> Standing {
        let add = |all: Standing, queue: &Queue| {
            let here = queue.standing(of);
            Standing { known: all.known + here.known, unknown: all.unknown + here.unknown }
        };
        self.queues.iter().fold(Standing::default(), add)
    }

    /// The first of a transaction's events that are there.
    fn first(&self, of: &Wanted) -> Option<Written> {
        self.queues.iter().filter_map(|queue| queue.first(of)).min_by_key(|first| first.events)
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

    /// What has been selected since the last call.
    fn take_selected(&mut self) -> Vec<Selection> {
        self.queues.iter_mut().map(|queue| std::mem::take(&mut queue.selected)).collect()
    }

    /// So much stands aside that nobody has asked for, and that is younger than the table's copy.
    fn is_hopeless(&self) -> bool {
        self.hopeless || !self.at_copy && self.queues.iter().any(Queue::is_flooded)
    }

    /// Why it stops, if with these letters there are too many.
    fn flooded(&mut self, letters: &[DeadLetter]) -> Option<String> {
        let error = if self.is_hopeless() {
            flood(self.queues.iter().find_map(Queue::strange).unwrap_or_default())
        } else {
            let counted = if self.at_copy { &[] } else { letters };
            let mut admitted = counted
                .iter()
                .map(|letter| self.flood.admit(letter.committed_at.unwrap_or_default(), &letter.reason));
            admitted.find_map(Result::err)?
        };
        Some(error.to_string())
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
    /// Its number.
    table: usize,
    found: i64,
    /// Events that could not be read, and may be those that are missing.
    unknown: i64,
    expected: i64,
}

/// Changes that go on.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) batches: Vec<ChangeBatch>,
    pub(super) letters: Vec<DeadLetter>,
    /// Tables that are followed no further: what is here is the last of them.
    pub(super) stopped: Vec<StoppedTable>,
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
    /// The end of the transaction whose missing events will not come: those that could not be read are taken for them.
    without: Option<Lsn>,
}

impl Reassembly {
    /// Transactions that end up to `from` do not go on. `end_offset`: where the topic of transactions is read from.
    pub(super) fn new(mut tables: Vec<Table>, from: Lsn, end_offset: i64) -> Self {
        tables.iter_mut().for_each(|table| table.covered = from);
        Self { tables, ends: VecDeque::new(), last: from, after: Lsn(0), end_offset, without: None }
    }

    pub(super) fn push(&mut self, table: usize, queue: usize, piece: Piece) {
        let table = &mut self.tables[table];
        if !table.stopped {
            table.queues[queue].push(piece);
        }
    }

    pub(super) fn push_end(&mut self, mut end: End) {
        end.counts.retain(|(table, _)| !self.tables[*table].stopped);
        self.ends.push_back(end);
    }

    /// Follows a table no further: the others do not wait for it.
    fn stop(&mut self, table: usize) {
        let stopped = &mut self.tables[table];
        stopped.stopped = true;
        stopped.queues.clear();
        for end in &mut self.ends {
            end.counts.retain(|(of, _)| *of != table);
        }
    }

    /// What the first transaction that waits lacks.
    pub(super) fn lacks(&self) -> Option<Lacking> {
        let end = self.ends.front()?;
        end.counts.iter().find_map(|&(table, expected)| {
            let of = &self.tables[table];
            let Standing { known, unknown } = of.standing(&of.wanted(end, self.after));
            let found = of.gone + known;
            let missing = expected - found - if self.without == Some(end.end) { unknown } else { 0 };
            (missing > 0).then_some(Lacking { end: end.end, table, found, unknown, expected })
        })
    }

    /// What the first transaction lacks will not come. Those of its events that could not be read are taken for it, unless
    /// they are too many.
    ///
    /// # Errors
    /// They are too few.
    pub(super) fn do_without(&mut self, lacking: Lacking) -> Result<(), CdcError> {
        let Lacking { end, table, found, unknown, expected } = lacking;
        let table = &mut self.tables[table];
        if unknown > MOST_LETTERS as i64 {
            table.hopeless = true;
            return Ok(());
        }
        if found + unknown < expected {
            return Err(CdcError::Incomplete { table: table.id.clone(), found, expected });
        }
        self.without = Some(end);
        Ok(())
    }

    /// The changes of the transactions that are whole, up to about so many rows; of a large one those that can go on
    /// before it is whole. `admits` is asked before a transaction begins. `None` if there is nothing new.
    pub(super) fn take(
        &mut self,
        max_rows: usize,
        mut admits: impl FnMut(Lsn) -> bool,
    ) -> Result<Option<Stretch>, CdcError> {
        let (mut rows, mut moved) = (0, false);
        while let Some(end) = self.ends.front().filter(|_| rows < max_rows) {
            // One that has ended before is told of again.
            if end.end > self.last {
                match self.pass(max_rows, &mut admits)? {
                    Passed::All(passed) => {
                        rows += passed;
                        moved = true;
                    }
                    Passed::Some => {
                        moved = true;
                        break;
                    }
                    Passed::None => break,
                }
            }
            if let Some(end) = self.ends.pop_front() {
                self.last = self.last.max(end.end);
                self.after = self.after.max(end.end);
                self.end_offset = end.offset;
                for table in &mut self.tables {
                    table.gone = 0;
                    if table.covers(&end) {
                        table.covered = table.covered.max(end.end);
                    }
                }
            }
        }
        for table in &mut self.tables {
            table.clear(&table.nothing_wanted(self.after));
            if let Some(xid) = table.queues.iter().find_map(|queue| queue.selected.missed) {
                return Err(CdcError::Uncounted { table: table.id.clone(), xid });
            }
        }
        self.collect(moved)
    }

    /// All that has been selected, if anything `moved`; and the tables that stop.
    fn collect(&mut self, moved: bool) -> Result<Option<Stretch>, CdcError> {
        let (mut batches, mut letters, mut stopped, mut repeats) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for number in 0..self.tables.len() {
            let table = &mut self.tables[number];
            // Where nothing goes on, too much may stand aside.
            if !moved && !table.is_hopeless() {
                continue;
            }
            let selected = table.take_selected();
            if selected.iter().any(|selection| selection.changed) {
                return Err(CdcError::NewRelation { relation: table.id.to_string() });
            }
            repeats += selected.iter().map(|selection| selection.repeats).sum::<u64>();
            let begun = letters.len();
            letters.extend(selected.iter().flat_map(|selection| selection.letters.iter().cloned()));
            let batch =
                joined(&selected).map_err(|source| CdcError::Batch { table: table.id.clone(), source })?;
            let flooded = table.flooded(&letters[begun..]);
            table.at_copy &= batch.is_none() && letters.len() == begun;
            batches.extend(batch);
            if let Some(reason) = flooded {
                let (id, cause, complete_to) = (table.id.clone(), StopCause::Rows, self.last);
                stopped.push(StoppedTable { id, reason, cause, complete_to });
                self.stop(number);
            }
        }
        if !moved && stopped.is_empty() {
            return Ok(None);
        }
        let open = self.ends.front().filter(|_| self.tables.iter().any(|table| table.gone > 0));
        let boundary = match open {
            Some(end) => Boundary::Open { commit: Lsn::from_i64(commit(end)) },
            None => Boundary::Closed { end: self.last },
        };
        Ok(Some(Stretch { batches, letters, stopped, boundary, repeats }))
    }

    /// Lets the first transaction go on.
    fn pass(&mut self, max_rows: usize, admits: &mut impl FnMut(Lsn) -> bool) -> Result<Passed, CdcError> {
        let (end, after) = (&self.ends[0], self.after);
        for &(table, _) in &end.counts {
            let of = self.tables[table].wanted(end, after);
            self.tables[table].clear(&of);
        }
        let (commit, begun) = (commit(end), self.tables.iter().any(|table| table.gone > 0));
        let without = self.without == Some(end.end);
        let (mut lacking, mut waiting) = (false, 0);
        let mut plans = Vec::with_capacity(end.counts.len());
        for &(table, count) in &end.counts {
            let of = self.tables[table].wanted(end, after);
            let Standing { known, unknown } = self.tables[table].standing(&of);
            let missing = count - of.gone - known;
            if missing < 0 && !self.tables[table].covers(end) {
                return Err(CdcError::Uncounted { table: self.tables[table].id.clone(), xid: end.xid });
            }
            let missing = missing.max(0);
            lacking |= missing > if without { unknown } else { 0 };
            waiting += known;
            plans.push((table, of, count, missing));
        }
        if !begun && self.tables.iter().any(|table| !table.stopped && !table.covers(end)) {
            let firsts = plans.iter().filter_map(|(table, of, ..)| self.tables[*table].first(of));
            let first = firsts.min_by_key(|first| first.events).or_else(|| (!lacking).then_some(end.written));
            if let (Some(beginning), Some(first)) = (end.beginning, first)
                && may_lack(beginning, first, after.as_i64())
            {
                return Err(CdcError::Interrupted { xid: end.xid });
            }
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
