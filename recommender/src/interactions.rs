//! Who bought what, and when: read from Arrow, kept as purchase events, summed to pairs.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};

use crate::columns::Table;
use crate::error::Result;
use crate::hold_out::hold_out;
use crate::ids::Ids;
use crate::model::HistoryItem;

/// One item in one basket of one user. Where the data names no basket, all rows of a user at one time are
/// one; without times every row is its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Event {
    pub(crate) user: u32,
    pub(crate) item: u32,
    /// Counts the user's baskets in time order.
    pub(crate) basket: u32,
    /// When, in µs since the epoch; 0 without times.
    pub(crate) at: i64,
    pub(crate) weight: f64,
}

/// A user's dealings with one item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pair {
    pub(crate) item: u32,
    /// The number of baskets that held the item.
    pub(crate) purchases: f64,
    pub(crate) weight: f64,
    /// The last time; `None` without times.
    pub(crate) last_at: Option<i64>,
}

/// Interactions of users with items.
#[derive(Debug, Clone)]
pub struct Interactions {
    pub(crate) users: Ids,
    pub(crate) items: Ids,
    /// By user, basket, item.
    pub(crate) events: Vec<Event>,
    pub(crate) timed: bool,
    /// Whether baskets can hold more than one row.
    pub(crate) basketed: bool,
    rows: usize,
}

/// Each row's index into the distinct ids.
fn indices(ids: &Ids, columns: &[StringArray]) -> Vec<u32> {
    columns.iter().flat_map(|column| column.iter()).filter_map(|id| id.and_then(|id| ids.get(id))).collect()
}

pub(crate) fn distinct(columns: &[StringArray]) -> Ids {
    Ids::new(columns.iter().flat_map(|column| column.iter()).flatten())
}

impl Interactions {
    /// Reads `user_id, item_id[, timestamp][, weight][, basket_id]`; other columns are ignored.
    ///
    /// Ids are integers or text. `timestamp` is a timestamp of any unit, a date, ISO 8601 text, or an
    /// integer since the epoch (seconds to nanoseconds, by magnitude). `weight` is any number greater than
    /// zero; rows of one pair add up. `table` names the data in errors.
    ///
    /// # Errors
    /// A missing column, a type that cannot be read, a null, a weight that is not positive, no rows.
    pub fn from_batches(table: &str, batches: &[RecordBatch]) -> Result<Self> {
        let table = Table { name: table, batches };
        let user_ids = table.ids("user_id")?;
        let item_ids = table.ids("item_id")?;
        // After the columns: a table without rows has to have them, too.
        table.require_rows()?;
        let users = distinct(&user_ids);
        let items = distinct(&item_ids);
        let user = indices(&users, &user_ids);
        let item = indices(&items, &item_ids);
        let rows = user.len();
        let at = match table.has("timestamp") {
            true => Some(table.timestamps("timestamp")?),
            false => None,
        };
        let weight = match table.has("weight") {
            true => Some(table.weights("weight")?),
            false => None,
        };
        let basket = match table.has("basket_id") {
            true => {
                let ids = table.ids("basket_id")?;
                Some(indices(&distinct(&ids), &ids))
            }
            false => None,
        };

        // A basket's key within its user, and the time of its first row.
        let key = |row: usize| match (&basket, &at) {
            (Some(basket), _) => i64::from(basket[row]),
            (None, Some(at)) => at[row],
            (None, None) => row as i64,
        };
        let time = |row: usize| at.as_ref().map_or(0, |at| at[row]);
        let mut order: Vec<(u32, i64, i64, usize)> =
            (0..rows).map(|row| (user[row], key(row), time(row), row)).collect();
        order.sort_unstable();
        let mut started = 0;
        for row in 0..rows {
            if order[row].0 != order[started].0 || order[row].1 != order[started].1 {
                started = row;
            }
            order[row].2 = order[started].2;
        }
        order.sort_unstable_by_key(|&(user, key, at, row)| (user, at, key, item[row], row));

        let mut events: Vec<Event> = Vec::with_capacity(rows);
        let mut previous: Option<(u32, i64)> = None;
        for (user, key, at, row) in order {
            let row_weight = weight.as_ref().map_or(1.0, |weight| weight[row]);
            let basket = match (previous, events.last_mut()) {
                (Some(before), Some(last)) if before == (user, key) => {
                    if last.item == item[row] {
                        if weight.is_some() {
                            last.weight += row_weight;
                        }
                        continue;
                    }
                    last.basket
                }
                (Some(before), Some(last)) if before.0 == user => last.basket + 1,
                _ => 0,
            };
            previous = Some((user, key));
            events.push(Event { user, item: item[row], basket, at, weight: row_weight });
        }
        Ok(Self {
            users,
            items,
            events,
            timed: at.is_some(),
            basketed: basket.is_some() || at.is_some(),
            rows,
        })
    }

    /// The user ids, in order.
    pub fn users(&self) -> &[String] {
        self.users.names()
    }

    /// The item ids, in order.
    pub fn items(&self) -> &[String] {
        self.items.names()
    }

    /// The number of rows read.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of distinct pairs of user and item.
    pub fn pairs(&self) -> usize {
        Histories::new(&self.events, self.users.len(), self.timed).len()
    }

    /// The newest time, µs since the epoch; `None` if the data has no times.
    pub fn last_at(&self) -> Option<i64> {
        self.timed.then(|| self.events.iter().map(|event| event.at).max()).flatten()
    }

    /// What a user bought; empty if unknown.
    pub fn history(&self, user: &str) -> Vec<HistoryItem> {
        let Some(user) = self.users.get(user) else {
            return Vec::new();
        };
        let pairs = pairs(self.events_of(user).iter().copied(), self.timed);
        pairs
            .iter()
            .map(|pair| HistoryItem {
                item: self.items.names()[pair.item as usize].clone(),
                purchases: pair.purchases,
                weight: pair.weight,
                last_at: pair.last_at,
            })
            .collect()
    }

    /// Keeps items that at least `item_baskets` baskets held, then users with at least `user_baskets` baskets
    /// that are not empty by then.
    ///
    /// # Errors
    /// Nothing is left.
    pub fn with_support(&self, item_baskets: usize, user_baskets: usize) -> Result<Self> {
        let mut support = vec![0_usize; self.items.len()];
        for event in &self.events {
            support[event.item as usize] += 1;
        }
        let kept = |event: &Event| support[event.item as usize] >= item_baskets;
        let events: Vec<Event> = self
            .events
            .chunk_by(|a, b| a.user == b.user)
            .filter_map(|events| {
                let events: Vec<Event> = events.iter().copied().filter(kept).collect();
                let baskets = events.chunk_by(|a, b| a.basket == b.basket).count();
                (baskets >= user_baskets).then_some(events)
            })
            .flatten()
            .collect();
        Self::from_batches("interactions with support", &[self.to_batch(&events)])
    }

    /// Splits off each user's last basket as a test set, if the user has two or more: (train, test), in the
    /// columns that [`Self::from_batches`] reads. Without times a basket drawn by `seed` takes the last one's
    /// place, and without baskets a fifth of the user's rows.
    pub fn split_last_basket(&self, seed: u64) -> (RecordBatch, RecordBatch) {
        let held_out = hold_out(self, usize::MAX, seed).events;
        let kept: Vec<bool> = held_out.iter().map(|out| !out).collect();
        (self.to_batch(&self.without(&held_out)), self.to_batch(&self.without(&kept)))
    }

    fn to_batch(&self, events: &[Event]) -> RecordBatch {
        let text = |ids: &Ids, index: fn(&Event) -> u32| -> ArrayRef {
            let names = events.iter().map(|event| &ids.names()[index(event) as usize]);
            Arc::new(StringArray::from_iter_values(names))
        };
        let mut columns = vec![
            ("user_id", text(&self.users, |event| event.user)),
            ("item_id", text(&self.items, |event| event.item)),
            ("weight", Arc::new(Float64Array::from_iter_values(events.iter().map(|event| event.weight)))),
        ];
        if self.timed {
            let times = TimestampMicrosecondArray::from_iter_values(events.iter().map(|e| e.at));
            columns.push(("timestamp", Arc::new(times.with_timezone("UTC"))));
        }
        if self.basketed {
            // Unique within the user is enough: a basket is one user's.
            let baskets = UInt32Array::from_iter_values(events.iter().map(|event| event.basket));
            columns.push(("basket_id", Arc::new(baskets)));
        }
        RecordBatch::try_from_iter(columns).expect("the columns are equally long")
    }

    pub(crate) fn events_of(&self, user: u32) -> &[Event] {
        let start = self.events.partition_point(|event| event.user < user);
        let end = self.events.partition_point(|event| event.user <= user);
        &self.events[start..end]
    }

    /// Adds items that nobody bought, so that they can be ranked as well, below all others.
    pub(crate) fn with_items(self, items: &[String]) -> Self {
        let old = self.items.names();
        let items = Ids::new(old.iter().chain(items).map(String::as_str));
        let moved: Vec<u32> = old.iter().filter_map(|id| items.get(id)).collect();
        let mut events = self.events;
        for event in &mut events {
            event.item = moved[event.item as usize];
        }
        events.sort_unstable_by_key(|event| (event.user, event.basket, event.item));
        Self { items, events, ..self }
    }

    /// The same ids with some events left out (`held_out[event]`).
    pub(crate) fn without(&self, held_out: &[bool]) -> Vec<Event> {
        self.events.iter().zip(held_out).filter_map(|(event, out)| (!out).then_some(*event)).collect()
    }
}

/// Sums one user's events to pairs, ordered by item.
pub(crate) fn pairs(events: impl Iterator<Item = Event>, timed: bool) -> Vec<Pair> {
    let mut events: Vec<Event> = events.collect();
    events.sort_by_key(|event| (event.item, event.basket));
    let mut pairs: Vec<Pair> = Vec::new();
    for event in events {
        match pairs.last_mut() {
            Some(pair) if pair.item == event.item => {
                pair.purchases += 1.0;
                pair.weight += event.weight;
                if timed {
                    pair.last_at = pair.last_at.max(Some(event.at));
                }
            }
            _ => pairs.push(Pair {
                item: event.item,
                purchases: 1.0,
                weight: event.weight,
                last_at: timed.then_some(event.at),
            }),
        }
    }
    pairs
}

/// All users' pairs: the sparse matrix of users × items by rows.
#[derive(Debug, Clone)]
pub(crate) struct Histories {
    offsets: Vec<usize>,
    pairs: Vec<Pair>,
}

impl Histories {
    /// Takes events ordered by user.
    pub(crate) fn new(events: &[Event], users: usize, timed: bool) -> Self {
        let mut offsets = Vec::with_capacity(users + 1);
        let mut all = Vec::new();
        offsets.push(0);
        let mut start = 0;
        for user in 0..users {
            let end = start + events[start..].partition_point(|event| event.user as usize <= user);
            all.extend(pairs(events[start..end].iter().copied(), timed));
            offsets.push(all.len());
            start = end;
        }
        Self { offsets, pairs: all }
    }

    pub(crate) fn users(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(crate) fn of(&self, user: usize) -> &[Pair] {
        &self.pairs[self.offsets[user]..self.offsets[user + 1]]
    }

    pub(crate) fn len(&self) -> usize {
        self.pairs.len()
    }
}
