//! What a connector looks like from outside.

use serde::Serialize;

/// One connector: what Connect says of it, what its database has of it, and what is wrong.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub connector: String,
    /// Connect's word for the connector itself, such as RUNNING or PAUSED; `None` if there is no such connector. It says
    /// nothing of the task.
    pub state: Option<String>,
    pub tasks: Vec<Task>,
    /// `None` if the database could not be asked.
    pub slot: Option<Slot>,
    /// What the publication holds, as `schema.table`.
    pub tables: Vec<String>,
    pub problems: Vec<Problem>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Task {
    pub id: i64,
    /// RUNNING, FAILED, …
    pub state: String,
    /// The cause of a failure, in one line.
    pub error: Option<String>,
}

/// The replication slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Slot {
    pub name: String,
    pub exists: bool,
    /// Debezium reads it now.
    pub active: bool,
    /// The server has removed log that it needed.
    pub lost: bool,
    /// Of the server's log, what is kept for it.
    pub kept_bytes: u64,
}

/// What keeps a connector from its work, or a table out of it, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub what: String,
    pub fix: String,
    /// Changes do not arrive. Otherwise it is a table that was left out.
    pub grave: bool,
}

impl Problem {
    pub(crate) fn grave(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into(), grave: true }
    }
}

impl Report {
    /// Whether the connector does its work.
    pub fn is_well(&self) -> bool {
        self.problems.iter().all(|problem| !problem.grave)
    }
}

impl Slot {
    /// Why changes are lost, if they are; `None` if the slot can be read on.
    pub(crate) fn gone(&self) -> Option<&'static str> {
        match (self.exists, self.lost) {
            (false, _) => Some("missing"),
            (true, true) => Some("invalid: the server has removed its log"),
            (true, false) => None,
        }
    }
}
