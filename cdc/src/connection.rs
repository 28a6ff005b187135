//! Connections to the source: one set of session settings for all, so that every value has one text.

use std::{path::PathBuf, str::FromStr, time::Duration};

use pgwire_replication::{ReplicationClient, ReplicationConfig, SslMode, TlsConfig};
use tokio_postgres::{Client, Config, config::Host};
use url::Url;

use crate::CdcError;

/// Fixes the output of every type, keeps row-level security from hiding rows silently (a copy fails instead), and
/// lifts limits a role may carry that would end a long copy.
const SETTINGS: [(&str, &str); 12] = [
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("lc_monetary", "C"),
    ("search_path", "pg_catalog"),
    ("row_security", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
];

/// How often Postgres is told the confirmed position, if it moved.
pub(crate) const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Events between the socket and the decoder; each can be as large as a row.
const BUFFERED_EVENTS: usize = 1024;

/// An ordinary session.
pub(crate) async fn connect(url: &str) -> Result<Client, CdcError> {
    let client = lakeward_postgres::connect(url).await.map_err(|error| CdcError::Connect(error.into()))?;
    let settings: String = SETTINGS.iter().map(|(name, value)| format!("SET {name} = '{value}';")).collect();
    client.batch_execute(&settings).await.map_err(CdcError::query("take the session settings"))?;
    Ok(client)
}

/// A replication session that waits for commands; `publication` and `slot` matter once it streams.
pub(crate) async fn connect_replication(config: ReplicationConfig) -> Result<ReplicationClient, CdcError> {
    ReplicationClient::connect_gated(config).await.map_err(CdcError::replication("open a session"))
}

/// The replication client's configuration for a Postgres URL.
pub(crate) fn replication_config(
    url: &str,
    user: &str,
    database: &str,
    slot: &str,
    publication: &str,
) -> Result<ReplicationConfig, CdcError> {
    let (config, tls) = parse(url)?;
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.to_string_lossy().into_owned(),
        None => return Err(CdcError::Url("it names no host".into())),
    };
    let password = String::from_utf8_lossy(config.get_password().unwrap_or_default()).into_owned();
    let settings: Vec<_> = SETTINGS.iter().map(|(name, value)| format!("-c {name}={value}")).collect();
    let options = [config.get_options().unwrap_or_default(), &settings.join(" ")].join(" ");
    let tls = if host.starts_with('/') { TlsConfig::disabled() } else { tls };
    // The client puts the slot's name into its command as it is, and Postgres reads the publications as identifiers.
    let replication = ReplicationConfig::new(
        host,
        user,
        password,
        database,
        quote_identifier(slot),
        quote_identifier(publication),
    )
    .with_port(config.get_ports().first().copied().unwrap_or(5432))
    .with_tls(tls)
    .with_options(options.trim())
    .with_application_name("lakeward")
    .with_status_interval(STATUS_INTERVAL)
    .with_buffer_size(BUFFERED_EVENTS);
    Ok(replication)
}

/// Takes the TLS parameters out of a URL: tokio-postgres does not know them all.
fn parse(url: &str) -> Result<(Config, TlsConfig), CdcError> {
    // The parsers' own messages may quote the URL, and with it the password.
    let unreadable =
        || CdcError::Url("it is no Postgres URL (postgres://user:password@host:port/database)".into());
    let mut parsed = Url::parse(url).map_err(|_| unreadable())?;
    let (mut mode, mut root, mut certificate, mut key) = (SslMode::Prefer, None, None, None);
    let mut others = Vec::new();
    for (name, value) in parsed.query_pairs() {
        match name.as_ref() {
            "sslmode" => mode = ssl_mode(&value)?,
            "sslrootcert" => root = Some(PathBuf::from(value.as_ref())),
            "sslcert" => certificate = Some(PathBuf::from(value.as_ref())),
            "sslkey" => key = Some(PathBuf::from(value.as_ref())),
            _ => others.push((name.into_owned(), value.into_owned())),
        }
    }
    // Not query_pairs_mut: it writes spaces as `+`, which Postgres's URLs do not know.
    let query: Vec<_> =
        others.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    parsed.set_query((!query.is_empty()).then(|| query.join("&")).as_deref());
    let config = Config::from_str(parsed.as_str()).map_err(|_| unreadable())?;
    let tls = TlsConfig {
        mode,
        ca_pem_path: root.filter(|path| path.as_os_str() != "system"),
        client_cert_pem_path: certificate,
        client_key_pem_path: key,
        ..TlsConfig::default()
    };
    Ok((config, tls))
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn ssl_mode(mode: &str) -> Result<SslMode, CdcError> {
    match mode {
        "disable" => Ok(SslMode::Disable),
        "allow" | "prefer" => Ok(SslMode::Prefer),
        "require" => Ok(SslMode::Require),
        "verify-ca" => Ok(SslMode::VerifyCa),
        "verify-full" => Ok(SslMode::VerifyFull),
        other => Err(CdcError::Url(format!(
            "sslmode {other:?} is unknown: disable, prefer, require, verify-ca or verify-full"
        ))),
    }
}

/// A name as an SQL identifier.
pub(crate) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as an SQL literal.
pub(crate) fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
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
        ] {
            let message = config(url).expect_err(url).to_string();
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_literal("it's \\"), "E'it''s \\\\'");
    }
}
