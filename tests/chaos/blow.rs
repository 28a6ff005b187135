//! What may befall a capture.

use std::time::Duration;

use lakeward_faults::SITES;
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    Worker,
    Postgres,
    Kafka,
    Connect,
    Minio,
    Redis,
}

#[derive(Debug, Clone)]
pub enum Blow {
    /// One or several at once.
    Kill(Vec<Process>),
    Stop(Process, Duration),
    /// The object store stands still again and again.
    SlowStore {
        time: Duration,
    },
    /// The object store has no room.
    FullDisk {
        time: Duration,
    },
    /// A second worker takes over from one that stands still, which then goes on.
    Rival,
    Failpoint {
        site: &'static str,
        action: &'static str,
        passes: u32,
    },
}

const SERVICES: [Process; 5] =
    [Process::Postgres, Process::Kafka, Process::Connect, Process::Minio, Process::Redis];
/// How many kinds of blows take turns on the stack.
const KINDS: u32 = 13;
/// Longer than a lease.
const LONG_STOP: Duration = Duration::from_secs(30);

impl Blow {
    /// At an ingester that reads from Postgres itself. Each kind comes in turn, so that a short run sees them all.
    pub fn embedded(round: u32, random: &mut StdRng) -> Self {
        match round % 5 {
            0 | 3 => Self::failpoint(random, &SITES[1..]),
            1 => Self::Kill(vec![Process::Postgres]),
            2 => Self::Kill(vec![Process::Worker]),
            _ => Self::Stop(Process::Worker, Duration::from_millis(random.random_range(500..5000))),
        }
    }

    /// At any of the services, each kind in turn.
    pub fn on_stack(round: u32, can_fill: bool, random: &mut StdRng) -> Self {
        match round % KINDS {
            0 | 6 => Self::Kill(vec![Process::Worker]),
            1 => Self::Kill(vec![Process::Kafka]),
            2 => Self::Kill(vec![Process::Connect]),
            3 => Self::Kill(vec![Process::Postgres]),
            4 => Self::Kill(vec![Process::Minio]),
            5 => Self::Rival,
            7 => Self::failpoint(random, &SITES[1..]),
            8 => {
                let mut several: Vec<Process> = SERVICES.sample(random, 2).copied().collect();
                several.push(Process::Worker);
                Self::Kill(several)
            }
            9 => Self::SlowStore { time: Duration::from_secs(10) },
            10 => {
                let stopped = [Process::Worker, Process::Kafka, Process::Connect, Process::Minio];
                Self::Stop(stopped[(round / KINDS) as usize % stopped.len()], LONG_STOP)
            }
            11 if can_fill => Self::FullDisk { time: Duration::from_secs(10) },
            11 => Self::Failpoint { site: "file_put", action: "error", passes: random.random_range(0..12) },
            _ => Self::Kill(vec![Process::Redis]),
        }
    }

    /// One that strikes in the middle of a first copy.
    pub fn in_a_copy(random: &mut StdRng) -> Self {
        match Self::failpoint(random, &SITES) {
            Self::Failpoint { site: "chunk_copied", action, .. } => {
                Self::Failpoint { site: "chunk_copied", action, passes: random.random_range(0..30) }
            }
            other => other,
        }
    }

    fn failpoint(random: &mut StdRng, sites: &[&'static str]) -> Self {
        let actions = ["kill", "kill", "error", "pause 1500"];
        Self::Failpoint {
            site: sites[random.random_range(0..sites.len())],
            action: actions[random.random_range(0..actions.len())],
            passes: random.random_range(0..12),
        }
    }

    /// What `FAILPOINTS` has to be for it.
    pub fn spec(&self) -> Option<String> {
        match self {
            Self::Failpoint { site: "txn_read", action, passes } => {
                Some(format!("commit_answered={passes}*off->1*return(error);txn_read=1*return({action})"))
            }
            Self::Failpoint { site, action, passes } => {
                Some(format!("{site}={passes}*off->1*return({action})"))
            }
            _ => None,
        }
    }
}
