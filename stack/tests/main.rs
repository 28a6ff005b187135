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
async fn a_stack_ends_with_its_holder_and_is_found_again() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut holder = Holder::start(folder.path()).await;
    probe::leave_data(&holder.address).await;
    let said = text(&stack(folder.path(), &["up", "--free-ports"]).output().unwrap().stderr);
    assert!(said.contains("already, kept by process"), "{said}");

    // Nobody has the chance to clean up.
    holder.kill();
    until("a killed stack leaves no process", async || holder::processes_of(folder.path()).is_empty()).await;
    assert!(Address::find(folder.path()).unwrap().is_none());

    let holder = Holder::start(folder.path()).await;
    probe::find_data(&holder.address).await;
    let down = succeed(stack(folder.path(), &["down"]));
    assert!(text(&down.stdout).contains("Stopped"));
    assert!(holder.ended().await, "it reports success");
    assert_eq!(holder::processes_of(folder.path()), Vec::<String>::new());
    assert!(text(&succeed(stack(folder.path(), &["down"])).stdout).contains("No stack"));
}

#[tokio::test(flavor = "multi_thread")]
async fn services_come_back() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let mut stack =
        Stack::start(folder.path(), Ports::free().unwrap(), &|doing| eprintln!("{doing}")).await.unwrap();
    eprintln!("a stack in this process: ready after {:.1} s", began.elapsed().as_secs_f64());
    refuses_what_is_taken(&stack.ports).await;
    hurt(&mut stack).await;
    stack.stop().await.unwrap();
    assert_eq!(holder::processes_of(folder.path()), Vec::<String>::new());
}

async fn refuses_what_is_taken(ports: &Ports) {
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
