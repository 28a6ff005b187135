//! Fetching PostgreSQL. The other processes are this test binary itself.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lakeward_postgres::{EmbeddedOptions, EmbeddedPostgres};
use tempfile::TempDir;

const FOLDER: &str = "LAKEWARD_TEST_FETCH";

#[tokio::test]
#[ignore = "a process of its own for the other tests"]
async fn fetcher() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let options = EmbeddedOptions { fsync: false, ..EmbeddedOptions::new(folder) };
    EmbeddedPostgres::start(options).await.unwrap().stop().await.unwrap();
}

/// A process that starts a server with the binaries of a cache of its own, fetching them if they are not there.
fn spawn(cache: &Path, server: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["fetch::fetcher", "--exact", "--ignored"])
        .env("XDG_CACHE_HOME", cache)
        .env(FOLDER, server)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// The server's account must get into it.
fn open_folder() -> TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap()
}

fn entries(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_killed_fetch_leaves_nothing_in_the_way_and_two_at_once_fetch_one() {
    let (cache, servers) = (open_folder(), open_folder());
    let binaries = cache.path().join("lakeward");
    let mut killed = spawn(cache.path(), &servers.path().join("killed"));
    let began = Instant::now();
    // Unpacking has begun.
    while !entries(&binaries).iter().any(|name| name.starts_with("unpacking-")) {
        assert!(began.elapsed() < Duration::from_secs(120), "nothing is fetched");
        assert!(killed.try_wait().unwrap().is_none(), "it ended before it could be killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!entries(&binaries).iter().any(|name| name.ends_with(".0") || name == "postgres"));

    let both = ["one", "two"].map(|name| spawn(cache.path(), &servers.path().join(name)));
    for mut process in both {
        assert!(process.wait().unwrap().success());
    }
    let left = entries(&binaries);
    assert!(left.iter().all(|name| name.starts_with("postgres-")), "{left:?}");
}
