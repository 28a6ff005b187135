//! What the change stream changes, into Redis.

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lakeward_features::{MemoryStore, OnlineStore};

use crate::{
    CUSTOMER_VIEWS, Online, Result, Row, Stamp,
    keys::Held,
    value::{customer_values, history},
};

/// Without changes, Redis is asked this often whether it has lost what was written.
const PULSE: Duration = Duration::from_secs(2);
/// After a failure.
const PAUSE: Duration = Duration::from_millis(500);
/// What says that nothing was lost is forgotten after this time without a pulse.
const MARK_SECONDS: u64 = 60;
/// Customers whose values are computed and sent at a time.
const CUSTOMERS: usize = 512;

/// Brings the customers' newest features from the store in memory to Redis.
///
/// It knows whose features changed, not how: their values are computed anew, and stand at the store's position. So
/// changes that come faster than Redis takes them meet in one write, and a write may be done twice. What Redis loses
/// (a restart, a failover) is noticed by a mark that each write sets and the next one expects, and everything is written
/// again.
pub struct Publisher {
    online: Online,
    store: Arc<MemoryStore>,
    waiting: Mutex<Waiting>,
    came: tokio::sync::Notify,
    id: String,
}

#[derive(Default)]
struct Waiting {
    all: bool,
    customers: HashSet<i64>,
}

impl Publisher {
    /// Begins with every customer: what has changed since Redis was last written is not known.
    pub fn new(online: Online, store: Arc<MemoryStore>) -> Self {
        let waiting = Mutex::new(Waiting { all: true, ..Waiting::default() });
        Self { online, store, waiting, came: Default::default(), id: uuid::Uuid::new_v4().to_string() }
    }

    /// The features of these customers changed.
    pub fn changed(&self, customers: impl IntoIterator<Item = i64>) {
        self.waiting().customers.extend(customers);
        self.came.notify_one();
    }

    /// The store was loaded anew: the features of anybody may have changed.
    pub fn changed_all(&self) {
        self.waiting().all = true;
        self.came.notify_one();
    }

    /// Publishes for ever. `now` gives the moment that values are for, in microseconds UTC, from the newest time in the
    /// shop's rows. While Redis is away, what changes waits.
    pub async fn run(&self, now: impl Fn(Option<i64>) -> i64) -> Infallible {
        let mut marks: u64 = 0;
        let mut failing = false;
        loop {
            let taken = std::mem::take(&mut *self.waiting());
            match self.publish(&taken, &now, &mut marks).await {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("the online store takes features again");
                    }
                    // Whichever comes first.
                    let _ = tokio::time::timeout(PULSE, self.came.notified()).await;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "features wait for the online store"
                        );
                    }
                    // Some may be in, some not, and what was in before may be gone.
                    {
                        let mut waiting = self.waiting();
                        waiting.all = true;
                        waiting.customers.extend(taken.customers);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Writes what was taken. What comes meanwhile waits for the next time.
    async fn publish(
        &self,
        taken: &Waiting,
        now: &impl Fn(Option<i64>) -> i64,
        marks: &mut u64,
    ) -> Result<()> {
        let customers = if taken.all {
            *marks += 1;
            self.mark(*marks).await?;
            self.everybody(&taken.customers)
        } else {
            taken.customers.iter().copied().collect()
        };
        for customers in customers.chunks(CUSTOMERS) {
            // First the position, then the values, which then stand there or later.
            let status = self.store.status();
            let stamp = Stamp { position: status.position(), event_time: now(status.as_of) };
            let mut rows = CUSTOMER_VIEWS.map(|_| Vec::with_capacity(customers.len()));
            let mut histories = Vec::with_capacity(customers.len());
            for &entity in customers {
                let store = self.store.as_ref();
                histories.push(Row { entity, texts: history(store, entity, stamp.event_time) });
                let values = customer_values(store, entity, stamp.event_time);
                for (rows, (_, texts)) in rows.iter_mut().zip(values) {
                    rows.push(Row { entity, texts });
                }
            }
            self.online.put(Held::History, stamp, &histories).await?;
            for (view, rows) in CUSTOMER_VIEWS.into_iter().zip(rows) {
                self.online.put(view, stamp, &rows).await?;
            }
        }
        *marks += 1;
        if self.mark(*marks).await? != Some(*marks - 1) {
            tracing::warn!("the online store has lost features: all customers' are written again");
            self.changed_all();
        }
        Ok(())
    }

    /// All who have features, and those who had some a moment ago.
    fn everybody(&self, customers: &HashSet<i64>) -> Vec<i64> {
        let ids = self.store.customer_ids();
        let known: HashSet<i64> = ids.iter().copied().collect();
        ids.into_iter().chain(customers.iter().copied().filter(|id| !known.contains(id))).collect()
    }

    /// Sets the mark, and tells the one before. It goes by the connection that the values go by, after them: where it
    /// is, they are.
    async fn mark(&self, mark: u64) -> Result<Option<u64>> {
        let mut command = redis::cmd("SET");
        command.arg(self.online.keys.publisher(&self.id)).arg(mark).arg("EX").arg(MARK_SECONDS).arg("GET");
        Ok(command.query_async(&mut self.online.writer.clone()).await?)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
