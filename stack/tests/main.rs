//! The services as they are: started, hurt, ended and found again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod holder;
mod probe;

use std::{
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use lakeward_stack::{Address, Ports, Stack};
use tokio::time::sleep;

use crate::{holder::Holder, probe::answers};

/// Whatever takes longer will not happen.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn missing_tools_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = stack(folder.path(), &["up"]);
    command.env("PATH", folder.path()).env("XDG_CACHE_HOME", folder.path());
    let said = text(&command.output().unwrap().stderr);
    for tool in ["java", "redis-server", "mvn", "go"] {
        assert!(said.contains(&format!("\n  {tool}")), "{tool} is not in: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_last_as_long_as_they_should() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let (kept, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut holder = Holder::start(kept.path()).await;
    probe::leave_data(&holder.address).await;

    // A second stack beside the first.
    let began = Instant::now();
    let mut second =
        Stack::start(other.path(), Ports::free().unwrap(), &|doing| eprintln!("{doing}")).await.unwrap();
    eprintln!("a stack in this process: ready after {:.1} s", began.elapsed().as_secs_f64());
    refuses_what_is_taken(kept.path(), &second.ports).await;
    hurt(&mut second).await;

    // Nobody has the chance to clean up.
    holder.kill();
    until("a killed stack leaves no process", async || holder::processes_of(kept.path()).is_empty()).await;
    assert!(Address::find(kept.path()).unwrap().is_none());

    let holder = Holder::start(kept.path()).await;
    probe::find_data(&holder.address).await;
    let down = succeed(stack(kept.path(), &["down"]));
    assert!(text(&down.stdout).contains("Stopped"));
    assert!(holder.ended().await, "it reports success");
    assert_eq!(holder::processes_of(kept.path()), Vec::<String>::new());
    assert!(text(&succeed(stack(kept.path(), &["down"])).stdout).contains("No stack"));

    second.stop().await.unwrap();
    assert_eq!(holder::processes_of(other.path()), Vec::<String>::new());
}

async fn refuses_what_is_taken(folder: &Path, ports: &Ports) {
    let said = text(&stack(folder, &["up", "--free-ports"]).output().unwrap().stderr);
    assert!(said.contains("already, kept by process"), "{said}");

    let empty = tempfile::tempdir().unwrap();
    let error = Stack::start(empty.path(), ports.clone(), &|_| ()).await.unwrap_err().to_string();
    for service in ["Postgres", "Kafka", "Connect", "MinIO", "Redis"] {
        assert!(error.contains(&format!("({service})")), "{service} is not in: {error}");
    }
}

/// Each service is killed and paused, and comes back.
async fn hurt(stack: &mut Stack) {
    let ports = stack.ports.clone();
    for service in stack.services() {
        let name = service.name();
        assert!(answers(name, &ports).await, "{name} answers");
        service.kill().await.unwrap();
        assert!(!answers(name, &ports).await, "{name} is dead");
        service.launch().await.unwrap();
        until("it answers again", async || answers(name, &ports).await).await;
        assert!(service.launch().await.is_err(), "{name} runs already");

        service.pause().unwrap();
        assert!(!answers(name, &ports).await, "{name} stands still");
        service.resume().unwrap();
        until("it goes on", async || answers(name, &ports).await).await;
    }
    // Connect finds Kafka again.
    until("Connect works", async || answers("connect", &ports).await).await;
}

fn stack(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lakeward-stack"));
    command.arg("--folder").arg(folder).args(arguments);
    command
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        sleep(Duration::from_millis(100)).await;
    }
}
