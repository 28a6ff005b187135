//! Trained models in the lake: `models/{kind}/{version}/` holds `model.bin` and `manifest.json`, written once and
//! never changed; `models/{kind}/champion.json` names the version in use and is moved by a conditional put.
//!
//! A model is bytes with a description here; what it means is its owner's business. Every load verifies checksums
//! from the champion down, so a damaged model is an error and never an answer.

use std::fmt::Display;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{Lake, canonical::hex};

/// The newest layout this registry reads, and the one it writes.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";
const MODEL: &str = "model.bin";
const CHAMPION: &str = "champion.json";

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    #[error("{0:?} cannot name a model: only a-z, A-Z, 0-9, '-' and '_' are allowed")]
    InvalidName(String),
    #[error("{0} µs is no date that can name a model version")]
    InvalidTime(i64),
    #[error("model {kind} has no version {version}")]
    NotFound { kind: String, version: String },
    #[error("{path} is damaged: {reason}; train and promote a new version")]
    Damaged { path: String, reason: String },
    #[error("{path} has format {found}, this program reads formats up to {supported}; upgrade the program")]
    NewerFormat { path: String, found: u64, supported: u32 },
    #[error("another version of model {kind} was promoted meanwhile; look at the champion and decide again")]
    Conflict { kind: String },
    #[error("{path} exists with other content; a version is never changed")]
    AlreadyExists { path: String },
    #[error("the object store gives no entity tag for {path}, so the champion cannot be moved safely")]
    NoEtag { path: String },
    #[error("the model registry failed at {path}")]
    Store { path: String, source: object_store::Error },
    #[error("the model registry failed at {path}")]
    Local { path: String, source: std::io::Error },
}

type Result<T> = std::result::Result<T, RegistryError>;

/// A trained model on its way into the registry.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The data's time it was trained at, µs UTC. Versions sort by it.
    pub as_of: i64,
    pub parameters: Value,
    pub metrics: Value,
    /// The state of the data it was trained on.
    pub watermark: Value,
    pub bytes: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub kind: String,
    /// `{as-of to the second, UTC}-{start of the model's SHA-256}`
    pub version: String,
    /// µs UTC
    pub as_of: i64,
    pub parameters: Value,
    pub metrics: Value,
    pub watermark: Value,
    /// SHA-256 of `model.bin`, hexadecimal.
    pub sha256: String,
}

/// The version in use, verified. `etag` names this state of `champion.json`.
#[derive(Debug, Clone)]
pub struct Champion {
    pub manifest: Manifest,
    pub bytes: Vec<u8>,
    pub etag: String,
}

#[derive(Serialize, Deserialize)]
struct Pointer {
    format: u32,
    version: String,
    manifest_sha256: String,
}

#[derive(Debug, Clone)]
pub struct Registry {
    store: Arc<dyn ObjectStore>,
    base: Path,
    /// Set for a local folder: object_store has no conditional overwrite there, a file lock stands in for it.
    folder: Option<PathBuf>,
}

impl Registry {
    /// The registry of a lake, in its folder `models`. A local folder is created.
    ///
    /// # Errors
    /// A folder that cannot be created.
    pub fn open(lake: &Lake) -> Result<Self> {
        let failed = |source| RegistryError::Store { path: lake.url().path().into(), source };
        if let Ok(folder) = lake.url().to_file_path() {
            let folder = folder.join("models");
            fs::create_dir_all(&folder).map_err(local_error(folder.display()))?;
            let store = Arc::new(LocalFileSystem::new_with_prefix(&folder).map_err(failed)?);
            return Ok(Self { store, base: Path::default(), folder: Some(folder) });
        }
        let base = Path::from_url_path(lake.url().path()).map_err(|error| failed(error.into()))?;
        Ok(Self::with_store(Arc::clone(lake.store()), base.join("models")))
    }

    /// A registry under `base` of a store that has conditional puts ([`PutMode::Update`]).
    pub fn with_store(store: Arc<dyn ObjectStore>, base: Path) -> Self {
        Self { store, base, folder: None }
    }

    /// Writes a new version; the same draft again changes nothing. The manifest comes last: a version without one
    /// does not exist.
    ///
    /// # Errors
    /// A name that is not allowed, another model in that version's place, or a failing store.
    pub async fn publish(&self, kind: &str, draft: Draft) -> Result<Manifest> {
        let sha256 = sha256(&draft.bytes);
        let time = DateTime::<Utc>::from_timestamp_micros(draft.as_of)
            .ok_or(RegistryError::InvalidTime(draft.as_of))?;
        let manifest = Manifest {
            format: FORMAT,
            kind: kind.into(),
            version: format!("{}-{}", time.format("%Y%m%dT%H%M%SZ"), &sha256[..12]),
            as_of: draft.as_of,
            parameters: draft.parameters,
            metrics: draft.metrics,
            watermark: draft.watermark,
            sha256,
        };
        let folder = self.folder(kind, &manifest.version)?;
        self.create(&folder.clone().join(MODEL), draft.bytes).await?;
        let path = folder.join(MANIFEST);
        self.create(&path, json(&path, &manifest)?).await?;
        Ok(manifest)
    }

    /// One version, verified.
    ///
    /// # Errors
    /// No such version, a damaged or newer one, or a failing store.
    pub async fn load(&self, kind: &str, version: &str) -> Result<(Manifest, Vec<u8>)> {
        let (manifest, _) = self.manifest(kind, version).await?;
        let bytes = self.model(&manifest).await?;
        Ok((manifest, bytes))
    }

    /// All complete versions, oldest first.
    ///
    /// # Errors
    /// A name that is not allowed, or a failing store.
    pub async fn versions(&self, kind: &str) -> Result<Vec<String>> {
        let folder = self.kind(kind)?;
        let objects =
            self.store.list(Some(&folder)).try_collect::<Vec<_>>().await.map_err(store_error(&folder))?;
        let mut versions: Vec<String> = objects
            .iter()
            .filter_map(|object| {
                let parts: Vec<_> = object.location.prefix_match(&folder)?.collect();
                let [version, file] = parts.as_slice() else { return None };
                (file.as_ref() == MANIFEST).then(|| version.as_ref().to_owned())
            })
            .collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// Makes a version the champion, if the champion is still the one the caller saw: `seen` is its tag, `None` where
    /// there was none. The version is verified first. Gives the new tag.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] when another was promoted meanwhile; and all of [`Registry::load`].
    pub async fn promote(&self, kind: &str, version: &str, seen: Option<&str>) -> Result<String> {
        let (manifest, manifest_sha256) = self.manifest(kind, version).await?;
        self.model(&manifest).await?;
        let path = self.kind(kind)?.join(CHAMPION);
        let pointer = json(&path, &Pointer { format: FORMAT, version: version.into(), manifest_sha256 })?;
        let put = match (seen, &self.folder) {
            (None, _) => self.put(&path, pointer, PutMode::Create).await,
            (Some(seen), None) => {
                let seen = UpdateVersion { e_tag: Some(seen.into()), version: None };
                self.put(&path, pointer, PutMode::Update(seen)).await
            }
            (Some(seen), Some(folder)) => {
                let _lock = lock(folder.join(kind).join(".champion.lock")).await?;
                if self.champion_etag(kind).await?.as_deref() != Some(seen) {
                    return Err(RegistryError::Conflict { kind: kind.into() });
                }
                self.put(&path, pointer, PutMode::Overwrite).await
            }
        };
        match put {
            Ok(etag) => etag.ok_or_else(|| RegistryError::NoEtag { path: path.to_string() }),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. }
                | object_store::Error::NotFound { .. },
            ) => Err(RegistryError::Conflict { kind: kind.into() }),
            Err(source) => Err(store_error(&path)(source)),
        }
    }

    /// The version in use, or `None` before the first promotion.
    ///
    /// # Errors
    /// Whatever part of it is damaged, missing or newer: the caller goes on with the one it has.
    pub async fn champion(&self, kind: &str) -> Result<Option<Champion>> {
        let path = self.kind(kind)?.join(CHAMPION);
        let Some((text, etag)) = self.get(&path).await? else { return Ok(None) };
        let etag = etag.ok_or_else(|| RegistryError::NoEtag { path: path.to_string() })?;
        let pointer: Pointer = parse(&path, &text)?;
        let missing = |error| match error {
            RegistryError::NotFound { .. } => damaged(&path, "the version it names does not exist"),
            other => other,
        };
        let (manifest, sha256) = self.manifest(kind, &pointer.version).await.map_err(missing)?;
        if sha256 != pointer.manifest_sha256 {
            let manifest_path = self.folder(kind, &pointer.version)?.join(MANIFEST);
            return Err(damaged(&manifest_path, "its checksum does not match the champion's"));
        }
        let bytes = self.model(&manifest).await?;
        Ok(Some(Champion { manifest, bytes, etag }))
    }

    /// The champion's tag alone, cheap enough to poll.
    ///
    /// # Errors
    /// A name that is not allowed, or a failing store.
    pub async fn champion_etag(&self, kind: &str) -> Result<Option<String>> {
        let path = self.kind(kind)?.join(CHAMPION);
        match self.store.head(&path).await {
            Ok(object) => {
                Ok(Some(object.e_tag.ok_or_else(|| RegistryError::NoEtag { path: path.to_string() })?))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(store_error(&path)(source)),
        }
    }

    async fn manifest(&self, kind: &str, version: &str) -> Result<(Manifest, String)> {
        let path = self.folder(kind, version)?.join(MANIFEST);
        let Some((text, _)) = self.get(&path).await? else {
            return Err(RegistryError::NotFound { kind: kind.into(), version: version.into() });
        };
        let manifest: Manifest = parse(&path, &text)?;
        if manifest.kind != kind || manifest.version != version {
            return Err(damaged(&path, "it describes another model"));
        }
        Ok((manifest, sha256(&text)))
    }

    async fn model(&self, manifest: &Manifest) -> Result<Vec<u8>> {
        let path = self.folder(&manifest.kind, &manifest.version)?.join(MODEL);
        let (bytes, _) = self.get(&path).await?.ok_or_else(|| damaged(&path, "it is missing"))?;
        if sha256(&bytes) != manifest.sha256 {
            return Err(damaged(&path, "its checksum does not match the manifest's"));
        }
        Ok(bytes)
    }

    /// Writes what must not exist yet, or already exists alike.
    async fn create(&self, path: &Path, bytes: Vec<u8>) -> Result<()> {
        let sum = sha256(&bytes);
        match self.put(path, bytes, PutMode::Create).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => match self.get(path).await? {
                Some((found, _)) if sha256(&found) == sum => Ok(()),
                _ => Err(RegistryError::AlreadyExists { path: path.to_string() }),
            },
            Err(source) => Err(store_error(path)(source)),
        }
    }

    async fn put(&self, path: &Path, bytes: Vec<u8>, mode: PutMode) -> object_store::Result<Option<String>> {
        Ok(self.store.put_opts(path, bytes.into(), PutOptions::from(mode)).await?.e_tag)
    }

    async fn get(&self, path: &Path) -> Result<Option<(Vec<u8>, Option<String>)>> {
        let object = match self.store.get(path).await {
            Ok(object) => object,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(store_error(path)(source)),
        };
        let etag = object.meta.e_tag.clone();
        let bytes = object.bytes().await.map_err(store_error(path))?;
        Ok(Some((bytes.into(), etag)))
    }

    fn kind(&self, kind: &str) -> Result<Path> {
        Ok(self.base.clone().join(checked(kind)?))
    }

    fn folder(&self, kind: &str, version: &str) -> Result<Path> {
        Ok(self.kind(kind)?.join(checked(version)?))
    }
}

/// Held until the file is dropped or its process ends, however it ends.
async fn lock(path: PathBuf) -> Result<File> {
    let name = path.display().to_string();
    let failed = local_error(&name);
    let locked = tokio::task::spawn_blocking(move || {
        let file = File::options().create(true).append(true).open(path)?;
        file.lock()?;
        Ok(file)
    });
    locked.await.unwrap_or_else(|stopped| Err(std::io::Error::other(stopped))).map_err(failed)
}

fn checked(name: &str) -> Result<&str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(RegistryError::InvalidName(name.into()));
    }
    Ok(name)
}

fn json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| damaged(path, error))?;
    text.push(b'\n');
    Ok(text)
}

fn parse<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T> {
    let value: Value = serde_json::from_slice(text).map_err(|error| damaged(path, error))?;
    match value.get("format").and_then(Value::as_u64) {
        Some(found) if found > u64::from(FORMAT) => {
            Err(RegistryError::NewerFormat { path: path.to_string(), found, supported: FORMAT })
        }
        Some(_) => serde_json::from_value(value).map_err(|error| damaged(path, error)),
        None => Err(damaged(path, "it has no format number")),
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn damaged(path: &Path, reason: impl Display) -> RegistryError {
    RegistryError::Damaged { path: path.to_string(), reason: reason.to_string() }
}

fn store_error(path: &Path) -> impl FnOnce(object_store::Error) -> RegistryError {
    let path = path.to_string();
    |source| RegistryError::Store { path, source }
}

fn local_error(path: impl Display) -> impl FnOnce(std::io::Error) -> RegistryError {
    let path = path.to_string();
    |source| RegistryError::Local { path, source }
}

#[cfg(test)]
mod tests;
