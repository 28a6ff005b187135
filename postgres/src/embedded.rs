use std::fmt::{self, Write as _};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Uid;
use tokio_postgres::error::SqlState;

use crate::account::{Account, write_private};
use crate::binaries;
use crate::cluster::{SUPERUSER, choose_port, configuration, initdb};
use crate::connection::connect;
use crate::error::{At, Error, Result};
use crate::guard::{Hold, Layout, Wish, end_orphan};
use crate::lock::LockFile;

const POLL: Duration = Duration::from_millis(20);
/// A stopping server gets 20 s for a fast shutdown and is then stopped hard.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Recovery after a crash replays at most `max_wal_size` and a bit.
const START_LIMIT: Duration = Duration::from_secs(300);
const ATTEMPTS: usize = 10;

/// What a private server is made of.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The folder that holds the server: created if missing, meant for nothing else. As root, PostgreSQL runs as
    /// `postgres` or `nobody`, so every folder above must be open to others (`o+x`); this folder itself is opened.
    pub data_dir: PathBuf,
    /// Write through to the disk. Without it a power loss destroys the data; a crash of the server does not.
    pub fsync: bool,
    /// More lines of `postgresql.conf`, applied by the process that starts the server; the last one wins.
    pub settings: Vec<(String, String)>,
    /// The port of 127.0.0.1 to listen at if it is free; else, and without it, that of last time or any free one.
    pub port: Option<u16>,
}

impl EmbeddedOptions {
    /// A durable server with the default settings.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), fsync: true, settings: Vec::new(), port: None }
    }
}

/// A running private PostgreSQL 17 (`wal_level = logical`), on loopback with a random password.
///
/// Any number of processes may hold the same server: the first starts it, and when the last one has gone (by
/// [`stop`](Self::stop), drop, exit or `kill -9`) a small guard process shuts it down.
pub struct EmbeddedPostgres {
    layout: Layout,
    port: u16,
    password: String,
    hold: Hold,
    holders: LockFile,
}

impl fmt::Debug for EmbeddedPostgres {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("EmbeddedPostgres")
            .field("data_dir", &self.layout.root)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl EmbeddedPostgres {
    /// Joins the server of `options.data_dir`, or starts it: fetches PostgreSQL once per user, makes the cluster,
    /// starts and waits until it answers.
    ///
    /// # Errors
    /// No network at the first use, no unprivileged account, folders that it cannot enter, a server that does not
    /// start (with the end of its log).
    pub async fn start(options: EmbeddedOptions) -> Result<Self> {
        let root = prepare_root(&options.data_dir)?;
        let layout = Layout { root };
        let starting = LockFile::open(layout.root.join("start.lock"))?;
        starting.exclusive().await?;
        let holders = LockFile::open(layout.root.join("holders.lock"))?;
        holders.shared().await?;
        let alive = LockFile::open(layout.root.join("server.lock"))?;
        let began = Instant::now();
        let mut orphan_told = 0;
        let (hold, founded) = loop {
            if alive.try_exclusive()? {
                let hold = found(&layout, &options, &alive).await?;
                break (hold, true);
            }
            // A guard whose server has ended, or could not start with the settings it had.
            if layout.data().exists() && !layout.is_running() {
                configure(&layout, &Account::detect(&layout.server())?, &options)?;
            }
            if let Some(hold) = Hold::join(&layout).await? {
                break (hold, false);
            }
            // Stopping, or its guard was killed.
            let waited = began.elapsed();
            if waited > STOP_LIMIT {
                return Err(Error::Stop { data_dir: layout.root, limit: STOP_LIMIT });
            }
            for (turn, after) in [(0, 2), (1, 20)] {
                if orphan_told == turn && waited > Duration::from_secs(after) {
                    end_orphan(&layout, turn == 1);
                    orphan_told += 1;
                }
            }
            tokio::time::sleep(POLL).await;
        };
        drop(alive);
        let server =
            Self { port: layout.read_port()?, password: layout.read_password()?, layout, hold, holders };
        server.wait_until_answers().await?;
        tracing::debug!(
            data_dir = %server.layout.root.display(),
            port = server.port,
            started = founded,
            milliseconds = began.elapsed().as_millis(),
            "private PostgreSQL ready"
        );
        Ok(server)
    }

    /// The URL of one of its databases: loopback, with the password.
    pub fn url(&self, database: &str) -> String {
        let mut url = format!("postgres://{SUPERUSER}:{}@127.0.0.1:{}/", self.password, self.port);
        for byte in database.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                url.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                let _ = write!(url, "%{byte:02X}");
            }
        }
        url.push_str("?sslmode=disable");
        url
    }

    /// Makes a database unless it is there.
    pub async fn create_database(&self, name: &str) -> Result<()> {
        let action = || format!("create the database `{name}` in the private PostgreSQL");
        let client = connect(&self.url("postgres")).await?;
        let exists = client
            .query_opt("SELECT FROM pg_database WHERE datname = $1", &[&name])
            .await
            .map_err(Error::query(action()))?
            .is_some();
        if exists {
            return Ok(());
        }
        // template0 has no sessions that could stand in the way of the copy.
        let statement = format!("CREATE DATABASE \"{}\" TEMPLATE template0", name.replace('"', "\"\""));
        match client.batch_execute(&statement).await {
            // Another process was faster.
            Err(error)
                if matches!(
                    error.code(),
                    Some(&SqlState::DUPLICATE_DATABASE | &SqlState::UNIQUE_VIOLATION)
                ) =>
            {
                Ok(())
            }
            other => other.map_err(Error::query(action())),
        }
    }

    /// The folder given at the start.
    pub fn data_dir(&self) -> &Path {
        &self.layout.root
    }

    /// The port on 127.0.0.1; the same after every restart while nobody else takes it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The postmaster's process id; none while the server is down.
    pub fn pid(&self) -> Option<u32> {
        self.layout.postmaster().and_then(|pid| u32::try_from(pid.as_raw()).ok())
    }

    /// Stops the server (fast shutdown) and starts it again, for all its holders. Brings a dead one back too.
    pub async fn restart(&self) -> Result<()> {
        let starting = LockFile::open(self.layout.root.join("start.lock"))?;
        starting.exclusive().await?;
        if !self.hold.wish(Wish::Restart).await? {
            return Err(self.does_not_start());
        }
        self.wait_until_answers().await
    }

    /// Kills the server as a crash would (`kill -9` of the postmaster); [`restart`](Self::restart) or the next
    /// [`start`](Self::start) brings it back through recovery.
    pub fn kill(&self) -> Result<()> {
        match self.layout.postmaster() {
            Some(pid) => kill(pid, Signal::SIGKILL)
                .map_err(std::io::Error::from)
                .at("kill the server of", &self.layout.root),
            None => Ok(()),
        }
    }

    /// Gives the server up. Who is the last one waits until it is gone.
    pub async fn stop(self) -> Result<()> {
        let Self { layout, hold, holders, .. } = self;
        let alive = LockFile::open(layout.root.join("server.lock"))?;
        drop(hold);
        holders.release()?;
        let began = Instant::now();
        while began.elapsed() < STOP_LIMIT {
            if !holders.try_exclusive()? {
                return Ok(());
            }
            holders.release()?;
            if alive.try_exclusive()? {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        Err(Error::Stop { data_dir: layout.root, limit: STOP_LIMIT })
    }

    /// Asks again when the server has ended: its port may be taken by now, or backends of a crashed one may have been
    /// in the way for a moment.
    async fn wait_until_answers(&self) -> Result<()> {
        let url = self.url("postgres");
        let began = Instant::now();
        let mut attempts = 0;
        while began.elapsed() < START_LIMIT {
            let error = match connect(&url).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let Error::Connect { source, .. } = &error
                && source.as_db_error().is_some()
                && source.code() != Some(&SqlState::CANNOT_CONNECT_NOW)
            {
                return Err(error);
            }
            if !self.layout.is_running() {
                attempts += 1;
                if attempts > ATTEMPTS || !self.hold.wish(Wish::Start).await? {
                    break;
                }
                tokio::time::sleep(5 * POLL).await;
            }
            tokio::time::sleep(POLL).await;
        }
        Err(self.does_not_start())
    }

    fn does_not_start(&self) -> Error {
        Error::Start { data_dir: self.layout.root.clone(), log: log_end(&self.layout) }
    }
}

/// Nothing of the server lives, and `alive` keeps it so until the guard has inherited it.
async fn found(layout: &Layout, options: &EmbeddedOptions, alive: &LockFile) -> Result<Hold> {
    let account = Account::detect(&layout.server())?;
    account.check_reach(&layout.root)?;
    let binaries = binaries::provide().await?;
    account.check_reach(&binaries)?;
    account.create_dir(&layout.server())?;
    if !layout.data().exists() {
        initdb(layout, &account, &binaries, options, alive).await?;
    }
    remove_stale(&layout.data(), "postmaster.pid")?;
    remove_stale(&layout.server(), ".s.PGSQL.")?;
    configure(layout, &account, options)?;
    let server = [binaries.join("bin/postgres"), PathBuf::from("-D"), layout.data()];
    Hold::found(layout, &account, &server, alive)
        .await?
        .ok_or_else(|| Error::Start { data_dir: layout.root.clone(), log: log_end(layout) })
}

/// Removes what a crash left of the server's lock files. The process ids in them may belong to somebody else by now, and
/// PostgreSQL would refuse to start; the caller knows that no process of the server is alive.
fn remove_stale(folder: &Path, prefix: &str) -> Result<()> {
    for entry in fs::read_dir(folder).at("read", folder)? {
        let entry = entry.at("read", folder)?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            fs::remove_file(entry.path()).at("remove", &entry.path())?;
        }
    }
    Ok(())
}

/// Writes the settings for the next start.
fn configure(layout: &Layout, account: &Account, options: &EmbeddedOptions) -> Result<()> {
    let port = choose_port(layout, options.port)?;
    account.write(&layout.data().join("lakeward.conf"), &configuration(layout, options, port))?;
    write_private(&layout.port(), &port.to_string())
}

fn prepare_root(data_dir: &Path) -> Result<PathBuf> {
    fs::create_dir_all(data_dir).at("create", data_dir)?;
    let root = fs::canonicalize(data_dir).at("resolve", data_dir)?;
    let mode = if Uid::effective().is_root() { 0o711 } else { 0o700 };
    fs::set_permissions(&root, fs::Permissions::from_mode(mode)).at("set the permissions of", &root)?;
    Ok(root)
}

fn log_end(layout: &Layout) -> String {
    let log = fs::read(layout.log()).unwrap_or_default();
    let text = String::from_utf8_lossy(&log[log.len().saturating_sub(2000)..]);
    text.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(" | ")
}
