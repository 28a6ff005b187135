//! What a run of chaos has counted.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::blow::Process;

pub struct Tally {
    pub seed: u64,
    began: Instant,
    pub rounds: u32,
    kills: BTreeMap<Process, u32>,
    /// Kills that found nothing in flight.
    idle_kills: u32,
    /// Those that stood still for a while.
    pub stopped: BTreeMap<Process, u32>,
    pub slow: u32,
    pub full_disks: u32,
    pub rivals: u32,
    pub connectors_restarted: u32,
    /// From when the round's blow was over until all from before was in the lake.
    recoveries: Vec<Duration>,
    /// The most that a worker had, in MiB.
    memory: u64,
    hits: BTreeMap<(&'static str, &'static str), u32>,
    /// Failpoints that were not visited often enough to strike.
    pub missed: u32,
    /// Transactions of the load of odd tables.
    pub committed: u64,
    rows: u64,
    lost: u64,
    pub doubled: u64,
}

impl Tally {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            began: Instant::now(),
            rounds: 0,
            kills: BTreeMap::new(),
            idle_kills: 0,
            stopped: BTreeMap::new(),
            slow: 0,
            full_disks: 0,
            rivals: 0,
            connectors_restarted: 0,
            recoveries: Vec::new(),
            memory: 0,
            hits: BTreeMap::new(),
            missed: 0,
            committed: 0,
            rows: 0,
            lost: 0,
            doubled: 0,
        }
    }

    pub fn is_whole(&self) -> bool {
        self.lost == 0 && self.doubled == 0
    }

    /// A kill counts only if rows were in flight.
    pub fn killed(&mut self, process: Process, in_flight: bool) {
        if in_flight {
            *self.kills.entry(process).or_default() += 1;
        } else {
            eprintln!("a kill of {process:?} found nothing in flight");
            self.idle_kills += 1;
        }
    }

    pub fn recovered(&mut self, time: Duration) {
        self.recoveries.push(time);
    }

    pub fn memory(&mut self, mib: u64) {
        self.memory = self.memory.max(mib);
    }

    pub fn hit(&mut self, site: &'static str, action: &'static str) {
        *self.hits.entry((site, action)).or_default() += 1;
    }

    /// Takes in a table of `reconcile`'s report, which names the first differing keys only; the others count as lost.
    pub fn compared(&mut self, table: &Value) {
        let differing = table["differing"].as_u64().expect("a count");
        self.rows += table["source_rows"].as_u64().expect("a count");
        if differing == 0 {
            return;
        }
        eprintln!("{table}");
        let named = table["differences"].as_array().expect("differences");
        let extra = named.iter().filter(|found| found["kind"] == "only_in_lake").count() as u64;
        self.doubled += extra;
        self.lost += differing - extra;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = Duration::as_secs_f64(&self.began.elapsed()) / 60.0;
        let each = |counts: &BTreeMap<Process, u32>| {
            let told = counts.iter().map(|(process, times)| format!("{process:?} {times}"));
            told.collect::<Vec<_>>().join(", ").to_lowercase()
        };
        let mut recoveries = self.recoveries.clone();
        recoveries.sort();
        let recovery = |part: usize| {
            recoveries.get((recoveries.len() * part / 100).min(recoveries.len().saturating_sub(1)))
        };
        let seconds = |part| recovery(part).map_or(0.0, Duration::as_secs_f64);
        let hits: Vec<String> =
            self.hits.iter().map(|((site, action), times)| format!("{site}/{action} {times}")).collect();
        write!(
            f,
            "chaos: seed {}; {minutes:.1} minutes; rounds {}; kills with rows in flight: {}; without: {}; \
             stopped for seconds: {}; slow store: {}; full disk: {}; rivals: {}; connectors restarted by hand: {}; \
             failpoints: {}; not reached: {}; caught up after half of the blows in {:.1} s, at most {:.1} s; \
             a worker's memory at most {} MiB; transactions on odd tables: {}; rows compared: {}; rows lost: {}; \
             rows doubled: {}",
            self.seed,
            self.rounds,
            each(&self.kills),
            self.idle_kills,
            each(&self.stopped),
            self.slow,
            self.full_disks,
            self.rivals,
            self.connectors_restarted,
            hits.join(", "),
            self.missed,
            seconds(50),
            seconds(100),
            self.memory,
            self.committed,
            self.rows,
            self.lost,
            self.doubled
        )
    }
}
