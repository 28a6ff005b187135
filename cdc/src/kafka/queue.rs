//! What has been read of one partition and waits for its transactions.

use std::{cmp::Ordering, collections::VecDeque, sync::Arc};

use lakeward_change::{ChangeBatch, DeadLetter};
use tokio::sync::OwnedSemaphorePermit;

use super::interruption::Written;
use crate::{debezium::Place, letter::MOST_LETTERS};

/// So many pieces of a partition may wait.
pub(super) const ROOM: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The next row of the piece's changes.
    Row,
    /// The next of the piece's letters.
    Letter,
    /// A change of a table with another definition.
    Changed,
    /// The same, of a snapshot: no change.
    Copied,
}

/// An event of the partition that says something of a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub(super) offset: i64,
    pub(super) what: What,
    /// `None` if it could not be read.
    pub(super) place: Option<Place>,
    /// A hash of what tells its row from the others of its place.
    pub(super) row: u64,
    /// When it came to Kafka, milliseconds UTC.
    pub(super) written_at: i64,
}

/// A stretch of a partition, decoded.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) events: Vec<Event>,
    pub(super) changes: Option<Arc<ChangeBatch>>,
    pub(super) letters: VecDeque<DeadLetter>,
    /// Where the partition goes on.
    pub(super) next_offset: i64,
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

/// Rows and letters of a partition that go on, with their places in the order of commits.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// Changes, the first row, and how many.
    pub(super) segments: Vec<(Arc<ChangeBatch>, usize, usize)>,
    pub(super) commits: Vec<i64>,
    pub(super) orders: Vec<i64>,
    pub(super) letters: Vec<DeadLetter>,
    /// An event of another definition was among them.
    pub(super) changed: bool,
    /// Events that came before them, and had gone on once.
    pub(super) repeats: u64,
    /// The transaction of an event that was passed over, and had never gone on.
    pub(super) missed: Option<i64>,
}

/// How far a partition's events have gone on: those of a transaction stand in the order of the log.
#[derive(Debug, Default)]
struct Gone {
    /// The end that the last one's transaction came after, and the event's own place in the log.
    after: i64,
    lsn: i64,
    /// Those at that place.
    rows: Vec<u64>,
}

impl Gone {
    fn has(&self, place: &Place, row: u64) -> bool {
        match (place.after, place.lsn).cmp(&(self.after, self.lsn)) {
            Ordering::Less => true,
            Ordering::Equal => self.rows.contains(&row),
            Ordering::Greater => false,
        }
    }

    fn note(&mut self, place: &Place, row: u64) {
        if (place.after, place.lsn) != (self.after, self.lsn) {
            (self.after, self.lsn) = (place.after, place.lsn);
            self.rows.clear();
        }
        self.rows.push(row);
    }
}

/// How many events of a transaction stand at the head of a queue.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) known: i64,
    /// Of those that could not be read: they may be the transaction's, a repeat, or a stranger's.
    pub(super) unknown: i64,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) topic: String,
    pub(super) partition: i32,
    pieces: VecDeque<Piece>,
    /// The first event of the first piece that is still there, and how many rows of that piece came before it.
    event: usize,
    row: usize,
    next_offset: i64,
    /// Letters that nobody has asked for yet, by their offsets: they were in the way of what came after them.
    strays: VecDeque<(i64, DeadLetter)>,
    gone: Gone,
    pub(super) selected: Selection,
}

impl Queue {
    pub(super) fn new(topic: String, partition: i32, next_offset: i64) -> Self {
        Self {
            topic,
            partition,
            pieces: VecDeque::new(),
            event: 0,
            row: 0,
            next_offset,
            strays: VecDeque::new(),
            gone: Gone::default(),
            selected: Selection::default(),
        }
    }

    pub(super) fn push(&mut self, piece: Piece) {
        self.next_offset = piece.next_offset;
        if !piece.events.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    /// So many letters stand aside that they are no accident.
    pub(super) fn is_flooded(&self) -> bool {
        self.strays.len() > MOST_LETTERS
    }

    /// Why the last letter that waits is one.
    pub(super) fn strange(&self) -> Option<&str> {
        let waiting = self.strays.iter().map(|(_, letter)| letter);
        let last = waiting.chain(self.pieces.iter().flat_map(|piece| &piece.letters)).next_back();
        last.map(|letter| letter.reason.as_str())
    }

    pub(super) fn is_full(&self) -> bool {
        self.pieces.len() >= ROOM
    }

    /// Where a reader has to begin that wants all that has not gone on.
    pub(super) fn resume_at(&self) -> i64 {
        let stray = self.strays.front().map(|(offset, _)| *offset);
        stray.unwrap_or_else(|| {
            self.pieces.front().map_or(self.next_offset, |piece| piece.events[self.event].offset)
        })
    }

    fn head(&self) -> impl Iterator<Item = &Event> {
        self.pieces.iter().flat_map(|piece| &piece.events).skip(self.event)
    }

    /// Counts the events of a transaction that stand here.
    pub(super) fn standing(&self, of: &Wanted) -> Standing {
        let mut unknown = self.strays.len() as i64;
        let known = self.members(of, |_| unknown += 1).count();
        Standing { known: known as i64, unknown }
    }

    /// The numbers of the transaction's events that stand here among those of the table.
    pub(super) fn table_orders(&self, of: &Wanted) -> Vec<i64> {
        self.members(of, |_| ()).map(|(_, place)| place.table_order).collect()
    }

    /// The first of the transaction's events that stand here.
    pub(super) fn first(&self, of: &Wanted) -> Option<Written> {
        let (event, place) = self.members(of, |_| ()).next()?;
        Some(Written { lsn: place.lsn, events: place.order, at: event.written_at })
    }

    fn members(&self, of: &Wanted, mut unknown: impl FnMut(&Event)) -> impl Iterator<Item = (&Event, Place)> {
        let mut last = of.gone;
        let events = self.head().map_while(move |event| match of.class(event, last) {
            Class::Member(place) => {
                last = place.table_order;
                Some(Some((event, place)))
            }
            Class::Unknown => {
                unknown(event);
                Some(None)
            }
            Class::Dropped => Some(None),
            Class::Later => None,
        });
        events.flatten()
    }

    /// Makes room: events that nobody wants any more go, and letters of which nothing is known stand aside; of more than
    /// [`MOST_LETTERS`] the newest alone where they may be `old`.
    pub(super) fn clear(&mut self, of: &Wanted, old: bool) {
        while let Some(event) = self.pieces.front().map(|piece| piece.events[self.event]) {
            match of.class(&event, of.gone) {
                Class::Dropped => self.pass_over(&event, of),
                Class::Unknown if self.is_full() && event.what == What::Letter => {
                    let letter = self.pieces.front_mut().and_then(|piece| piece.letters.pop_front());
                    self.strays.extend(letter.map(|letter| (event.offset, letter)));
                    if old && self.strays.len() > MOST_LETTERS + 1 {
                        self.strays.pop_front();
                    }
                    self.advance();
                    continue;
                }
                _ => return,
            }
            self.pass(event.what, None);
        }
    }

    /// Lets events of a transaction go on, up to a number among those of the table; with them those before them that could
    /// not be read, and so many of those behind them as `unknown` says. Without a `commit` they just go.
    pub(super) fn select(&mut self, of: &Wanted, until: i64, unknown: &mut i64, commit: Option<i64>) {
        let mut members = self.members(of, |_| ()).filter(|(_, place)| place.table_order <= until).count();
        let mut last = of.gone;
        while (members > 0 || *unknown > 0)
            && let Some((offset, letter)) = self.strays.pop_front()
        {
            *unknown -= i64::from(members == 0);
            let order = self.stray_order(offset);
            self.selected.letters.extend(commit.map(|commit| at(letter, commit, order)));
        }
        while let Some(event) = self.pieces.front().map(|piece| piece.events[self.event]) {
            let order = match of.class(&event, last) {
                Class::Member(place) if place.table_order <= until => {
                    members -= 1;
                    last = place.table_order;
                    self.gone.note(&place, event.row);
                    Some(place.order)
                }
                Class::Unknown if members > 0 || *unknown > 0 => {
                    *unknown -= i64::from(members == 0);
                    Some(self.stray_order(event.offset))
                }
                Class::Dropped => {
                    self.pass_over(&event, of);
                    None
                }
                _ => return,
            };
            self.pass(event.what, commit.zip(order));
        }
    }

    /// Takes note of an event that is not wanted. It is a repeat, unless nothing at its place has gone on.
    fn pass_over(&mut self, event: &Event, of: &Wanted) {
        let place = event.place.filter(|place| event.what != What::Copied && place.after >= of.covered);
        match place {
            Some(place) if !self.gone.has(&place, event.row) => {
                self.selected.missed.get_or_insert(place.xid);
            }
            Some(_) => self.selected.repeats += 1,
            None => {}
        }
    }

    /// Passes the first event, which goes on if it has a position.
    fn pass(&mut self, what: What, position: Option<(i64, i64)>) {
        let Some(piece) = self.pieces.front_mut() else { return };
        let selected = &mut self.selected;
        match (what, position) {
            (What::Row, Some((commit, order))) => {
                if let Some(changes) = &piece.changes {
                    match selected.segments.last_mut() {
                        Some((last, start, length))
                            if Arc::ptr_eq(last, changes) && *start + *length == self.row =>
                        {
                            *length += 1;
                        }
                        _ => selected.segments.push((Arc::clone(changes), self.row, 1)),
                    }
                    selected.commits.push(commit);
                    selected.orders.push(order);
                }
            }
            (What::Changed, Some(_)) => selected.changed = true,
            _ => {}
        }
        match what {
            // Rows both: those of a snapshot are among the piece's changes.
            What::Row | What::Copied => self.row += 1,
            What::Letter => {
                if let (Some(letter), Some((commit, order))) = (piece.letters.pop_front(), position) {
                    selected.letters.push(at(letter, commit, order));
                }
            }
            What::Changed => {}
        }
        self.advance();
    }

    fn advance(&mut self) {
        self.event += 1;
        if self.pieces.front().is_some_and(|piece| piece.events.len() == self.event) {
            self.pieces.pop_front();
            (self.event, self.row) = (0, 0);
        }
    }

    /// A place in a transaction that no other event has.
    fn stray_order(&self, offset: i64) -> i64 {
        -(offset << 16 | i64::from(self.partition)) - 1
    }
}

fn at(mut letter: DeadLetter, commit: i64, order: i64) -> DeadLetter {
    letter.position.commit = commit;
    letter.position.order = order;
    letter
}

/// The transaction whose events are looked for at the heads of a table's queues.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) xid: i64,
    /// How many of its events in the table have gone on.
    pub(super) gone: i64,
    /// What committed before has gone on.
    pub(super) after: i64,
    /// Of transactions that come after an end before this one, the lake has everything.
    pub(super) covered: i64,
}

enum Class {
    Member(Place),
    Unknown,
    /// A repeat, or no change.
    Dropped,
    /// Of a transaction that ends later.
    Later,
}

impl Wanted {
    /// `last`: the number of the event before.
    fn class(&self, event: &Event, last: i64) -> Class {
        match event.place {
            _ if event.what == What::Copied => Class::Dropped,
            None => Class::Unknown,
            Some(place) if place.after < self.after => Class::Dropped,
            Some(place) if place.xid != self.xid => Class::Later,
            Some(place) if place.table_order > last => Class::Member(place),
            Some(_) => Class::Dropped,
        }
    }
}
