//! The services' programs, fetched from package registries once a user.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

const MINIO: &str = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c";

/// What all services need beside their settings.
#[derive(Debug, Clone)]
pub(crate) struct Software {
    pub(crate) java: PathBuf,
    /// The folders `libs` and `plugins`.
    pub(crate) kafka: PathBuf,
    pub(crate) minio: PathBuf,
    pub(crate) redis: PathBuf,
    /// The settings that compose mounts, too.
    pub(crate) deploy: PathBuf,
    cache: PathBuf,
}

impl Software {
    /// Looks for tools, fetches and builds what is missing; `say` hears what takes long. It may take minutes.
    ///
    /// # Errors
    /// All tools that the machine lacks at once, and how to get them; no network.
    pub(crate) fn provide(say: &(dyn Fn(&str) + Sync)) -> Result<Self> {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let cache = cache()?;
        let pom = deploy.join("native/pom.xml");
        // Another pom, other jars.
        let kafka = cache.join(named("kafka", &fs::read(&pom)?));
        let minio = cache.join(named("minio", MINIO.as_bytes()));
        let (java, redis) = (find("java"), find("redis-server"));
        let mut missing = Vec::new();
        missing.extend(
            java.is_none().then_some("java, 17 or newer (Debian: apt install openjdk-17-jre-headless)"),
        );
        missing.extend(redis.is_none().then_some("redis-server (Debian: apt install redis-server)"));
        let needs = |ready: &Path, tool, name| (!ready.exists() && find(tool).is_none()).then_some(name);
        missing.extend(needs(&kafka, "mvn", "mvn, to fetch Kafka and Debezium (Debian: apt install maven)"));
        missing.extend(needs(&minio, "go", "go, 1.24 or newer, to build MinIO (https://go.dev/dl)"));
        ensure!(missing.is_empty(), "this machine lacks:\n  {}", missing.join("\n  "));
        let (Some(java), Some(redis)) = (java, redis) else { bail!("java and redis-server went away") };

        once(&kafka, |folder| {
            say("Fetching Kafka, Kafka Connect and Debezium (once, about a minute)");
            run(maven(&pom, folder), "fetch Kafka and Debezium with mvn")
        })?;
        once(&minio, |folder| {
            say("Building MinIO (once, about four minutes)");
            let mut go = Command::new("go");
            go.args(["install", MINIO]).env("GOBIN", folder).env("CGO_ENABLED", "0");
            run(go, "build MinIO with go")
        })?;
        Ok(Self { java, kafka, minio: minio.join("minio"), redis, deploy, cache })
    }

    /// The folder of the schema registry, which is fetched once it is wanted.
    pub(crate) fn registry(&self, say: &(dyn Fn(&str) + Sync)) -> Result<PathBuf> {
        let pom = self.deploy.join("native/registry/pom.xml");
        let registry = self.cache.join(named("registry", &fs::read(&pom)?));
        once(&registry, |folder| {
            ensure!(
                find("mvn").is_some(),
                "this machine lacks mvn, to fetch the schema registry (Debian: apt install maven)"
            );
            say("Fetching the schema registry (once, some seconds)");
            run(maven(&pom, folder), "fetch the schema registry with mvn")
        })?;
        Ok(registry)
    }
}

fn maven(pom: &Path, into: &Path) -> Command {
    let mut maven = Command::new("mvn");
    maven.args(["-q", "-B", "-f"]).arg(pom).arg("package").arg(format!("-Dinto={}", into.display()));
    maven
}

/// Fills a folder, which is there only once it is whole. Two that do it at once do it twice.
fn once(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if folder.exists() {
        return Ok(());
    }
    let parent = folder.parent().context("a cache without a place")?;
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    let part = tempfile::tempdir_in(parent)?;
    fill(part.path())?;
    match fs::rename(part.path(), folder) {
        Err(_) if folder.exists() => Ok(()),
        renamed => renamed.with_context(|| format!("make {}", folder.display())),
    }
}

fn run(mut command: Command, action: &str) -> Result<()> {
    let output = command.output().with_context(|| action.to_owned())?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "could not {action}:\n{}", String::from_utf8_lossy(&said));
    Ok(())
}

pub(crate) fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn cache() -> Result<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("lakeward/stack"))
}

/// Names a folder after what fills it.
fn named(name: &str, content: &[u8]) -> String {
    let digest = format!("{:x}", Sha256::digest(content));
    format!("{name}-{}", &digest[..16])
}
