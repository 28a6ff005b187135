//! A service as a child process that can be killed, paused and started again.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::signal::{self, Signal},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::sleep,
};

const GUARD: &str = include_str!("guard.sh");
const POLL: Duration = Duration::from_millis(50);
const READY_LIMIT: Duration = Duration::from_secs(90);

/// How a service is started.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Its own files.
    pub(crate) folder: PathBuf,
    pub(crate) probe: Probe,
}

/// What says that a service is ready.
#[derive(Debug, Clone)]
pub(crate) enum Probe {
    /// Something listens at this port of 127.0.0.1.
    Port(u16),
    /// The URL is answered with success.
    Url(String),
}

/// A running service. It ends with this value, and with the process that holds it, however that ends.
#[derive(Debug)]
pub struct Service {
    recipe: Recipe,
    /// `None` while it is down.
    guard: Option<Child>,
    pid: Pid,
}

impl Service {
    pub(crate) async fn start(recipe: Recipe) -> Result<Self> {
        fs::create_dir_all(&recipe.folder).with_context(|| format!("make {}", recipe.folder.display()))?;
        let mut service = Self { recipe, guard: None, pid: Pid::from_raw(0) };
        service.launch().await?;
        Ok(service)
    }

    pub fn name(&self) -> &'static str {
        self.recipe.name
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// What the service writes of itself.
    pub fn log(&self) -> PathBuf {
        self.recipe.folder.with_extension("log")
    }

    /// Ends it as a crash would; [`Self::launch`] brings it back on what it has written.
    pub async fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.ended().await
    }

    /// Stops its clock: connections stay open, nothing is answered.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    pub fn resume(&mut self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Ends it in order: its guard asks it to, and kills it after 10 s.
    pub async fn stop(&mut self) -> Result<()> {
        self.ended().await
    }

    /// Starts it, at the ports and on the files it had, and waits until it is ready.
    pub async fn launch(&mut self) -> Result<()> {
        let Recipe { name, program, arguments, environment, .. } = &self.recipe;
        ensure!(self.guard.is_none(), "{name} is running already");
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.with_context(|| format!("open the log of {name}"))?;
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "lakeward-guard"])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .current_dir(&self.recipe.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C in the terminal is for us; the guard sees us go.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let told = guard.stdout.take().context("a guard without output")?;
        let first = BufReader::new(told).lines().next_line().await?;
        let pid = first.and_then(|line| line.parse().ok()).with_context(|| format!("start {name}"))?;
        self.pid = Pid::from_raw(pid);
        self.guard = Some(guard);
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        while !self.recipe.probe.answers().await {
            let name = self.recipe.name;
            if let Some(guard) = &mut self.guard
                && guard.try_wait()?.is_some()
            {
                self.guard = None;
                bail!("{name} ended at its start; the end of its log:\n{}", end_of(&self.log()));
            }
            ensure!(
                began.elapsed() < READY_LIMIT,
                "{name} is not ready after {READY_LIMIT:?}; the end of its log:\n{}",
                end_of(&self.log())
            );
            sleep(POLL).await;
        }
        Ok(())
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let Some(guard) = &mut self.guard else { return Ok(()) };
        // The number of a service that has ended may be somebody else's by now.
        if guard.try_wait()?.is_some() {
            return Ok(());
        }
        match signal::kill(self.pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("send {signal} to {}", self.recipe.name)),
        }
    }

    async fn ended(&mut self) -> Result<()> {
        if let Some(guard) = &mut self.guard {
            // This closes the guard's input, too.
            guard.wait().await?;
        }
        self.guard = None;
        Ok(())
    }
}

impl Probe {
    async fn answers(&self) -> bool {
        match self {
            Self::Port(port) => tokio::net::TcpStream::connect(("127.0.0.1", *port)).await.is_ok(),
            Self::Url(url) => {
                let answer = tokio::time::timeout(Duration::from_secs(5), reqwest::get(url)).await;
                matches!(answer, Ok(Ok(response)) if response.status().is_success())
            }
        }
    }
}

fn end_of(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned()
}
