//! What capture stands on fails for a while: it waits with a clear message, heals by itself and loses nothing.

use std::{process::Command, time::Duration};

use lakeward_change::Lsn;
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    proxy::Proxy,
    stand::{Background, Stand, json, succeed, until},
};

const AWAY: Duration = Duration::from_secs(30);
/// The size of the small disk, and what is written into the source: text that does not compress.
const DISK: &str = "24m";
const ROWS: u32 = 300_000;
/// What the neighbour writes while its slot should not be held, in bytes of log.
const BURST: u64 = 48 << 20;

/// They wait more than they work, so they do it together.
#[tokio::test(flavor = "multi_thread")]
async fn surroundings_fail_and_come_back() {
    tokio::join!(
        Box::pin(postgres_is_away()),
        Box::pin(connections_fall_silent()),
        Box::pin(a_neighbour_is_busy()),
    );
}

async fn shop() -> Stand {
    let stand = Stand::new().await;
    stand.sql("create table t(id bigserial primary key, note text)").await;
    stand.sql("insert into t(note) select 'copied' from generate_series(1, 1000)").await;
    stand.ingest_until_idle();
    stand
}

fn ingest(stand: &Stand) -> Background {
    Background::start(ingest_command(stand))
}

fn ingest_command(stand: &Stand) -> Command {
    let mut command = stand.capture(&["ingest"]);
    command.env("LAKEWARD__INGEST__FLUSH_SECONDS", "0.3");
    command
}

/// Rows that come all the while, also after the server was away.
fn load(url: &str) -> JoinHandle<()> {
    let url = url.to_owned();
    tokio::spawn(async move {
        loop {
            if let Ok(client) = lakeward_postgres::connect(&url).await {
                while client.batch_execute("insert into t(note) values ('live')").await.is_ok() {
                    sleep(Duration::from_millis(20)).await;
                }
            }
            sleep(Duration::from_millis(200)).await;
        }
    })
}

/// What has been written up to now is in a watermark, by the ingester that ran all the while.
async fn catches_up(stand: &Stand, ingester: &mut Background) {
    let client = lakeward_postgres::connect(&stand.server.url("shop")).await.expect("a connection");
    client.batch_execute("insert into t(note) values ('after')").await.expect("it runs");
    let row = client.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.expect("it runs");
    let written: Lsn = row.get::<_, String>(0).parse().expect("an LSN");
    until("the ingester has caught up", async || {
        assert!(ingester.ended().is_none(), "it ended by itself: {}", ingester.said());
        stand.watermark().await.expect("a watermark").lsn >= written
    })
    .await;
}

async fn proven(stand: &Stand) {
    assert_eq!(stand.reconcile().len(), 1);
    let table = stand.watermark().await.expect("a watermark").tables.into_values().next().expect("a table");
    assert_eq!(stand.doubled_in_bronze(&table.bronze_path).await, 0);
}

async fn postgres_is_away() {
    let stand = shop().await;
    let mut ingester = ingest(&stand);
    let load = load(&stand.url);
    catches_up(&stand, &mut ingester).await;
    stand.server.kill().expect("Postgres is killed");
    sleep(AWAY).await;
    assert!(ingester.ended().is_none(), "it ended by itself: {}", ingester.said());
    let said = ingester.said();
    assert!(said.contains("trying again in"), "{said}");
    until("Postgres comes back", async || stand.server.restart().await.is_ok()).await;
    catches_up(&stand, &mut ingester).await;
    load.abort();
    ingester.interrupt();
    proven(&stand).await;
}

async fn connections_fall_silent() {
    let mut stand = shop().await;
    stand.sql("alter system set wal_sender_timeout = '3s'").await;
    stand.sql("select pg_reload_conf()").await;
    let port = stand.server.port();
    let proxy = Proxy::start(port).await;
    let load = load(&stand.url);
    let through = |url: &str| url.replace(&format!(":{port}/"), &format!(":{}/", proxy.port));
    stand.url = through(&stand.url);
    let mut command = ingest_command(&stand);
    command.env("LAKEWARD__CONTROL__URL", through(&stand.server.url("control")));
    let mut ingester = Background::start(command);
    catches_up(&stand, &mut ingester).await;
    proxy.silence_replication();
    catches_up(&stand, &mut ingester).await;
    let said = ingester.said();
    assert!(said.contains("the replication session has ended"), "{said}");
    proxy.silence_all();
    catches_up(&stand, &mut ingester).await;
    let said = ingester.said();
    assert!(said.contains("no answer for 30s"), "{said}");
    let report = json(&succeed(stand.capture(&["reconcile"])));
    assert_eq!(report["ran_ingester"], false, "asked through the control database: {report}");
    load.abort();
    ingester.interrupt();
    proven(&stand).await;
}

async fn a_neighbour_is_busy() {
    let stand = shop().await;
    let mut ingester = ingest(&stand);
    catches_up(&stand, &mut ingester).await;
    let idle = stand.watermark().await.expect("a watermark");
    stand.server.create_database("neighbour").await.expect("a database");
    let neighbour = lakeward_postgres::connect(&stand.server.url("neighbour")).await.expect("a connection");
    neighbour.batch_execute("create table busy(note text)").await.expect("it runs");
    let neighbour = tokio::spawn(async move {
        loop {
            let burst = "insert into busy select repeat('x', 1000) from generate_series(1, 1000)";
            neighbour.batch_execute(burst).await.expect("it runs");
            sleep(Duration::from_millis(100)).await;
        }
    });
    let beyond = idle.lsn.0 + BURST;
    until("the server has let go of what the neighbour wrote", async || {
        assert!(ingester.ended().is_none(), "it ended by itself: {}", ingester.said());
        let kept = "select (restart_lsn - '0/0')::int8 from pg_replication_slots";
        stand.count(kept).await > i64::try_from(beyond).expect("a short log")
    })
    .await;
    neighbour.abort();
    let newest = stand.watermark().await.expect("a watermark");
    assert_eq!(newest.tables, idle.tables, "no table has changed");
    assert_eq!(newest.reason, "idle");
    ingester.interrupt();
    proven(&stand).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_for() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: only root may make a small disk; storms refuse writes at random for everybody");
        return;
    }
    let stand = Stand::new().await;
    let disk = Disk::new(&stand);
    stand.sql("create table t(id bigserial primary key, note text)").await;
    stand.ingest_until_idle();
    let mut ingester = ingest(&stand);
    stand
        .sql(&format!(
            "insert into t(note) select md5(i::text) || md5((-i)::text) from generate_series(1, {ROWS}) i"
        ))
        .await;
    until("the disk is full", async || {
        assert!(ingester.ended().is_none(), "it ended by itself: {}", ingester.said());
        let said = ingester.said();
        said.contains("No space left on device") && said.contains("trying again in")
    })
    .await;
    disk.grow();
    catches_up(&stand, &mut ingester).await;
    ingester.interrupt();
    proven(&stand).await;
}

/// A small file system under the lake.
struct Disk(String);

impl Disk {
    fn new(stand: &Stand) -> Self {
        let folder = stand.lake_path().to_owned();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={DISK}"), "lakeward-test", &folder]);
        succeed(mount);
        Self(folder)
    }

    fn grow(&self) {
        let mut mount = Command::new("mount");
        mount.args(["-o", "remount,size=1g", &self.0]);
        succeed(mount);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: after a failure an ingester may still write.
        let _ = Command::new("umount").args(["-l", &self.0]).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_memory_is_waited_for() {
    let stand = shop().await;
    let mut command = ingest_command(&stand);
    command.env("LAKEWARD__INGEST__MEMORY_MIB", "16").env("FAILPOINTS", "commit_sent=2*return(pause 5000)");
    let mut ingester = Background::start(command);
    stand.sql("insert into t(note) select repeat('x', 100) from generate_series(1, 300000)").await;
    let mut most = 0;
    until("its memory is full", async || {
        let status = json(&succeed(stand.capture(&["status"])));
        most = status["ingester"]["buffered_bytes"].as_u64().unwrap_or_default().max(most);
        let told = status["findings"].to_string();
        told.contains("memory is at its limit")
    })
    .await;
    // What is read when it is nearly full is held, too: one chunk.
    assert!(most <= 20 << 20, "{most} bytes");
    catches_up(&stand, &mut ingester).await;
    ingester.interrupt();
    proven(&stand).await;
}
