//! Failpoints: named places of the protocol at which a test lets the process die, fail or stand still.
//!
//! They are always compiled in and do nothing until [`arm`] is called, which the command does where the environment
//! variable `FAILPOINTS` is set: `commit_sent=2*off->1*return(kill)` passes twice, then kills the process. The grammar
//! is a part of that of the crate `fail`: actions `off`, `return(kill)`, `return(error)` and
//! `return(pause MILLISECONDS)`, each `COUNT*` times or for good, one after the other.

mod plan;

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock, PoisonError},
};

use nix::sys::signal::{Signal, raise};

pub use plan::SpecError;
use plan::{Action, Plan};

/// Every site; the tests visit all of them. A new one is a line here, and the call where it lies.
pub const SITES: [&str; 12] = [
    // A batch of a copy is written.
    "chunk_copied",
    // Files are written, and no commit names them yet.
    "file_put",
    // Before a commit of any Delta table.
    "commit_sent",
    // After it: the commit has landed, and its answer is lost.
    "commit_answered",
    // Dead letters are committed, their table is not.
    "letters_committed",
    // A table of the layer gold is written, and nobody has been told of it.
    "gold_committed",
    // A commit reported an error, and the table is read anew to decide.
    "txn_read",
    // Before a watermark is written, and after it.
    "watermark_sent",
    "watermark_written",
    // The watermark is durable, and the source does not know it yet.
    "confirm_sent",
    // The lease was renewed in the control database.
    "lease_renewed",
    // A takeover has raised the term in one table, maybe not in all.
    "term_raised",
];

/// An error that a test asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the failpoint {0} was told to fail")]
pub struct Injected(pub &'static str);

static PLANS: OnceLock<Mutex<BTreeMap<String, Plan>>> = OnceLock::new();

/// Tells sites what to do, once in the life of a process: `SITE=ACTIONS`, several with `;` between them.
///
/// # Errors
/// If a part is no such thing, or names a site or an action that does not exist.
pub fn arm(spec: &str) -> Result<(), SpecError> {
    let plans = plan::parse(spec)?;
    PLANS.set(Mutex::new(plans)).map_err(|_| SpecError::Armed)
}

/// A site of the protocol.
///
/// # Errors
/// [`Injected`] if it was told to fail.
pub async fn failpoint(site: &'static str) -> Result<(), Injected> {
    debug_assert!(SITES.contains(&site), "{site} is not among SITES");
    let Some(action) = next(site) else { return Ok(()) };
    // Tests read this line.
    tracing::warn!("failpoint {site}: {action}");
    match action {
        Action::Off => {}
        // Cannot fail for one's own process, and does not return.
        Action::Kill => drop(raise(Signal::SIGKILL)),
        Action::Error => return Err(Injected(site)),
        Action::Pause(time) => tokio::time::sleep(time).await,
    }
    Ok(())
}

fn next(site: &str) -> Option<Action> {
    let mut plans = PLANS.get()?.lock().unwrap_or_else(PoisonError::into_inner);
    plans.get_mut(site)?.next().filter(|action| *action != Action::Off)
}
