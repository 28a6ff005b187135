//! The guard: a tiny shell process that is the server's parent. It reads a FIFO that every process using the server
//! holds open for writing. End of file means that the last of them is gone, however it ended, and the guard stops the
//! server.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::account::Account;
use crate::cluster::clean_environment;
use crate::error::{At, Result};
use crate::lock::LockFile;

const SCRIPT: &str = include_str!("guard.sh");
const POLL: Duration = Duration::from_millis(5);
/// The guard answers at once unless it has to stop a server first, which it bounds itself.
const ANSWER: Duration = Duration::from_secs(40);

/// Where the parts of one server are, below the folder given by the user.
///
/// The folder itself is the user's; `server` in it belongs to the account that runs PostgreSQL.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

impl Layout {
    pub(crate) fn server(&self) -> PathBuf {
        self.root.join("server")
    }
    /// PGDATA.
    pub(crate) fn data(&self) -> PathBuf {
        self.server().join("data")
    }
    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("server.log")
    }
    pub(crate) fn password(&self) -> PathBuf {
        self.root.join("password")
    }
    pub(crate) fn port(&self) -> PathBuf {
        self.root.join("port")
    }
    fn fifo(&self) -> PathBuf {
        self.root.join("holders")
    }
    fn acknowledged(&self) -> PathBuf {
        self.root.join("acknowledged")
    }
    fn running(&self) -> PathBuf {
        self.server().join("running")
    }

    pub(crate) fn read_port(&self) -> Result<u16> {
        let path = self.port();
        let text = fs::read_to_string(&path).at("read", &path)?;
        text.trim()
            .parse()
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidData))
            .at("read", &path)
    }

    pub(crate) fn read_password(&self) -> Result<String> {
        let path = self.password();
        fs::read_to_string(&path).at("read", &path)
    }

    /// The postmaster's process id; none while no server runs.
    pub(crate) fn postmaster(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.running()).ok()?;
        text.trim().parse().ok().map(Pid::from_raw)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running().exists()
    }
}

/// One holder's end of the FIFO. While it lives, the guard keeps the server.
pub(crate) struct Hold {
    layout: Layout,
    fifo: File,
}

#[derive(Clone, Copy)]
pub(crate) enum Wish {
    /// Start the server unless it runs.
    Start,
    /// Stop it, then start it.
    Restart,
}

impl Hold {
    /// Joins the guard that is there; none if there is none or it is just giving up.
    pub(crate) async fn join(layout: &Layout) -> Result<Option<Self>> {
        let Some(hold) = Self::open(layout)? else {
            return Ok(None);
        };
        Ok(hold.wish(Wish::Start).await?.then_some(hold))
    }

    /// Starts a guard, and with it the server. The caller holds `alive`, whose lock goes over to the new processes.
    pub(crate) async fn found(
        layout: &Layout,
        account: &Account,
        server: &[PathBuf],
        alive: &LockFile,
    ) -> Result<Option<Self>> {
        let fifo = layout.fifo();
        if !fifo.exists() {
            mkfifo(&fifo, Mode::from_bits_truncate(0o600))
                .map_err(std::io::Error::from)
                .at("create", &fifo)?;
        }
        account.own(&fifo)?;
        account.write(&layout.acknowledged(), "")?;
        let log = layout.log();
        let output = File::options().create(true).append(true).mode(0o600).open(&log).at("open", &log)?;
        let mut command = Command::new("/bin/sh");
        clean_environment(&mut command);
        command
            .args(["-c", SCRIPT, "lakeward-postgres-guard"])
            .arg(layout.server())
            .arg(&fifo)
            .arg(layout.acknowledged())
            .args(server)
            .current_dir("/")
            .stdin(Stdio::from(alive.share()?))
            .stdout(Stdio::from(output.try_clone().at("share", &log)?))
            .stderr(Stdio::from(output))
            // Ctrl-C in the terminal is for us; the guard sees us go.
            .process_group(0);
        account.run_as(&mut command);
        let mut guard = command.spawn().at("start a shell for", &layout.root)?;
        let deadline = Instant::now() + ANSWER;
        let hold = loop {
            if let Some(hold) = Self::open(layout)? {
                break hold;
            }
            if guard.try_wait().at("wait for", &fifo)?.is_some() || Instant::now() > deadline {
                return Ok(None);
            }
            tokio::time::sleep(POLL).await;
        };
        reap(guard);
        Ok(hold.wish(Wish::Start).await?.then_some(hold))
    }

    /// Opens the FIFO if somebody reads it.
    fn open(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.fifo();
        let opened = File::options().write(true).custom_flags(nix::libc::O_NONBLOCK).open(&path);
        match opened {
            Ok(fifo) => Ok(Some(Self { layout: layout.clone(), fifo })),
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(Errno::ENXIO as i32) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).at("open", &path),
        }
    }

    /// Asks the guard and waits for its answer: only that proves that it had not seen the end of file before we came.
    /// False if the guard is gone.
    pub(crate) async fn wish(&self, wish: Wish) -> Result<bool> {
        let token = uuid::Uuid::new_v4().simple().to_string();
        let command = match wish {
            Wish::Start => "start",
            Wish::Restart => "restart",
        };
        let line = format!("{command} {token}\n");
        match (&self.fifo).write_all(line.as_bytes()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(false),
            other => other.at("write to", &self.layout.fifo())?,
        }
        let acknowledged = self.layout.acknowledged();
        let deadline = Instant::now() + ANSWER;
        while Instant::now() < deadline {
            let answers = fs::read_to_string(&acknowledged).at("read", &acknowledged)?;
            if answers.lines().any(|answer| answer == token) {
                return Ok(true);
            }
            if Self::open(&self.layout)?.is_none() {
                return Ok(false);
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(false)
    }
}

/// Ends a server whose guard was killed. `alive` tells that a process of it lives, so the process id is its own.
pub(crate) fn end_orphan(layout: &Layout, immediately: bool) {
    let signal = if immediately { Signal::SIGQUIT } else { Signal::SIGINT };
    if let Some(postmaster) = layout.postmaster() {
        tracing::warn!(pid = postmaster.as_raw(), "stopping a PostgreSQL without a guard");
        if let Err(error) = kill(postmaster, signal) {
            tracing::debug!(%error, "it is gone already");
        }
    }
}

/// Waits for the guard in the background, so that it leaves no zombie in a long-lived process.
fn reap(mut guard: Child) {
    std::thread::spawn(move || guard.wait());
}
