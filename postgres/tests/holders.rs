//! Several processes with one server. The other processes are this test binary itself.

use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lakeward_postgres::{EmbeddedOptions, EmbeddedPostgres, connect};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid};

use crate::{options, server, text};

const FOLDER: &str = "LAKEWARD_TEST_SERVER";

#[tokio::test]
#[ignore = "a process of its own for the other tests"]
async fn holder() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let options = EmbeddedOptions { fsync: false, ..EmbeddedOptions::new(folder) };
    let server = EmbeddedPostgres::start(options).await.unwrap();
    // The harness leaves an unfinished line before the first output.
    println!("\nholding {}", server.url("postgres"));
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).unwrap();
    server.stop().await.unwrap();
}

/// A process that holds the server until its input ends.
struct Holder {
    process: Child,
    url: String,
}

impl Holder {
    fn spawn(folder: &Path) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(["holders::holder", "--exact", "--ignored", "--nocapture"])
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let url = output.find_map(|line| line.strip_prefix("holding ").map(str::to_owned)).unwrap();
        // Its harness still has something to print.
        std::thread::spawn(move || output.for_each(drop));
        Self { process, url }
    }

    fn leave(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Waits until no process of the server lives: each of them inherited the lock of this file.
fn await_end(folder: &Path) {
    let alive = File::open(folder.join("server.lock")).unwrap();
    let began = Instant::now();
    while alive.try_lock().is_err() {
        assert!(began.elapsed() < Duration::from_secs(40), "the server is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The shell that guards the server leads its process group.
fn guard(server: &EmbeddedPostgres) -> Pid {
    let postmaster = Pid::from_raw(server.pid().unwrap().try_into().unwrap());
    getpgid(Some(postmaster)).unwrap()
}

#[tokio::test]
async fn the_server_lives_exactly_as_long_as_its_last_holder() {
    let folder = tempfile::tempdir().unwrap();
    let first = Holder::spawn(folder.path());
    let second = Holder::spawn(folder.path());
    assert_eq!(first.url, second.url);
    let client = connect(&second.url).await.unwrap();
    first.leave();
    // Long enough for a wrong shutdown to end this session.
    client.batch_execute("SELECT pg_sleep(1)").await.unwrap();
    let third = Holder::spawn(folder.path());
    second.kill();
    client.batch_execute("SELECT pg_sleep(1)").await.unwrap();
    third.kill();
    await_end(folder.path());
    assert!(connect(&client_url(folder.path())).await.is_err());
    assert!(!folder.path().join("server/data/postmaster.pid").exists(), "shut down in order");
}

fn client_url(folder: &Path) -> String {
    let port = std::fs::read_to_string(folder.join("port")).unwrap();
    format!("postgres://postgres@127.0.0.1:{port}/postgres")
}

#[tokio::test]
async fn simultaneous_starts_share_one_server() {
    let folder = tempfile::tempdir().unwrap();
    let servers = [(); 4].map(|()| tokio::spawn(EmbeddedPostgres::start(options(&folder))));
    let holder = Holder::spawn(folder.path());
    for server in servers {
        let server = server.await.unwrap().unwrap();
        assert_eq!(server.url("postgres"), holder.url);
        server.stop().await.unwrap();
    }
    holder.leave();
    await_end(folder.path());
}

#[tokio::test]
async fn joins_while_the_last_holder_leaves() {
    let (folder, mut held) = server().await;
    for _ in 0..5 {
        let (left, joined) = tokio::join!(held.stop(), EmbeddedPostgres::start(options(&folder)));
        left.unwrap();
        held = joined.unwrap();
        let client = connect(&held.url("postgres")).await.unwrap();
        client.batch_execute("SELECT pg_sleep(0.3)").await.unwrap();
    }
    held.stop().await.unwrap();
}

#[tokio::test]
async fn starts_after_everything_was_killed() {
    let (folder, first) = server().await;
    let client = connect(&first.url("postgres")).await.unwrap();
    client.batch_execute("CREATE TABLE kept AS SELECT 'still here' AS word; CHECKPOINT").await.unwrap();
    killpg(guard(&first), Signal::SIGKILL).unwrap();
    await_end(folder.path());
    // After a power loss the process ids in these files may be anybody's.
    for name in ["data/postmaster.pid".to_owned(), format!(".s.PGSQL.{}.lock", first.port())] {
        let path = folder.path().join("server").join(name);
        let stale = std::fs::read_to_string(&path).unwrap();
        let (_, rest) = stale.split_once('\n').unwrap();
        std::fs::write(&path, format!("{}\n{rest}", std::process::id())).unwrap();
    }

    let second = EmbeddedPostgres::start(options(&folder)).await.unwrap();
    let client = connect(&second.url("postgres")).await.unwrap();
    assert_eq!(text(&client, "SELECT word FROM kept").await, "still here");
    drop(first);
    second.stop().await.unwrap();
    await_end(folder.path());
}

#[tokio::test]
async fn a_server_without_a_guard_is_replaced() {
    let (folder, first) = server().await;
    let orphan = first.pid();
    kill(guard(&first), Signal::SIGKILL).unwrap();
    let second = EmbeddedPostgres::start(options(&folder)).await.unwrap();
    assert_ne!(second.pid(), orphan);
    connect(&second.url("postgres")).await.unwrap();
    drop(first);
    second.stop().await.unwrap();
    await_end(folder.path());
}

#[tokio::test]
async fn a_server_ends_though_its_folder_was_removed() {
    let (folder, server) = server().await;
    let pid = Pid::from_raw(server.pid().unwrap().try_into().unwrap());
    drop(folder);
    drop(server);
    let began = Instant::now();
    while kill(pid, None).is_ok() {
        // PostgreSQL itself would notice within a minute.
        assert!(began.elapsed() < Duration::from_secs(30), "the server is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
