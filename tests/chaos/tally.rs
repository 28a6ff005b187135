//! What a run of chaos has counted.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use serde_json::Value;

pub struct Tally {
    seed: u64,
    began: Instant,
    pub rounds: u32,
    kills: BTreeMap<&'static str, u32>,
    /// Kills that found nothing in flight.
    idle_kills: u32,
    pub stopped: u32,
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
            kills: BTreeMap::from([("ingester", 0), ("postgres", 0)]),
            idle_kills: 0,
            stopped: 0,
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
    pub fn killed(&mut self, process: &'static str, in_flight: bool) {
        if in_flight {
            *self.kills.entry(process).or_default() += 1;
        } else {
            eprintln!("a kill of the {process} found nothing in flight");
            self.idle_kills += 1;
        }
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
        let kills: Vec<String> =
            self.kills.iter().map(|(process, times)| format!("{process} {times}")).collect();
        let hits: Vec<String> =
            self.hits.iter().map(|((site, action), times)| format!("{site}/{action} {times}")).collect();
        write!(
            f,
            "chaos: seed {}; {minutes:.1} minutes; rounds {}; kills with rows in flight: {}; without: {}; \
             stopped for seconds: {}; failpoints: {}; not reached: {}; transactions on odd tables: {}; \
             rows compared: {}; rows lost: {}; rows doubled: {}",
            self.seed,
            self.rounds,
            kills.join(", "),
            self.idle_kills,
            self.stopped,
            hits.join(", "),
            self.missed,
            self.committed,
            self.rows,
            self.lost,
            self.doubled
        )
    }
}
