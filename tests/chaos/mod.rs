//! Chaos: a durable Postgres under load, an ingester, and for some minutes whatever may befall them. Every round ends
//! with the proof that nothing was lost and nothing is doubled.
//!
//! `make chaos MINUTES=60` runs it; `SEED=…` repeats the same blows and statements, though not their exact moments.
//! `STACK=1` puts Debezium and Kafka between, and the lake on MinIO; then everything may be struck.

mod blow;
mod disk;
mod load;
mod tally;

use std::{
    collections::BTreeSet,
    env,
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

use lakeward_change::Lsn;
use lakeward_stack::Service;
use nix::sys::signal::Signal;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    services::{Services, connector, lake_url},
    stand::{Background, Stand, json, succeed, text, until},
};
use blow::{Blow, Process};
use disk::Disk;
use load::{Load, Size};
use tally::Tally;

/// A lake that has grown beyond this gives way to a new one: no maintenance runs here.
const LAKE_BYTES: u64 = 3 << 30;
const EMBEDDED: Size = Size { rate: 200, rows: 100_000, pause: Duration::from_millis(30) };
/// The connector reads all rows before it tells of a change, and all services share the machine.
const STACK: Size = Size { rate: 50, rows: 10_000, pause: Duration::from_millis(100) };
/// A reconcile that fails for a passing reason is tried again.
const TRIES: usize = 5;
/// What was committed this long before an end was seen was committed before the end.
const SEEN_LATE: Duration = Duration::from_millis(50);
/// A connector that has not come back by then is helped.
const RESTART_CONNECTORS: Duration = Duration::from_secs(60);
const CATCH_UP: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs for minutes: make chaos MINUTES=5"]
async fn chaos() {
    let number = |name: &str| env::var(name).ok().filter(|text| !text.is_empty());
    let minutes: f64 = number("LAKEWARD_CHAOS_MINUTES").map_or(5.0, |text| text.parse().expect("minutes"));
    let seed: u64 =
        number("LAKEWARD_CHAOS_SEED").map_or_else(rand::random, |text| text.parse().expect("a seed"));
    let on_stack = number("LAKEWARD_CHAOS_STACK").is_some();
    let rounds = number("LAKEWARD_CHAOS_ROUNDS").map_or(u32::MAX, |text| text.parse().expect("rounds"));
    let stack = if on_stack { " STACK=1" } else { "" };
    eprintln!(
        "chaos: seed {seed}, {minutes} minutes; repeat with: make chaos MINUTES={minutes} SEED={seed}{stack}"
    );
    let mut random = StdRng::seed_from_u64(seed);
    let mut chaos = if on_stack { Chaos::on_stack(seed).await } else { Chaos::embedded(seed).await };
    if on_stack && chaos.disk.is_none() {
        eprintln!(
            "no tmpfs may be mounted here: instead of a full disk, files that cannot be put are injected"
        );
    }
    chaos.copy(&mut random).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs_f64(minutes * 60.0)
        && chaos.tally.rounds < rounds
        && chaos.tally.is_whole()
    {
        if chaos.services.is_none() && chaos.lake_bytes() > LAKE_BYTES {
            chaos.stand.lake = tempfile::tempdir().expect("a folder for the lake");
            chaos.copy(&mut random).await;
        }
        let blow = match on_stack {
            true => Blow::on_stack(chaos.tally.rounds, chaos.disk.is_some(), &mut random),
            false => Blow::embedded(chaos.tally.rounds, &mut random),
        };
        chaos.round(blow, &mut random).await;
    }
    chaos.end().await;
}

/// The short form of the same, on all the services.
#[tokio::test(flavor = "multi_thread")]
async fn the_stack_survives_kills_of_worker_connect_and_kafka() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    let mut chaos = Chaos::on_stack(seed).await;
    for process in [Process::Worker, Process::Connect, Process::Kafka] {
        chaos.round(Blow::Kill(vec![process]), &mut random).await;
    }
    chaos.end().await;
}

struct Chaos {
    /// First, since services end before their folder.
    services: Option<Services>,
    /// The object store's own.
    disk: Option<Disk>,
    stand: Stand,
    load: Load,
    tally: Tally,
}

impl Chaos {
    async fn embedded(seed: u64) -> Self {
        let stand = Stand::start(true).await;
        load::prepare(&stand, EMBEDDED.rows).await;
        let load = Load::start(&stand, EMBEDDED, seed);
        Self { services: None, disk: None, stand, load, tally: Tally::new(seed) }
    }

    async fn on_stack(seed: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::mount(&folder.path().join("minio/data"));
        let (services, stand) = Services::start_in(folder, None).await;
        let stand = stand.on_s3(lake_url(), services.s3());
        load::prepare(&stand, STACK.rows).await;
        connectors(&stand, "apply");
        let load = Load::start(&stand, STACK, seed);
        // A truncate waits for the connector's snapshot, and everybody else for the truncate.
        load.compare(true);
        Self { services: Some(services), disk, stand, load, tally: Tally::new(seed) }
    }

    /// Says what was counted; panics if anything is lost or doubled.
    async fn end(self) {
        let Self { services, disk, stand, load, mut tally } = self;
        tally.committed = load.end().await;
        eprintln!("{tally}");
        if !tally.is_whole() {
            panic!("repeat with SEED={}; lake and data are in {:?}", tally.seed, stand.keep());
        }
        if let Some(services) = services {
            services.stop().await;
        }
        // Before the folder that it lies in.
        drop(disk);
    }

    /// A first copy, the ingester struck in the middle of it.
    async fn copy(&mut self, random: &mut StdRng) {
        if self.services.is_none() {
            succeed(self.stand.capture(&["source", "drop"]));
        }
        self.round(Blow::in_a_copy(random), random).await;
    }

    async fn round(&mut self, blow: Blow, random: &mut StdRng) {
        let began = Instant::now();
        self.load.keep_up(&self.stand);
        let flush_seconds = [0.2, 0.5, 1.0, 3.0][random.random_range(0..4)];
        let mut command = self.stand.capture(&["ingest"]);
        command.env("LAKEWARD__INGEST__FLUSH_SECONDS", flush_seconds.to_string());
        command.envs(blow.spec().map(|spec| ("FAILPOINTS", spec)));
        let mut ingester = Background::start(command);
        match &blow {
            Blow::Failpoint { site, action, .. } => self.failpoint(&mut ingester, site, action).await,
            _ => self.strike(&mut ingester, &blow, random).await,
        }
        // Whoever is dead by now was killed on purpose.
        if ingester.ended().is_some() {
            ingester = Background::start(self.stand.capture(&["ingest"]));
        }
        let struck = Instant::now();
        self.catch_up(&mut ingester).await;
        self.tally.recovered(struck.elapsed());
        self.prove(&mut ingester).await;
        self.tally.memory(ingester.peak_memory());
        if random.random_bool(0.5) {
            ingester.interrupt();
        } else {
            let last = self.last_pulse().await;
            ingester.kill();
            let counts = self.in_flight(last).await;
            self.tally.killed(Process::Worker, counts);
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
    async fn strike(&mut self, ingester: &mut Background, blow: &Blow, random: &mut StdRng) {
        sleep(Duration::from_millis(random.random_range(500..6000))).await;
        assert!(ingester.ended().is_none(), "it ended by itself: {}", ingester.said());
        match blow {
            Blow::Kill(processes) => {
                let last = self.last_pulse().await;
                for process in processes {
                    self.kill(*process, ingester).await;
                }
                // The lake says what was in flight, unless it is away itself.
                let is_away = processes.contains(&Process::Minio);
                let mut counts = if is_away { false } else { self.in_flight(last).await };
                sleep(Duration::from_millis(random.random_range(0..1500))).await;
                for process in processes {
                    self.bring_back(*process).await;
                }
                if is_away {
                    counts = self.in_flight(last).await;
                }
                for process in processes {
                    self.tally.killed(*process, counts);
                }
            }
            Blow::Stop(process, time) => {
                self.signal(*process, ingester, Signal::SIGSTOP);
                sleep(*time).await;
                self.signal(*process, ingester, Signal::SIGCONT);
                *self.tally.stopped.entry(*process).or_default() += 1;
            }
            Blow::SlowStore { time } => {
                let began = Instant::now();
                while began.elapsed() < *time {
                    self.signal(Process::Minio, ingester, Signal::SIGSTOP);
                    sleep(Duration::from_millis(random.random_range(100..800))).await;
                    self.signal(Process::Minio, ingester, Signal::SIGCONT);
                    sleep(Duration::from_millis(random.random_range(20..200))).await;
                }
                self.tally.slow += 1;
            }
            Blow::FullDisk { time } => {
                let disk = self.disk.as_ref().expect("a disk that can be full");
                disk.fill();
                sleep(*time).await;
                disk.widen();
                self.tally.full_disks += 1;
            }
            Blow::Rival => {
                // Until the lease of the one before is over it owns nothing.
                self.catch_up(ingester).await;
                let mut rival = Background::start(self.stand.capture(&["ingest"]));
                let held = self.owner().await;
                ingester.signal(Signal::SIGSTOP);
                until("the rival takes over", async || {
                    assert!(rival.ended().is_none(), "it ended by itself: {}", rival.said());
                    self.owner().await > held
                })
                .await;
                ingester.signal(Signal::SIGCONT);
                until("the first one gives way", async || ingester.ended().is_some()).await;
                *ingester = rival;
                self.tally.rivals += 1;
            }
            Blow::Failpoint { .. } => {}
        }
    }

    async fn kill(&mut self, process: Process, ingester: &mut Background) {
        match process {
            Process::Worker => slay(ingester).await,
            Process::Postgres => self.stand.server.kill().expect("Postgres is killed"),
            service => self.service(service).kill().await.expect("it is killed"),
        }
    }

    async fn bring_back(&mut self, process: Process) {
        match process {
            // The round starts another.
            Process::Worker => {}
            // Its backends hold the shared memory until they notice, which a busy one does late.
            Process::Postgres => {
                until("Postgres comes back", async || self.stand.server.restart().await.is_ok()).await;
            }
            service => self.service(service).launch().await.expect("it comes back"),
        }
    }

    fn signal(&mut self, process: Process, ingester: &Background, signal: Signal) {
        match process {
            Process::Worker => ingester.signal(signal),
            Process::Postgres => unreachable!("its many processes are not stopped together"),
            service if signal == Signal::SIGSTOP => self.service(service).pause().expect("it is stopped"),
            service => self.service(service).resume().expect("it goes on"),
        }
    }

    fn service(&mut self, process: Process) -> &mut Service {
        let services = self.services.as_mut().expect("blows at services are for the stack");
        match process {
            Process::Kafka => &mut services.kafka,
            Process::Connect => &mut services.connect,
            Process::Minio => &mut services.minio,
            Process::Redis => &mut services.redis,
            Process::Worker | Process::Postgres => unreachable!("they are none of the services"),
        }
    }

    /// The term of the source's lease.
    async fn owner(&self) -> i64 {
        let url = self.stand.server.url("control");
        load::ask(&url, "select coalesce(max(term), 0) from leases").await.map_or(0, |row| row.get(0))
    }

    /// Waits until what was committed before now is in the lake.
    async fn catch_up(&mut self, ingester: &mut Background) {
        let began = Instant::now();
        let Some(last) = self.last_pulse().await else { return };
        let mut helped = self.services.is_none();
        while self.stand.watermark().await.is_none_or(|watermark| watermark.lsn <= last) {
            assert!(ingester.ended().is_none(), "it ended by itself: {}", ingester.said());
            if began.elapsed() > RESTART_CONNECTORS && !helped {
                // Its tasks do not come back from everything by themselves.
                eprintln!("the connector is restarted: {}", connectors(&self.stand, "status"));
                connectors(&self.stand, "restart");
                self.tally.connectors_restarted += 1;
                helped = true;
            }
            if began.elapsed() > CATCH_UP {
                let status = self.stand.capture(&["status"]).output().expect("it runs");
                panic!("the lake does not catch up: {}\n{}", ingester.said(), text(&status.stdout));
            }
            sleep(Duration::from_millis(100)).await;
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
            self.tally.killed(Process::Worker, counts);
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
            self.evidence(table).await;
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

    /// What Kafka, Postgres and bronze know of the first row that the lake lacks.
    async fn evidence(&self, compared: &Value) {
        let Some(services) = &self.services else { return };
        let named = compared["differences"].as_array().expect("differences");
        let Some(lost) = named.iter().find(|found| found["kind"] == "missing_in_lake") else { return };
        let (table, key) = (text_of(&compared["table"]), text_of(&lost["key"][0]));
        let mut xids = BTreeSet::new();
        for (offset, event) in services.search(&format!("ecommerce.{table}"), &key) {
            eprintln!("{table} {key} at offset {offset}: {event}");
            let event: Value = serde_json::from_str(&event).expect("an event");
            xids.insert(
                text_of(&event["transaction"]["id"]).split(':').next().unwrap_or_default().to_owned(),
            );
        }
        let row = format!("select t.xmin::text, t::text from {table} t where t::text like '%{key}%'");
        if let Some(row) = load::ask(&self.stand.url, &row).await {
            eprintln!("in Postgres, by transaction {}: {}", row.get::<_, String>(0), row.get::<_, String>(1));
            xids.insert(row.get(0));
        }
        let tables = self.stand.watermark().await.expect("a watermark").tables;
        let (_, entry) = tables.iter().find(|(id, _)| id.to_string() == table).expect("a table of the lake");
        for xid in xids {
            let in_bronze = format!("select count(*) from t where _txid = {xid}");
            let count = self.stand.number(&entry.bronze_path, None, &in_bronze).await;
            eprintln!("of transaction {xid} bronze has {count} changes of {table}");
            for (offset, mark) in services.search("ecommerce.transaction", &format!("\"id\":\"{xid}:")) {
                eprintln!("of transaction {xid} at offset {offset}: {mark}");
            }
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

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

async fn slay(ingester: &mut Background) {
    ingester.signal(Signal::SIGKILL);
    until("the ingester is dead", async || ingester.ended().is_some()).await;
}

/// Makes or restarts the connector of all the load's tables, or asks for its state.
fn connectors(stand: &Stand, verb: &str) -> String {
    let shipped = include_str!("../../deploy/debezium/ecommerce-connector.json");
    let mut template: Value = serde_json::from_str(shipped).expect("JSON");
    template["tables"] = serde_json::json!(["public.*", "odd.*"]);
    template["exclude"] = serde_json::json!([]);
    let output = connector(stand, verb, &template).output().expect("it runs");
    assert!(output.status.success() || verb == "status", "{}", text(&output.stderr));
    text(&output.stdout)
}
