//! The account that PostgreSQL runs as: the user's own, or an unprivileged one where the user is root.

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Gid, Uid, User};

use crate::error::{At, Error, Result};

pub(crate) struct Account {
    other: Option<Unprivileged>,
}

struct Unprivileged {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Account {
    /// The account for the server whose files are in `folder`, if it exists: an account stays with its files.
    pub(crate) fn detect(folder: &Path) -> Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self { other: None });
        }
        let owner =
            fs::metadata(folder).ok().map(|found| Uid::from_raw(found.uid())).filter(|uid| !uid.is_root());
        let user = match owner {
            Some(uid) => User::from_uid(uid),
            None => {
                Ok(["postgres", "nobody"].into_iter().find_map(|name| User::from_name(name).ok().flatten()))
            }
        };
        let user = user.ok().flatten().ok_or(Error::NoAccount)?;
        Ok(Self { other: Some(Unprivileged { name: user.name, uid: user.uid, gid: user.gid }) })
    }

    pub(crate) fn run_as(&self, command: &mut Command) {
        if let Some(other) = &self.other {
            command.gid(other.gid.as_raw()).uid(other.uid.as_raw());
        }
    }

    pub(crate) fn own(&self, path: &Path) -> Result<()> {
        match &self.other {
            Some(other) => chown(path, Some(other.uid.as_raw()), Some(other.gid.as_raw()))
                .at("change the owner of", path),
            None => Ok(()),
        }
    }

    /// A folder of the account's own, closed to everyone else.
    pub(crate) fn create_dir(&self, path: &Path) -> Result<()> {
        fs::create_dir_all(path).at("create", path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).at("set the permissions of", path)?;
        self.own(path)
    }

    /// A file of the account's own, closed to everyone else.
    pub(crate) fn write(&self, path: &Path, contents: &str) -> Result<()> {
        write_private(path, contents)?;
        self.own(path)
    }

    /// Fails, naming the folder, where the account cannot get to `path`.
    pub(crate) fn check_reach(&self, path: &Path) -> Result<()> {
        let Some(other) = &self.other else {
            return Ok(());
        };
        let path = fs::canonicalize(path).at("resolve", path)?;
        let closed = |folder: &&Path| match fs::metadata(folder) {
            Ok(found) => found.mode() & 0o001 == 0 && found.uid() != other.uid.as_raw(),
            Err(_) => true,
        };
        match path.ancestors().find(closed) {
            Some(folder) => {
                Err(Error::Unreachable { path: PathBuf::from(folder), account: other.name.clone() })
            }
            None => Ok(()),
        }
    }
}

/// A file only this user can read, complete or not there at all.
pub(crate) fn write_private(path: &Path, contents: &str) -> Result<()> {
    use std::io::Write;
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    fs::remove_file(&new)
        .or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
        .at("remove", &new)?;
    let mut file =
        fs::File::options().create_new(true).write(true).mode(0o600).open(&new).at("create", &new)?;
    file.write_all(contents.as_bytes()).at("write", &new)?;
    file.sync_all().at("write", &new)?;
    fs::rename(&new, path).at("create", path)
}
