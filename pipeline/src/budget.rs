//! One memory budget across all lanes.
//!
//! Reading pauses when the lanes hold 85 % of it and resumes at 75 %, so that a lane that is writing is not woken for
//! every row it frees. What is written at a time is a quarter of it: it is in memory several times over meanwhile.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

const PAUSE_PERCENT: usize = 85;
const RESUME_PERCENT: usize = 75;
/// The part of the budget that is written at a time.
const WRITTEN_AT_ONCE: usize = 4;
const KIB: usize = 1024;

/// Bytes of decoded changes that wait for their commit.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// Of those, what is being written: it is free soon.
    writing: AtomicUsize,
    /// What may be written at a time, in KiB, and what is free of it.
    most_written: u32,
    turns: Semaphore,
    freed: Notify,
}

/// A share of the budget; dropping it gives the bytes back.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
    writing: bool,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        let most_written = u32::try_from(limit / WRITTEN_AT_ONCE / KIB).unwrap_or(u32::MAX);
        let turns = Semaphore::new(most_written as usize);
        let (used, writing, freed) = Default::default();
        Arc::new(Self { limit, used, writing, most_written, turns, freed })
    }

    /// Takes `bytes`, also beyond the limit: what has been read must be held. The caller pauses by [`Self::is_full`].
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Share {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        Share { budget: Arc::clone(self), bytes, writing: false }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.used() >= self.limit / 100 * PAUSE_PERCENT
    }

    /// Reading will not resume by what is being written alone.
    pub(crate) fn must_flush(&self) -> bool {
        let waiting = self.used().saturating_sub(self.writing.load(Ordering::Acquire));
        self.is_full() && waiting > self.resume()
    }

    fn resume(&self) -> usize {
        self.limit / 100 * RESUME_PERCENT
    }

    /// Waits until reading may go on.
    pub(crate) async fn has_room(&self) {
        loop {
            let freed = self.freed.notified();
            if self.used() <= self.resume() {
                return;
            }
            freed.await;
        }
    }
}

impl Share {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Waits until shares of one budget may be written: as long as the value lives.
pub(crate) async fn turn(shares: &mut [Share]) -> Option<SemaphorePermit<'_>> {
    for share in shares.iter_mut() {
        share.writing = true;
        share.budget.writing.fetch_add(share.bytes, Ordering::AcqRel);
    }
    let budget = &shares.first()?.budget;
    let kib = shares.iter().map(Share::bytes).sum::<usize>() / KIB;
    let turn = u32::try_from(kib).unwrap_or(u32::MAX).min(budget.most_written);
    // Nobody closes it.
    budget.turns.acquire_many(turn).await.ok()
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.writing {
            self.budget.writing.fetch_sub(self.bytes, Ordering::AcqRel);
        }
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
        self.budget.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn pauses_at_85_and_resumes_at_75_percent() {
        let budget = Budget::new(1000);
        let first = budget.take(800);
        assert!(!budget.is_full());
        let second = budget.take(60);
        assert!(budget.is_full());

        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.has_room().await }
        });
        drop(second);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "80 % is too full to resume");
        drop(first);
        waiting.await.expect("the waiter ends");
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_quarter_is_written_at_a_time() {
        let budget = Budget::new(100 * KIB);
        let take = || vec![budget.take(10 * KIB), budget.take(10 * KIB)];
        let (mut first, mut second, mut large) = (take(), take(), vec![budget.take(60 * KIB)]);
        assert!(budget.must_flush(), "nobody writes");
        let turn = turn(&mut first).await;
        assert!(super::turn(&mut second).now_or_never().is_none(), "20 and 20 KiB are more");
        drop(turn);
        assert!(!budget.must_flush(), "40 KiB will be free");
        assert!(super::turn(&mut large).now_or_never().is_some(), "more than a quarter is written alone");
        drop((first, second, large));
        assert_eq!((budget.used(), budget.writing.load(Ordering::Acquire)), (0, 0));
    }

    #[test]
    fn one_share_may_exceed_the_limit() {
        let budget = Budget::new(100);
        let share = budget.take(1000);
        assert_eq!(share.bytes(), 1000);
        assert!(budget.is_full());
    }
}
