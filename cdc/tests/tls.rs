//! TLS of the replication session.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
};

use lakeward_cdc::{PostgresOptions, PostgresSource};
use lakeward_postgres::{EmbeddedOptions, EmbeddedPostgres};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::server::{WAIT, followed};

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

#[tokio::test]
async fn both_sessions_are_encrypted_and_check_the_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = EmbeddedOptions { fsync: false, ..EmbeddedOptions::new(folder.path()) };
    let server = EmbeddedPostgres::start(options).await.expect("a server");
    let (authority, key) = (authority(), KeyPair::generate().expect("a key"));
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let leaf = params.signed_by(&key, &authority).expect("a certificate");
    let data = server.data_dir().join("server/data");
    let owner = data.metadata().expect("the data");
    for (name, contents) in [("server.crt", leaf.pem()), ("server.key", key.serialize_pem())] {
        let path = data.join(name);
        fs::write(&path, contents).expect("it is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is closed");
        chown(&path, Some(owner.uid()), Some(owner.gid())).expect("it is the server's");
    }
    let client = lakeward_postgres::connect(&server.url("postgres")).await.expect("a connection");
    client.batch_execute("ALTER SYSTEM SET ssl = on").await.expect("a setting");
    client
        .batch_execute("SELECT pg_reload_conf(); CREATE TABLE t(id int PRIMARY KEY)")
        .await
        .expect("it runs");

    let file = |name: &str, pem: String| {
        let path = folder.path().join(name);
        fs::write(&path, pem).expect("it is written");
        path.display().to_string()
    };
    let trusted = file("trusted.crt", authority.pem());
    let foreign = file("foreign.crt", self::authority().pem());
    let url = |mode: &str, root: &str| {
        let query = format!("sslmode={mode}&sslrootcert={root}");
        server.url("postgres").replace("127.0.0.1", "localhost").replace("sslmode=disable", &query)
    };
    for mode in ["require", "verify-ca", "verify-full"] {
        let error =
            PostgresSource::open(PostgresOptions::new(url(mode, &foreign))).await.err().expect("no trust");
        assert!(!error.is_retryable(), "{error}");
    }
    let source =
        PostgresSource::open(PostgresOptions::new(url("verify-full", &trusted))).await.expect("trust");
    source.prepare().await.expect("a publication");
    let from = source.create_slot(WAIT).await.expect("a slot").lsn();
    let mut stream = source.stream(from, &followed(&source)).await.expect("a stream");
    client.batch_execute("INSERT INTO t VALUES (1)").await.expect("it runs");
    assert!(stream.next().await.expect("a chunk").num_rows() <= 1);
    let plain = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
                 WHERE a.application_name = 'lakeward' AND a.client_port IS NOT NULL AND NOT s.ssl AND a.pid <> pg_backend_pid()";
    assert_eq!(client.query_one(plain, &[]).await.expect("it runs").get::<_, i64>(0), 0);
    let encrypted = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid) WHERE ssl";
    assert_eq!(client.query_one(encrypted, &[]).await.expect("it runs").get::<_, i64>(0), 1);
    stream.close().await;
    server.stop().await.expect("it stops");
}
