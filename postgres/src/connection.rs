use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use url::{Url, form_urlencoded};

use crate::error::{Error, Result};
use crate::tls::{Roots, Verification, connector};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that has taken the connection may take so long to greet.
const GREETING: Duration = Duration::from_secs(20);
/// A dead machine, or a firewall that has forgotten the connection, is noticed within about a minute.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);

/// Connects, with TLS as the URL's `sslmode` says, and drives the connection in a task of its own until the client is
/// dropped.
///
/// `sslmode` means what it means to libpq (PostgreSQL manual, "SSL Support"): `disable`, `prefer` (the default),
/// `require` (encrypted, but anybody's certificate), `verify-ca`, `verify-full`. `sslrootcert` names a PEM file or
/// `system`; without it the verifying modes take `~/.postgresql/root.crt`, else the system's certificates. As with
/// libpq, `require` with a `sslrootcert` verifies like `verify-ca`.
///
/// # Errors
/// A URL that cannot be read, certificates that cannot be loaded, a server that cannot be reached or refuses. The
/// message names the server without the password.
pub async fn connect(url: &str) -> Result<Client> {
    let Endpoint { mut config, verification } = Endpoint::parse(url)?;
    if config.get_application_name().is_none() {
        config.application_name("lakeward");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    notice_silence(&mut config);
    let failed = |source| Error::Connect { server: mask(url), source };
    let limit = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT) + GREETING;
    let connecting = async {
        if config.get_ssl_mode() == SslMode::Disable {
            let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
            drive(connection);
            return Ok(client);
        }
        let tls = connector(&verification).map_err(|reason| Error::Tls { server: mask(url), reason })?;
        let (client, connection) = config.connect(tls).await.map_err(failed)?;
        drive(connection);
        Ok(client)
    };
    let silent = |_| Err(Error::Silent { server: mask(url), waited: limit });
    tokio::time::timeout(limit, connecting).await.unwrap_or_else(silent)
}

/// Lets the system find out that the other end is gone, unless the URL says how.
fn notice_silence(config: &mut Config) {
    if config.get_keepalives_idle() == Config::new().get_keepalives_idle() {
        config.keepalives_idle(KEEPALIVE_IDLE);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(KEEPALIVE_RETRIES);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(UNACKNOWLEDGED);
    }
}

fn drive(connection: impl Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static) {
    tokio::spawn(async move {
        // The caller's next statement fails with the same cause.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to Postgres ended");
        }
    });
}

/// The URL with every password replaced by `***`; for messages and logs.
pub fn mask(url: &str) -> String {
    const UNREADABLE: &str = "(a database URL that cannot be read)";
    let Ok(mut parsed) = Url::parse(url) else {
        return UNREADABLE.to_owned();
    };
    if parsed.cannot_be_a_base() {
        return UNREADABLE.to_owned();
    }
    if parsed.password().is_some() && parsed.set_password(Some("***")).is_err() {
        return UNREADABLE.to_owned();
    }
    let pairs: Vec<(String, String)> = parsed.query_pairs().into_owned().collect();
    if pairs.iter().any(|(name, _)| is_secret(name)) {
        parsed.query_pairs_mut().clear().extend_pairs(
            pairs.iter().map(|(name, value)| (name, if is_secret(name) { "***" } else { value })),
        );
    }
    parsed.into()
}

fn is_secret(parameter: &str) -> bool {
    ["password", "sslpassword"].iter().any(|secret| parameter.eq_ignore_ascii_case(secret))
}

/// What a Postgres URL says, for clients that connect in their own way; [`connect()`] does all of it.
#[derive(Debug)]
pub struct Endpoint {
    /// Without what `sslmode` asks of the server's certificate.
    pub config: Config,
    pub verification: Verification,
}

impl Endpoint {
    /// # Errors
    /// A URL that cannot be read; the message holds no value of it.
    pub fn parse(url: &str) -> Result<Self> {
        let unreadable = |reason: String| Error::Url { reason };
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(unreadable("it must start with postgres://".to_owned()));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut mode = "prefer".to_owned();
        let mut root_cert = None;
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", value)) => mode = decode(value),
                Some(("sslrootcert", value)) => root_cert = Some(decode(value)),
                _ => rest.push(pair),
            }
        }
        let mut config: Config = format!("{base}?{}", rest.join("&"))
            .parse()
            .map_err(|error: tokio_postgres::Error| unreadable(reason(&error)))?;
        let roots = match root_cert.as_deref() {
            None => None,
            Some("system") => Some(Roots::System),
            Some(path) => Some(Roots::File(PathBuf::from(path))),
        };
        let (mode, verification) = match (mode.as_str(), roots) {
            ("disable", _) => (SslMode::Disable, Verification::None),
            ("prefer", _) => (SslMode::Prefer, Verification::None),
            ("require", None) => (SslMode::Require, Verification::None),
            ("require", Some(roots)) => (SslMode::Require, Verification::Chain(roots)),
            ("verify-ca", roots) => {
                (SslMode::Require, Verification::Chain(roots.unwrap_or_else(Roots::usual)))
            }
            ("verify-full", roots) => {
                (SslMode::Require, Verification::ChainAndName(roots.unwrap_or_else(Roots::usual)))
            }
            (other, _) => {
                return Err(unreadable(format!(
                    "sslmode `{other}` is not one of disable, prefer, require, verify-ca, verify-full"
                )));
            }
        };
        config.ssl_mode(mode);
        Ok(Self { config, verification })
    }
}

/// Percent-decodes; in these URLs a plus sign is a plus sign.
fn decode(value: &str) -> String {
    let escaped = format!("={}", value.replace('+', "%2B"));
    form_urlencoded::parse(escaped.as_bytes()).map(|(_, value)| value.into_owned()).collect()
}

/// The parser's own words name a parameter, never a value.
fn reason(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => cause.to_string(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(query: &str) -> Endpoint {
        Endpoint::parse(&format!("postgres://u@h/d{query}")).expect("a good URL")
    }

    #[test]
    fn sslmode_decides_encryption_and_verification() {
        let file = || Roots::File(PathBuf::from("/a+b c/root.crt"));
        let cases = [
            ("", SslMode::Prefer, Verification::None),
            ("?sslmode=disable", SslMode::Disable, Verification::None),
            ("?sslmode=prefer", SslMode::Prefer, Verification::None),
            ("?sslmode=require", SslMode::Require, Verification::None),
            ("?sslmode=require&sslrootcert=/a+b%20c/root.crt", SslMode::Require, Verification::Chain(file())),
            (
                "?sslrootcert=/a+b%20c/root.crt&connect_timeout=3&sslmode=verify-ca",
                SslMode::Require,
                Verification::Chain(file()),
            ),
            (
                "?sslmode=verify-full&sslrootcert=system",
                SslMode::Require,
                Verification::ChainAndName(Roots::System),
            ),
        ];
        for (query, mode, verification) in cases {
            let target = parsed(query);
            assert_eq!(target.config.get_ssl_mode(), mode, "{query}");
            assert_eq!(target.verification, verification, "{query}");
        }
    }

    #[test]
    fn other_parameters_go_through() {
        let target = parsed("?sslmode=verify-ca&sslrootcert=system&connect_timeout=3");
        assert_eq!(target.config.get_connect_timeout(), Some(&Duration::from_secs(3)));
    }

    #[test]
    fn bad_urls_are_refused_without_their_secrets() {
        for url in [
            "mysql://u:hunter2@h/d",
            "host=h password=hunter2",
            "postgres://u:hunter2@h/d?sslmode=hunter",
            "postgres://u:hunter2@h/d?nonsense=1",
            "postgres://u:hunter2@h:port/d",
        ] {
            let message = Endpoint::parse(url).expect_err(url).to_string();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn mask_hides_every_password() {
        assert_eq!(
            mask("postgres://shop:s%40crt@db.example:5432/shop?sslmode=require"),
            "postgres://shop:***@db.example:5432/shop?sslmode=require"
        );
        assert_eq!(mask("postgres://shop@db.example/shop"), "postgres://shop@db.example/shop");
        assert_eq!(
            mask("postgres://db.example/shop?user=u&password=s3cret"),
            "postgres://db.example/shop?user=u&password=***"
        );
        for url in
            ["host=h password=s3cret", "postgres://u:s3cret@a:1,b:2/d", "postgres:u:s3cret@a", "u:s3cret@a/d"]
        {
            assert!(!mask(url).contains("s3cret"), "{}", mask(url));
        }
    }
}
