//! Advisory file locks, awaited without blocking the runtime. The system drops them with the process.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{At, Result};

const POLL: Duration = Duration::from_millis(10);

pub(crate) struct LockFile {
    path: PathBuf,
    file: File,
}

impl LockFile {
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .at("open", &path)?;
        Ok(Self { path, file })
    }

    pub(crate) async fn exclusive(&self) -> Result<()> {
        while !self.try_exclusive()? {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub(crate) async fn shared(&self) -> Result<()> {
        while !held(self.file.try_lock_shared(), &self.path)? {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub(crate) fn try_exclusive(&self) -> Result<bool> {
        held(self.file.try_lock(), &self.path)
    }

    pub(crate) fn release(&self) -> Result<()> {
        self.file.unlock().at("unlock", &self.path)
    }

    /// The open file itself: a child process that inherits it holds the lock too.
    pub(crate) fn share(&self) -> Result<File> {
        self.file.try_clone().at("share", &self.path)
    }
}

fn held(outcome: Result<(), TryLockError>, path: &Path) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error).at("lock", path),
    }
}
