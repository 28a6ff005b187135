//! When a cut is due.

use std::time::Duration;

use tokio::time::Instant;

/// The first cut comes this soon: whoever waits for a pipeline that begins again has waited already.
const FIRST: Duration = Duration::from_millis(500);
/// Who is behind catches up sooner by fewer cuts, each of which has every table written: they may take one part in so
/// many of the time …
const PARTS: u32 = 3;
/// … unless one takes longer than this.
const LONG: Duration = Duration::from_secs(20);

/// The ages at which changes that no cut covers yet are cut.
#[derive(Debug)]
pub(crate) struct Cadence {
    /// The age when all is well.
    flush_age: Duration,
    /// Changes were read that no cut covers, since when.
    dirty: Option<Instant>,
    /// What was read last had been committed long before.
    is_behind: bool,
    began: Instant,
    /// How long the last cut took.
    took: Option<Duration>,
}

impl Cadence {
    pub(crate) fn new(flush_age: Duration, now: Instant) -> Self {
        Self { flush_age, dirty: None, is_behind: false, began: now, took: None }
    }

    /// Changes were read, so long after their commit where that is known.
    pub(crate) fn read(&mut self, late: Option<Duration>, now: Instant) {
        self.dirty.get_or_insert(now);
        self.is_behind = late.map_or(self.is_behind, |late| late > self.flush_age);
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty.is_some()
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.dirty.is_some_and(|since| now - since >= self.age())
    }

    fn age(&self) -> Duration {
        match self.took {
            None => self.flush_age.min(FIRST),
            Some(took) if self.is_behind => self.flush_age.max(PARTS * took.min(LONG)),
            Some(_) => self.flush_age,
        }
    }

    /// A cut covers what was read until now.
    pub(crate) fn begin_cut(&mut self, now: Instant) {
        self.dirty = None;
        self.began = now;
    }

    pub(crate) fn finish_cut(&mut self, now: Instant) {
        self.took = Some(now - self.began);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The age at which the next changes are cut, after a cut that took so long, if they are read so late; in seconds.
    fn age(took: Option<u64>, late: u64) -> f64 {
        let (mut now, flush_age) = (Instant::now(), Duration::from_secs(5));
        let mut cadence = Cadence::new(flush_age, now);
        assert!(!cadence.is_due(now + Duration::from_secs(1000)), "nothing was read");
        if let Some(took) = took {
            cadence.begin_cut(now);
            now += Duration::from_secs(took);
            cadence.finish_cut(now);
        }
        cadence.read(Some(Duration::from_secs(late)), now);
        let halves = |count: u32| Duration::from_millis(500) * count;
        let due = (0..1000).find(|count| cadence.is_due(now + halves(*count))).expect("once it is due");
        cadence.begin_cut(now);
        assert!(!cadence.is_dirty());
        halves(due).as_secs_f64()
    }

    #[test]
    fn cuts_are_seldom_only_while_behind() {
        assert_eq!(age(None, 0), 0.5);
        assert_eq!(age(None, 100), 0.5);
        assert_eq!(age(Some(1), 0), 5.0);
        assert_eq!(age(Some(15), 4), 5.0);
        assert_eq!(age(Some(1), 100), 5.0);
        assert_eq!(age(Some(4), 100), 12.0);
        assert_eq!(age(Some(500), 100), 60.0);
    }
}
