//! Where a stack is to be found, and whether one runs.

use std::{
    fs::{self, File, TryLockError},
    io::ErrorKind,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

const POLL: Duration = Duration::from_millis(100);
/// The services of a killed stack are ended, at the latest killed, within this time.
const AFTERMATH: Duration = Duration::from_secs(15);
/// Below what systems give to outgoing connections, so that a service finds its port free again after a crash.
const FREE: std::ops::Range<u16> = 20_000..32_000;

/// Where the services listen, on 127.0.0.1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    pub postgres: u16,
    pub kafka: u16,
    /// Kafka's controller, for itself alone.
    pub controller: u16,
    pub connect: u16,
    pub minio: u16,
    pub redis: u16,
    /// Of the schema registry, which runs only where it has one.
    pub registry: Option<u16>,
}

impl Ports {
    /// The ports that people expect.
    pub const USUAL: Self = Self {
        postgres: 5432,
        kafka: 9092,
        controller: 9093,
        connect: 8083,
        minio: 9000,
        redis: 6379,
        registry: None,
    };

    /// Ports that nobody listens at now.
    pub fn free() -> Result<Self> {
        let [postgres, kafka, controller, connect, minio, redis] = draw()?;
        Ok(Self { postgres, kafka, controller, connect, minio, redis, registry: None })
    }

    /// The same and one for a schema registry: the one that people expect if the others are.
    pub fn with_registry(self) -> Result<Self> {
        let registry = if self == Self::USUAL { 8081 } else { draw::<1>()?[0] };
        Ok(Self { registry: Some(registry), ..self })
    }

    /// Those that somebody listens at, with whom they are for.
    fn taken(&self) -> Vec<String> {
        let Self { postgres, kafka, controller, connect, minio, redis, registry } = *self;
        let mut all = vec![
            ("Postgres", postgres),
            ("Kafka", kafka),
            ("Kafka's controller", controller),
            ("Connect", connect),
            ("MinIO", minio),
            ("Redis", redis),
        ];
        all.extend(registry.map(|registry| ("the schema registry", registry)));
        let taken = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_err();
        all.iter().filter(|(_, port)| taken(port)).map(|(name, port)| format!("{port} ({name})")).collect()
    }
}

/// Ports that nobody listens at now.
fn draw<const N: usize>() -> Result<[u16; N]> {
    let mut held: Vec<(u16, TcpListener)> = Vec::new();
    for _ in 0..1000 {
        let drawn = uuid::Uuid::new_v4().as_u128() % FREE.len() as u128;
        let port = FREE.start + u16::try_from(drawn)?;
        held.extend(TcpListener::bind(("127.0.0.1", port)).map(|listener| (port, listener)));
        if held.len() == N {
            return Ok(std::array::from_fn(|index| held[index].0));
        }
    }
    bail!("cannot find free ports on 127.0.0.1")
}

/// A stack for other processes: written as JSON beside its data.
#[derive(Debug, Serialize, Deserialize)]
pub struct Address {
    /// The process that holds it.
    pub pid: u32,
    pub ports: Ports,
    /// The URL of its Postgres; `None` until all services are ready.
    pub postgres: Option<String>,
}

impl Address {
    /// Who runs on the folder now. What a killed stack has left is none.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        if !folder.exists() || lock(folder)?.is_some() {
            return Ok(None);
        }
        Self::read(folder)
    }

    fn read(folder: &Path) -> Result<Option<Self>> {
        let path = path(folder);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("read {}", path.display()))?,
        };
        serde_json::from_slice(&text).map(Some).with_context(|| format!("read {}", path.display()))
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let (path, new) = (path(folder), folder.join("stack.json.new"));
        let written = fs::write(&new, serde_json::to_vec_pretty(self)?)
            // The URL has the password.
            .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(0o600)))
            .and_then(|()| fs::rename(&new, &path));
        written.with_context(|| format!("write {}", path.display()))
    }

    pub(crate) fn remove(folder: &Path) -> Result<()> {
        let path = path(folder);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join("stack.json")
}

/// Takes the folder for this process, and sees that the ports are free. A stack that was killed on it gets the time to
/// end.
pub(crate) async fn take(folder: &Path, ports: &Ports) -> Result<File> {
    let Some(lock) = lock(folder)? else {
        let pid = Address::read(folder)?.map(|address| format!(", kept by process {}", address.pid));
        bail!("a stack runs on {} already{}", folder.display(), pid.unwrap_or_default());
    };
    if let Some(killed) = Address::read(folder)? {
        let began = Instant::now();
        while !killed.ports.taken().is_empty() && began.elapsed() < AFTERMATH {
            sleep(POLL).await;
        }
    }
    let taken = ports.taken();
    ensure!(
        taken.is_empty(),
        "ports of 127.0.0.1 are taken: {}; stop who listens there, or take any with --free-ports",
        taken.join(", ")
    );
    Ok(lock)
}

/// The lock that a stack's process holds on its folder; `None` if another one has it.
fn lock(folder: &Path) -> Result<Option<File>> {
    let path = folder.join("lock");
    let failed = || format!("lock {}", path.display());
    let file = File::options().create(true).truncate(false).write(true).open(&path).with_context(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(failed),
    }
}
