//! The cluster on disk: how it is made and configured.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::account::{Account, write_private};
use crate::binaries;
use crate::embedded::EmbeddedOptions;
use crate::error::{At, Error, Result};
use crate::guard::Layout;
use crate::lock::LockFile;

pub(crate) const SUPERUSER: &str = "postgres";

/// Makes the cluster beside its place and renames it: `data` is complete whenever it exists.
pub(crate) async fn initdb(
    layout: &Layout,
    account: &Account,
    binaries: &Path,
    options: &EmbeddedOptions,
    alive: &LockFile,
) -> Result<()> {
    let new = layout.server().join("data.new");
    if new.exists() {
        fs::remove_dir_all(&new).at("remove", &new)?;
    }
    let password = uuid::Uuid::new_v4().simple().to_string();
    let password_file = layout.server().join("password.initdb");
    account.write(&password_file, &password)?;
    let mut command = Command::new(binaries.join("bin/initdb"));
    clean_environment(&mut command);
    command
        .arg("--pgdata")
        .arg(&new)
        .args(["--username", SUPERUSER, "--auth", "scram-sha-256"])
        .arg("--pwfile")
        .arg(&password_file)
        .args(["--encoding", "UTF8", "--locale", "C"])
        .arg("--no-instructions")
        .current_dir("/")
        .process_group(0)
        // An initdb that survives us keeps the lock, so nobody works on the same folder.
        .stdin(Stdio::from(alive.share()?));
    if binaries::major() >= Some(17) {
        command.args(["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]);
    }
    if !options.fsync {
        command.arg("--no-sync");
    }
    account.run_as(&mut command);
    let output = tokio::process::Command::from(command).output().await.at("run initdb for", &layout.root)?;
    if !output.status.success() {
        return Err(Error::Initdb {
            data_dir: layout.root.clone(),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    fs::remove_file(&password_file).at("remove", &password_file)?;
    let main = new.join("postgresql.conf");
    let mut conf = fs::read_to_string(&main).at("read", &main)?;
    conf.push_str("\ninclude_if_exists = 'lakeward.conf'\n");
    account.write(&main, &conf)?;
    write_private(&layout.password(), &password)?;
    fs::rename(&new, layout.data()).at("create", &layout.data())
}

/// The lines of `lakeward.conf`, which `postgresql.conf` includes; written anew by every process that starts the server.
pub(crate) fn configuration(layout: &Layout, options: &EmbeddedOptions, port: u16) -> String {
    // A Unix socket's path has at most 107 bytes (103 on macOS); in a deeper folder there is TCP only.
    let server = layout.server();
    let socket = server.join(".s.PGSQL.65535.lock");
    let sockets =
        if socket.as_os_str().len() <= 103 { server.to_string_lossy().into_owned() } else { String::new() };
    let port = port.to_string();
    let mut settings = vec![
        ("listen_addresses", "127.0.0.1"),
        ("port", &port),
        ("unix_socket_directories", &sockets),
        ("unix_socket_permissions", "0700"),
        ("wal_level", "logical"),
        ("max_wal_senders", "16"),
        ("max_replication_slots", "16"),
        ("shared_buffers", "64MB"),
        ("max_wal_size", "512MB"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("log_checkpoints", "off"),
    ];
    if !options.fsync {
        settings.extend([("fsync", "off"), ("full_page_writes", "off")]);
    }
    settings.extend(options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    settings.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
        text
    })
}

/// The wanted port, else that of last time, so that URLs stay good, if it is free; any free one otherwise.
pub(crate) fn choose_port(layout: &Layout, wanted: Option<u16>) -> Result<u16> {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port))?.local_addr();
    let last = if layout.port().exists() { layout.read_port()? } else { 0 };
    free(wanted.unwrap_or(last))
        .or_else(|_| free(0))
        .map(|address| address.port())
        .at("find a free port for", &layout.root)
}

/// The server needs nothing of ours: least of all secrets, and no locale that its machine may lack.
pub(crate) fn clean_environment(command: &mut Command) {
    let path = env::var_os("PATH");
    command.env_clear().env("LC_ALL", "C").envs(path.map(|path| ("PATH", path)));
}
