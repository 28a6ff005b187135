//! Where behaviour events come in: the contract that they are held to, and the log that takes them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use lakeward_events::Contract;

/// An event's key and bytes.
pub type KeyedEvent<'e> = (Option<String>, &'e [u8]);

/// Takes events for good. The server does not know what is behind it.
pub trait EventLog: Send + Sync {
    /// Returns once all of the events are durable. After an error some of them may be.
    fn append<'e>(&'e self, events: &'e [KeyedEvent<'e>]) -> BoxFuture<'e, Result<(), NotTaken>>;
}

/// The log did not acknowledge the events in time; its own report has the cause.
#[derive(Debug, thiserror::Error)]
#[error("the events were not acknowledged")]
pub struct NotTaken;

/// The door for events.
pub struct EventDoor {
    pub(crate) contract: ArcSwap<Contract>,
    pub(crate) log: Box<dyn EventLog>,
}

impl EventDoor {
    pub fn new(contract: Arc<Contract>, log: Box<dyn EventLog>) -> Self {
        Self { contract: ArcSwap::new(contract), log }
    }

    /// From the next request on events are held to this contract.
    pub fn set_contract(&self, contract: Arc<Contract>) {
        self.contract.store(contract);
    }
}
