use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use lakeward_postgres::{EmbeddedPostgres, Error, connect};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::server;

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Puts the server's certificate in place and turns TLS on.
async fn serve_tls(server: &EmbeddedPostgres, certificate: &str, key: &str) {
    let data = server.data_dir().join("server/data");
    let owner = data.metadata().unwrap();
    for (name, contents) in [("server.crt", certificate), ("server.key", key)] {
        let path = data.join(name);
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let client = connect(&server.url("postgres")).await.unwrap();
    client.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    server.restart().await.unwrap();
}

/// Whether the connection that the URL gives is encrypted.
async fn encrypted(url: &str) -> Result<bool, Error> {
    let client = connect(url).await?;
    let row = client.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]).await;
    Ok(row.unwrap().get(0))
}

fn with(server: &EmbeddedPostgres, host: &str, query: &str) -> String {
    server.url("postgres").replace("127.0.0.1", host).replace("sslmode=disable", query)
}

fn root(path: &Path) -> String {
    format!("sslrootcert={}", path.display())
}

#[tokio::test]
async fn sslmode_is_kept_to() {
    let (folder, server) = server().await;
    assert!(!encrypted(&with(&server, "127.0.0.1", "sslmode=prefer")).await.unwrap());
    let refused = encrypted(&with(&server, "127.0.0.1", "sslmode=require")).await;
    assert!(matches!(refused, Err(Error::Connect { .. })), "no TLS at the server");

    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    serve_tls(&server, &leaf.pem(), &key.serialize_pem()).await;
    let trusted = folder.path().join("trusted.crt");
    fs::write(&trusted, authority.pem()).unwrap();
    let foreign = folder.path().join("foreign.crt");
    fs::write(&foreign, self::authority().pem()).unwrap();
    let empty = folder.path().join("empty.crt");
    fs::write(&empty, "").unwrap();
    let (trusted, foreign) = (root(&trusted), root(&foreign));

    for (host, query, expected) in [
        ("127.0.0.1", "sslmode=disable".to_owned(), false),
        ("127.0.0.1", "sslmode=prefer".to_owned(), true),
        ("127.0.0.1", "sslmode=require".to_owned(), true),
        ("127.0.0.1", "sslmode=require&channel_binding=require".to_owned(), true),
        ("127.0.0.1", format!("sslmode=verify-ca&{trusted}"), true),
        ("localhost", format!("sslmode=verify-full&{trusted}"), true),
    ] {
        assert_eq!(encrypted(&with(&server, host, &query)).await.unwrap(), expected, "{query}");
    }
    for (host, query) in [
        ("127.0.0.1", format!("sslmode=verify-full&{trusted}")),
        ("localhost", format!("sslmode=verify-full&{foreign}")),
        ("127.0.0.1", format!("sslmode=verify-ca&{foreign}")),
        ("127.0.0.1", format!("sslmode=require&{foreign}")),
        ("localhost", "sslmode=verify-full&sslrootcert=system".to_owned()),
    ] {
        let refused = encrypted(&with(&server, host, &query)).await;
        assert!(matches!(refused, Err(Error::Connect { .. } | Error::Tls { .. })), "{query}");
    }
    for missing in [root(&empty), "sslrootcert=/nowhere.crt".to_owned()] {
        let refused = encrypted(&with(&server, "localhost", &format!("sslmode=verify-ca&{missing}"))).await;
        assert!(matches!(refused, Err(Error::Tls { .. })), "{missing}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_self_signed_certificate_can_be_the_trusted_one() {
    let (folder, server) = server().await;
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    serve_tls(&server, &own.pem(), &key.serialize_pem()).await;
    let path = folder.path().join("own.crt");
    fs::write(&path, own.pem()).unwrap();
    let query = format!("sslmode=verify-full&{}", root(&path));
    assert!(encrypted(&with(&server, "localhost", &query)).await.unwrap());
    assert!(encrypted(&with(&server, "127.0.0.1", &query)).await.is_err(), "another name");
    server.stop().await.unwrap();
}
