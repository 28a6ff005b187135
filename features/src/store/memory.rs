//! The online store in memory.

use std::{
    collections::BTreeSet,
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use arrow::array::{Array, Int64Array, RecordBatch};
use lakeward_change::{ChangeBatch, Lsn, Op, Position};
use tokio::sync::broadcast;

use crate::{
    FeatureError, Result, ShopBatches, ShopNames, ShopTable,
    rfm::Boundaries,
    store::{
        StoreEvent,
        mirror::{Mirror, Settled},
        read,
        rows::{self, NO_EVENT, Rows},
    },
};

/// Events that a subscriber may be behind.
const EVENT_BACKLOG: usize = 4096;

/// The shop's rows in memory, loaded from the lake as of a watermark and kept current by the changes after it.
///
/// Every change counts once: each table has a position, and changes at or before it are skipped. So bronze beyond the
/// watermark and the stream may overlap. Views and carts are counters: an inserted event counts, and neither its update
/// nor its deletion takes it back.
pub struct MemoryStore {
    pub(super) state: RwLock<State>,
    pub(super) events: broadcast::Sender<StoreEvent>,
    pub(super) names: ShopNames,
}

/// What a chunk did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Changes that counted.
    pub changes: u64,
    /// Customers whose orders or events are others than before.
    pub customers: BTreeSet<i64>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) mirror: Mirror,
    pub(super) boundaries: Option<Boundaries>,
    /// By [`ShopTable`]; `None` until a change has come.
    pub(super) positions: [Option<Position>; 5],
    pub(super) committed_at: Option<i64>,
    pub(super) watermark: Option<Lsn>,
    pub(super) changes: u64,
}

/// A change batch of one of the shop's tables, ready to be applied.
struct Changes<'a> {
    table: ShopTable,
    batch: &'a ChangeBatch,
    rows: Rows,
    old_keys: Option<Int64Array>,
}

impl MemoryStore {
    /// From plain batches.
    ///
    /// # Errors
    /// A table's columns or keys are missing or of a wrong type.
    pub fn from_batches(batches: &ShopBatches) -> Result<Self> {
        let mut state = State::default();
        for table in ShopTable::ALL {
            for batch in batches.table(table) {
                state.load(table, batch)?;
            }
        }
        Ok(Self::of(state, ShopNames::default()))
    }

    pub(super) fn of(state: State, names: ShopNames) -> Self {
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let store = Self { state: RwLock::default(), events, names };
        store.replace(state);
        store
    }

    /// Customers are scored as of the newest time in the rows until [`crate::OnlineStore::refresh_scores`] says otherwise.
    pub(super) fn replace(&self, mut state: State) {
        state.mirror.settle();
        state.boundaries = state.mirror.stream_time.and_then(|as_of| read::boundaries(&state.mirror, as_of));
        let mut held = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.mirror.sessions.adopt(std::mem::take(&mut held.mirror.sessions));
        *held = state;
    }

    /// Applies a chunk of changes: readers see all of it or nothing. Changes of other tables and those at or before a
    /// table's position are skipped. Returns the number of changes that counted.
    ///
    /// # Errors
    /// Nothing is applied if a table's columns or keys are missing or of a wrong type, or if a table was copied anew
    /// ([`FeatureError::NewEpoch`]) or a partition emptied ([`FeatureError::PartitionEmptied`]): then load the store again.
    pub fn apply(&self, batches: &[ChangeBatch]) -> Result<u64> {
        self.follow_chunk(batches).map(|applied| applied.changes)
    }

    /// As [`Self::apply`], and tells whose features changed.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn follow_chunk(&self, batches: &[ChangeBatch]) -> Result<Applied> {
        let changes: Vec<_> = batches
            .iter()
            .filter(|batch| batch.table.has_key())
            .filter_map(|batch| Some(Changes::of(self.names.table(&batch.table.id)?, batch)))
            .collect::<Result<_>>()?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for change in &changes {
            if let Some(held) = state.positions[change.table as usize]
                && change.batch.epoch > held.epoch
            {
                return Err(FeatureError::NewEpoch {
                    table: change.table,
                    held: held.epoch,
                    found: change.batch.epoch,
                });
            }
        }
        let mut counted = 0;
        for change in &changes {
            counted += state.apply(change);
        }
        let settled = state.mirror.settle();
        state.changes += counted;
        let events =
            if self.events.receiver_count() > 0 { describe(&state.mirror, &settled) } else { Vec::new() };
        drop(state);
        for event in events {
            // Fails only when the last subscriber has just left.
            let _ = self.events.send(event);
        }
        Ok(Applied { changes: counted, customers: settled.customers })
    }

    /// Takes in events that visitors' trackers told, in the columns of the shop's table `events`: for sessions alone, and
    /// once, whether the shop has them too. Those dated after `until` (microseconds UTC), as by a clock that is wrong, are
    /// in no session. Tells whose sessions changed.
    ///
    /// # Errors
    /// A column is of a wrong type.
    pub fn track(&self, events: &RecordBatch, until: i64) -> Result<BTreeSet<i64>> {
        let rows = Rows::of(ShopTable::Events, events)?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for row in 0..rows.len() {
            let event = rows.event(row);
            if event.time.is_some_and(|time| time <= until) {
                state.mirror.track_event(rows.key(row), &event);
            }
        }
        Ok(state.mirror.settle().customers)
    }

    /// All customers who have an order or an event, in no order.
    pub fn customer_ids(&self) -> Vec<i64> {
        let state = self.read();
        let (buyers, visitors) = (&state.mirror.customer_orders, &state.mirror.interest);
        let others = visitors.keys().filter(|user_id| !buyers.contains_key(user_id)).copied();
        let known = |user_id: &i64| buyers.contains_key(user_id) || visitors.contains_key(user_id);
        let present = state.mirror.sessions.customers().filter(|user_id| !known(user_id));
        buyers.keys().copied().chain(others).chain(present).collect()
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Base rows, which count whatever the position.
    pub(super) fn load(&mut self, table: ShopTable, batch: &RecordBatch) -> Result<()> {
        let rows = Rows::of(table, batch)?;
        for row in 0..rows.len() {
            rows.check_key(row)?;
            self.mirror.put(table, &rows, row, rows.key(row), &|_| false);
        }
        Ok(())
    }

    fn apply(&mut self, change: &Changes<'_>) -> u64 {
        let Changes { table, batch, rows, .. } = change;
        let mut counted = 0;
        for row in 0..batch.num_rows() {
            let position = Position {
                epoch: batch.epoch,
                commit: batch.commits.value(row),
                order: batch.orders.value(row),
            };
            let held = &mut self.positions[*table as usize];
            if held.is_some_and(|held| position <= held) {
                continue;
            }
            *held = Some(position);
            counted += 1;
            if batch.committed_at.is_valid(row) {
                self.committed_at = self.committed_at.max(Some(batch.committed_at.value(row)));
            }
            let unsent = |name: &'static str| change.is_unsent(name, row);
            match batch.ops[row] {
                Op::Read | Op::Insert => self.mirror.put(*table, rows, row, rows.key(row), &unsent),
                // It cannot be told which one it was.
                Op::Update if *table == ShopTable::Events && rows.key(row) == NO_EVENT => {}
                Op::Update => self.mirror.put(*table, rows, row, change.stored_key(row), &unsent),
                Op::Delete => self.mirror.remove(*table, rows.key(row)),
                Op::Truncate => self.mirror.truncate(*table),
            }
        }
        counted
    }
}

impl Mirror {
    fn put(
        &mut self,
        table: ShopTable,
        rows: &Rows,
        row: usize,
        stored: i64,
        unsent: &dyn Fn(&'static str) -> bool,
    ) {
        let key = rows.key(row);
        match table {
            ShopTable::Users => self.put_user(key, &rows.user(row), stored, unsent),
            ShopTable::Products => self.put_product(key, &rows.product(row), stored, unsent),
            ShopTable::Orders => self.put_order(key, &rows.order(row), stored, unsent),
            ShopTable::OrderItems => self.put_item(key, &rows.item(row), stored),
            ShopTable::Events => self.put_event(key, &rows.event(row), stored),
        }
    }

    fn remove(&mut self, table: ShopTable, key: i64) {
        match table {
            ShopTable::Users => self.remove_user(key),
            ShopTable::Products => {
                self.take_product(key);
            }
            ShopTable::Orders => self.remove_order(key),
            ShopTable::OrderItems => self.remove_item(key),
            ShopTable::Events => self.remove_event(key),
        }
    }

    fn truncate(&mut self, table: ShopTable) {
        match table {
            ShopTable::Users => self.users.clear(),
            ShopTable::Products => self.truncate_products(),
            ShopTable::Orders => self.truncate_orders(),
            ShopTable::OrderItems => self.truncate_items(),
            ShopTable::Events => self.truncate_events(),
        }
    }
}

impl<'a> Changes<'a> {
    fn of(table: ShopTable, batch: &'a ChangeBatch) -> Result<Self> {
        let rows = Rows::of(table, &batch.values)?;
        for (row, op) in batch.ops.iter().enumerate() {
            if *op != Op::Truncate {
                rows.check_key(row)?;
            } else if batch.truncated_leaf(row).is_some() {
                return Err(FeatureError::PartitionEmptied { table });
            }
        }
        let old_keys = match &batch.old_keys {
            Some(keys) => Some(rows::old_keys(table, keys)?),
            None => None,
        };
        Ok(Self { table, batch, rows, old_keys })
    }

    /// The key under which the row was held before the change.
    fn stored_key(&self, row: usize) -> i64 {
        let old = self.old_keys.as_ref().filter(|keys| keys.is_valid(row));
        old.map_or_else(|| self.rows.key(row), |keys| keys.value(row))
    }

    fn is_unsent(&self, name: &str, row: usize) -> bool {
        let column = self.batch.table.columns.iter().position(|column| column.name == name);
        column
            .and_then(|column| self.batch.unavailable.get(column)?.as_ref())
            .is_some_and(|mask| mask.is_valid(row) && mask.value(row))
    }
}

fn describe(mirror: &Mirror, settled: &Settled) -> Vec<StoreEvent> {
    let orders = settled.orders.iter().filter_map(|id| read::order(mirror, *id)).map(StoreEvent::Order);
    let minutes = settled.minutes.iter().map(|minute| StoreEvent::Revenue(mirror.minutes.of(*minute)));
    orders.chain(minutes).collect()
}
