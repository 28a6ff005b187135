//! Connections to the source: one set of session settings for all, so that every value has one text.

use std::time::Duration;

use lakeward_postgres::{Endpoint, Roots, Verification};
use pgwire_replication::{ReplicationClient, ReplicationConfig, SslMode, TlsConfig};
use postgres_protocol::escape::escape_identifier;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, config::Host};

use crate::CdcError;

/// Fixes the output of every type, keeps row-level security from hiding rows silently (a copy fails instead), and
/// lifts limits a role may carry that would end a long copy.
const SETTINGS: [(&str, &str); 13] = [
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("lc_monetary", "C"),
    ("search_path", "pg_catalog"),
    ("quote_all_identifiers", "off"),
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
];

/// How often Postgres is told the confirmed position, if it moved.
pub(crate) const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// A connection may be broken without either end knowing: who has not answered a small request for so long never will.
const PATIENCE: Duration = Duration::from_secs(30);
/// Events between the socket and the decoder; each can be as large as a row.
const BUFFERED_EVENTS: usize = 1024;

/// The answer to a small request, which must come soon.
///
/// # Errors
/// [`CdcError::Silent`] if it does not.
pub(crate) async fn answered<T>(
    action: &'static str,
    answer: impl Future<Output = Result<T, CdcError>>,
) -> Result<T, CdcError> {
    timeout(PATIENCE, answer).await.unwrap_or(Err(CdcError::Silent { action, waited: PATIENCE }))
}

/// An ordinary session.
pub(crate) async fn connect(url: &str) -> Result<Client, CdcError> {
    let client = lakeward_postgres::connect(url).await.map_err(CdcError::Connect)?;
    let settings: String = SETTINGS.iter().map(|(name, value)| format!("SET {name} = '{value}';")).collect();
    let set =
        async { client.batch_execute(&settings).await.map_err(CdcError::query("take the session settings")) };
    answered("take the session settings", set).await?;
    Ok(client)
}

/// A replication session that waits for commands; `publication` and `slot` matter once it streams.
pub(crate) async fn connect_replication(config: ReplicationConfig) -> Result<ReplicationClient, CdcError> {
    let connected = async {
        ReplicationClient::connect_gated(config).await.map_err(CdcError::replication("open a session"))
    };
    answered("open a replication session", connected).await
}

/// The replication client's configuration for a Postgres URL.
pub(crate) fn replication_config(
    url: &str,
    user: &str,
    database: &str,
    slot: &str,
    publication: &str,
) -> Result<ReplicationConfig, CdcError> {
    let Endpoint { config, verification } = Endpoint::parse(url).map_err(CdcError::Connect)?;
    let host = match config.get_hosts() {
        [Host::Tcp(host)] => host.clone(),
        #[cfg(unix)]
        [Host::Unix(path)] => path.to_string_lossy().into_owned(),
        [] => return Err(CdcError::Url("it names no host".into())),
        _ => return Err(CdcError::Url("it names several hosts: name the primary alone".into())),
    };
    let password = String::from_utf8_lossy(config.get_password().unwrap_or_default()).into_owned();
    let settings: Vec<_> = SETTINGS.iter().map(|(name, value)| format!("-c {name}={value}")).collect();
    let options = [config.get_options().unwrap_or_default(), &settings.join(" ")].join(" ");
    let tls = if host.starts_with('/') { TlsConfig::disabled() } else { tls(&config, verification) };
    // The client puts the slot's name into its command as it is, and Postgres reads the publications as identifiers.
    let replication = ReplicationConfig::new(
        host,
        user,
        password,
        database,
        escape_identifier(slot),
        escape_identifier(publication),
    )
    .with_port(config.get_ports().first().copied().unwrap_or(5432))
    .with_tls(tls)
    .with_options(options.trim())
    .with_application_name("lakeward")
    .with_status_interval(STATUS_INTERVAL)
    .with_buffer_size(BUFFERED_EVENTS);
    Ok(replication)
}

/// The same demands on the server's certificate as those of an ordinary session. Where that one takes the system's
/// certificates, the replication client takes Mozilla's.
fn tls(config: &Config, verification: Verification) -> TlsConfig {
    let file = |roots| match roots {
        Roots::File(path) => Some(path),
        Roots::System => None,
    };
    let (mode, ca_pem_path) = match (config.get_ssl_mode(), verification) {
        (tokio_postgres::config::SslMode::Disable, _) => (SslMode::Disable, None),
        (tokio_postgres::config::SslMode::Prefer, _) => (SslMode::Prefer, None),
        (_, Verification::None) => (SslMode::Require, None),
        (_, Verification::Chain(roots)) => (SslMode::VerifyCa, file(roots)),
        (_, Verification::ChainAndName(roots)) => (SslMode::VerifyFull, file(roots)),
    };
    TlsConfig { mode, ca_pem_path, ..TlsConfig::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<ReplicationConfig, CdcError> {
        replication_config(url, "u", "d", "s", "p")
    }

    #[test]
    fn urls_become_replication_settings() {
        let tcp = config("postgres://u:p%40ss@db.example.com:6432/d?sslmode=verify-full&sslrootcert=/ca.pem")
            .expect("valid");
        assert_eq!((tcp.host.as_str(), tcp.port, tcp.password.as_str()), ("db.example.com", 6432, "p@ss"));
        assert_eq!(tcp.tls.mode, SslMode::VerifyFull);
        assert_eq!(tcp.tls.ca_pem_path, Some("/ca.pem".into()));
        assert_eq!(tcp.slot, "\"s\"");
        let checked = config("postgres://u@h/d?sslmode=require&sslrootcert=/ca.pem").expect("valid");
        assert_eq!(checked.tls.mode, SslMode::VerifyCa, "as libpq does");

        let socket = config("postgres://u@%2Ftmp%2Fpg/d?application_name=a%20b").expect("valid");
        assert!(socket.is_unix_socket());
        assert_eq!((socket.host.as_str(), socket.port), ("/tmp/pg", 5432));
        assert_eq!(socket.tls.mode, SslMode::Disable);
        let socket = config("postgres:///d?host=/tmp/pg&port=7000").expect("valid");
        assert_eq!((socket.host.as_str(), socket.port), ("/tmp/pg", 7000));
    }

    #[test]
    fn unreadable_urls_do_not_show_their_password() {
        for url in [
            "postgres://u:secret@h/d?sslmode=maybe",
            "u:secret",
            "postgres://u:secret@h:99999/d",
            "postgres:///d",
            "postgres://u:secret@a,b/d",
        ] {
            let message = config(url).expect_err(url).to_string();
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
