//! A process that holds a stack, as `make stack` does.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use lakeward_stack::Address;
use tokio::time::sleep;

use crate::{PATIENCE, stack};

pub struct Holder {
    process: Child,
    pub address: Address,
}

impl Holder {
    /// Starts all services on the folder, in a process of their own.
    pub async fn start(folder: &Path) -> Self {
        let mut command = stack(folder, &["up", "--free-ports"]);
        let mut process = command.stdout(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        loop {
            assert!(process.try_wait().unwrap().is_none(), "the stack does not start");
            if let Some(address) = Address::find(folder).unwrap()
                && address.pid == process.id()
                && address.postgres.is_some()
            {
                eprintln!(
                    "a stack in a process of its own: ready after {:.1} s",
                    began.elapsed().as_secs_f64()
                );
                return Self { process, address };
            }
            // The first time on a machine includes MinIO's build.
            assert!(began.elapsed() < 10 * PATIENCE, "the stack is not ready");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Without a chance to clean up.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Whether it ended well, once it has ended.
    pub async fn ended(mut self) -> bool {
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.success();
            }
            assert!(began.elapsed() < PATIENCE, "the stack does not end");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // A test that failed; its services end with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The living processes that work in the folder or were started for it.
pub fn processes_of(folder: &Path) -> Vec<String> {
    let folder = fs::canonicalize(folder).unwrap();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        // Of one that has just ended there is nothing to read.
        let command = fs::read(path.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let works_there = fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&folder));
        let ours = works_there || command.contains(folder.to_str().unwrap());
        (ours && !command.is_empty()).then_some(command)
    });
    processes.collect()
}
