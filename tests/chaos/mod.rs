//! Chaos: a durable Postgres under load, an ingester, and for some minutes whatever may befall them. Every round ends
//! with the proof that nothing was lost and nothing is doubled.
//!
//! `make chaos MINUTES=60` runs it; `SEED=…` repeats the same blows and statements, though not their exact moments.

mod load;
mod tally;

use std::{
    env,
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

use lakeward_change::Lsn;
use lakeward_faults::SITES;
use nix::sys::signal::Signal;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio::time::sleep;

use crate::stand::{Background, Stand, json, succeed, until};
use load::Load;
use tally::Tally;

/// A lake that has grown beyond this gives way to a new one: no maintenance runs here.
const LAKE_BYTES: u64 = 3 << 30;
/// A reconcile that fails for a passing reason is tried again.
const TRIES: usize = 5;
/// What was committed this long before an end was seen was committed before the end.
const SEEN_LATE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy)]
enum Blow {
    KillIngester,
    KillPostgres,
    Stop(Duration),
    Failpoint { site: &'static str, action: &'static str, passes: u32 },
}

impl Blow {
    /// Each kind comes in turn, so that a short run sees them all.
    fn random(round: u32, random: &mut StdRng) -> Self {
        match round % 5 {
            0 | 3 => Self::failpoint(random, &SITES[1..]),
            1 => Self::KillPostgres,
            2 => Self::KillIngester,
            _ => Self::Stop(Duration::from_millis(random.random_range(500..5000))),
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
    fn spec(self) -> Option<String> {
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

#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs for minutes: make chaos MINUTES=5"]
async fn chaos() {
    let number = |name: &str| env::var(name).ok().filter(|text| !text.is_empty());
    let minutes: f64 = number("LAKEWARD_CHAOS_MINUTES").map_or(5.0, |text| text.parse().expect("minutes"));
    let seed: u64 =
        number("LAKEWARD_CHAOS_SEED").map_or_else(rand::random, |text| text.parse().expect("a seed"));
    eprintln!("chaos: seed {seed}, {minutes} minutes; repeat with: make chaos MINUTES={minutes} SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let stand = Stand::start(true).await;
    load::prepare(&stand).await;
    let load = Load::start(&stand, seed);
    let mut chaos = Chaos { stand, load, tally: Tally::new(seed) };
    chaos.copy(&mut random).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs_f64(minutes * 60.0) && chaos.tally.is_whole() {
        chaos.load.keep_up(&chaos.stand);
        if chaos.lake_bytes() > LAKE_BYTES {
            chaos.stand.lake = tempfile::tempdir().expect("a folder for the lake");
            chaos.copy(&mut random).await;
        }
        let blow = Blow::random(chaos.tally.rounds, &mut random);
        chaos.round(blow, &mut random).await;
    }
    let Chaos { stand, load, mut tally } = chaos;
    tally.committed = load.end().await;
    eprintln!("{tally}");
    if !tally.is_whole() {
        let kept = stand.lake.keep();
        panic!("repeat with: make chaos MINUTES={minutes} SEED={seed}; the lake is in {}", kept.display());
    }
}

struct Chaos {
    stand: Stand,
    load: Load,
    tally: Tally,
}

impl Chaos {
    /// A first copy, the ingester struck in the middle of it.
    async fn copy(&mut self, random: &mut StdRng) {
        succeed(self.stand.capture(&["source", "drop"]));
        let blow = match Blow::failpoint(random, &SITES) {
            Blow::Failpoint { site: "chunk_copied", action, .. } => {
                Blow::Failpoint { site: "chunk_copied", action, passes: random.random_range(0..30) }
            }
            other => other,
        };
        self.round(blow, random).await;
    }

    async fn round(&mut self, blow: Blow, random: &mut StdRng) {
        let began = Instant::now();
        let mut command = self.stand.capture(&["ingest"]);
        let flush_seconds = [0.2, 0.5, 1.0, 3.0][random.random_range(0..4)];
        command.env("LAKEWARD__INGEST__FLUSH_SECONDS", flush_seconds.to_string());
        command.envs(blow.spec().map(|spec| ("FAILPOINTS", spec)));
        let mut ingester = Background::start(command);
        match blow {
            Blow::Failpoint { site, action, .. } => self.failpoint(&mut ingester, site, action).await,
            _ => self.strike(&mut ingester, blow, random).await,
        }
        // Whoever is dead by now was killed on purpose.
        if ingester.ended().is_some() {
            ingester = Background::start(self.stand.capture(&["ingest"]));
        }
        self.prove(&mut ingester).await;
        if random.random_bool(0.5) {
            ingester.interrupt();
        } else {
            let last = self.last_pulse().await;
            ingester.kill();
            let counts = self.in_flight(last).await;
            self.tally.killed("ingester", counts);
        }
        self.tally.rounds += 1;
        let counted = self.tally.is_whole();
        eprintln!(
            "round {}: {blow:?}, cuts every {flush_seconds} s, {:.1} s: {}",
            self.tally.rounds,
            began.elapsed().as_secs_f64(),
            if counted { "whole" } else { "NOT WHOLE" }
        );
    }

    /// A blow from outside, some seconds after the start.
    async fn strike(&mut self, ingester: &mut Background, blow: Blow, random: &mut StdRng) {
        sleep(Duration::from_millis(random.random_range(500..6000))).await;
        assert!(ingester.ended().is_none(), "it ended by itself: {}", ingester.said());
        let last = self.last_pulse().await;
        match blow {
            Blow::KillIngester => {
                slay(ingester).await;
                let counts = self.in_flight(last).await;
                self.tally.killed("ingester", counts);
            }
            Blow::KillPostgres => {
                self.stand.server.kill().expect("Postgres is killed");
                let counts = self.in_flight(last).await;
                self.tally.killed("postgres", counts);
                sleep(Duration::from_millis(random.random_range(0..1500))).await;
                // Its backends hold the shared memory until they notice, which a busy one does late.
                until("Postgres comes back", async || self.stand.server.restart().await.is_ok()).await;
            }
            Blow::Stop(time) => {
                ingester.signal(Signal::SIGSTOP);
                sleep(time).await;
                ingester.signal(Signal::SIGCONT);
                self.tally.stopped += 1;
            }
            Blow::Failpoint { .. } => {}
        }
    }

    /// Waits for a failpoint that the ingester was started with.
    async fn failpoint(&mut self, ingester: &mut Background, site: &'static str, action: &'static str) {
        let line = format!("failpoint {site}: {action}");
        let began = Instant::now();
        let mut pulses = Vec::new();
        loop {
            pulses.push((Instant::now(), self.last_pulse().await));
            let ended = ingester.ended();
            if ingester.said().contains(&line) {
                self.tally.hit(site, action);
                break;
            }
            assert!(ended.is_none(), "it ended by itself: {}", ingester.said());
            // Not every site is visited so often, if cuts are slow.
            if began.elapsed() > Duration::from_secs(90) {
                self.tally.missed += 1;
                // It would strike later, when nobody expects it.
                slay(ingester).await;
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        if action == "kill" {
            until("the ingester is dead", async || ingester.ended().is_some()).await;
            assert_eq!(ingester.ended().and_then(|status| status.signal()), Some(9));
            let end = Instant::now() - SEEN_LATE;
            let last = pulses.iter().rev().find(|(at, _)| *at < end).and_then(|(_, last)| *last);
            let counts = self.in_flight(last).await;
            self.tally.killed("ingester", counts);
        }
    }

    /// Compares lake and source at one point, and looks for positions that come twice.
    async fn prove(&mut self, ingester: &mut Background) {
        // A copy holds the slot, too.
        until("the first copy is whole", async || {
            assert!(ingester.ended().is_none(), "it ended by itself: {}", ingester.said());
            self.stand.watermark().await.is_some()
        })
        .await;
        let held = "select count(*) from pg_replication_slots where active";
        until("the ingester reads its slot", async || {
            assert!(ingester.ended().is_none(), "it ended by itself: {}", ingester.said());
            load::ask(&self.stand.url, held).await.is_some_and(|row| row.get::<_, i64>(0) == 1)
        })
        .await;
        self.load.compare(true);
        let report = self.reconcile().await;
        self.load.compare(false);
        for table in report["tables"].as_array().expect("tables") {
            self.tally.compared(table);
        }
        assert_eq!(report["not_compared"], serde_json::json!([]), "{report}");
        for (id, table) in self.stand.watermark().await.expect("a watermark").tables {
            let doubled = self.stand.doubled_in_bronze(&table.bronze_path).await;
            if doubled != 0 {
                eprintln!("{id}: {doubled} changes are in bronze twice");
            }
            self.tally.doubled += doubled.unsigned_abs();
        }
    }

    async fn reconcile(&self) -> Value {
        for tries in 1.. {
            let output = self.stand.capture(&["reconcile"]).output().expect("it runs");
            let report = json(&output);
            if report["tables"].is_array() {
                return report;
            }
            assert!(report["retryable"] == true && tries < TRIES, "reconcile gives no answer: {report}");
            eprintln!("reconcile is tried again: {}", report["error"]);
            sleep(Duration::from_secs(2)).await;
        }
        Value::Null
    }

    /// The position that the newest pulse was written at; none while Postgres does not answer.
    async fn last_pulse(&self) -> Option<Lsn> {
        let row =
            load::ask(&self.stand.url, "select lsn::text from odd.pulses order by id desc limit 1").await?;
        row.get::<_, String>(0).parse().ok()
    }

    /// Whether what had committed when `last` was seen is beyond the newest watermark.
    async fn in_flight(&self, last: Option<Lsn>) -> bool {
        let durable = self.stand.watermark().await.map(|watermark| watermark.lsn);
        last.is_some_and(|last| durable.is_none_or(|durable| last >= durable))
    }

    fn lake_bytes(&self) -> u64 {
        let mut folders = vec![self.stand.lake.path().to_owned()];
        let mut bytes = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
                match entry.metadata() {
                    Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                    Ok(metadata) => bytes += metadata.len(),
                    // Gone since.
                    Err(_) => {}
                }
            }
        }
        bytes
    }
}

async fn slay(ingester: &mut Background) {
    ingester.signal(Signal::SIGKILL);
    until("the ingester is dead", async || ingester.ended().is_some()).await;
}
