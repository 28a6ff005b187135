//! One memory budget across all lanes.
//!
//! Reading pauses when the lanes hold 85 % of it and resumes at 75 %, so that a lane that is writing is not woken for
//! every row it frees.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

const PAUSE_PERCENT: usize = 85;
const RESUME_PERCENT: usize = 75;

/// Bytes of decoded changes that wait for their commit.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    freed: Notify,
}

/// A share of the budget; dropping it gives the bytes back.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), freed: Notify::new() })
    }

    /// Takes `bytes`, also beyond the limit: what has been read must be held. The caller pauses by [`Self::is_full`].
    pub(crate) fn take(self: &Arc<Self>, bytes: usize) -> Share {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        Share { budget: Arc::clone(self), bytes }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.used() >= self.limit / 100 * PAUSE_PERCENT
    }

    /// Waits until reading may go on.
    pub(crate) async fn has_room(&self) {
        loop {
            let freed = self.freed.notified();
            if self.used() <= self.limit / 100 * RESUME_PERCENT {
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

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
        self.budget.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn one_share_may_exceed_the_limit() {
        let budget = Budget::new(100);
        let share = budget.take(1000);
        assert_eq!(share.bytes(), 1000);
        assert!(budget.is_full());
    }
}
