//! TLS, and a user who may do no more than is needed.

use std::{fs, path::Path};

use lakeward_features::View;
use lakeward_online::{Online, OnlineOptions, Status, TimesToLive};
use lakeward_stack::RedisAccess;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::server::{at, row};

/// As `docs/online-store.md` has it.
const USER: &str = "features on >pep%per ~shop:* ~user:* -@all +eval +hget +hmget +hgetall +hset +hdel +del +expire +ttl \
                    +set +scan +ping +hello +select";

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn open(address: &str, password: &str, certificates: &Path) -> Online {
    let options = OnlineOptions {
        url: format!("rediss://features:{password}@{address}/0"),
        certificates: Some(certificates.to_owned()),
        source: "shop".to_owned(),
        ttl: TimesToLive::default(),
    };
    Online::open(&options).unwrap()
}

#[tokio::test]
async fn tls_and_a_user_of_few_rights_are_enough() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (authority, key) = (authority(), KeyPair::generate().unwrap());
    let leaf =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let trusted = file("trusted.pem", authority.pem());
    let foreign = file("foreign.pem", self::authority().pem());
    let access = RedisAccess {
        certificate: file("server.pem", leaf.pem()),
        key: file("server.key", key.serialize_pem()),
        user: USER.split_whitespace().collect::<Vec<_>>().join(" "),
    };
    let (_redis, address) = lakeward_stack::redis(folder.path(), Some(&access)).await.unwrap();

    let online = open(&address, "pep%25per", &trusted);
    let scored = ["7", "{\"product_id\":7,\"score\":1.0}"];
    online.put(View::UserRfm, at(1, 1, 1, 0), &[row(1, &["{}"])]).await.unwrap();
    online.put(View::UserItemInteractions, at(1, 1, 1, 0), &[row(1, &scored)]).await.unwrap();
    online.put(View::UserRfm, at(1, 2, 1, 0), &[row(1, &[])]).await.unwrap();
    let found = online.customers(&[1], 0).await.unwrap();
    assert_eq!((found[0].views[0].status, found[0].views[2].status), (Status::NotFound, Status::Present));
    assert_eq!(online.materialized(View::UserRfm).await.unwrap(), None);

    for (refused, why) in [
        (open(&address, "wrong", &trusted), "the password"),
        (open(&address, "pep%25per", &foreign), "the certificate"),
    ] {
        let error = refused.customers(&[1], 0).await.unwrap_err();
        let told = format!("{error:?}");
        assert!(!told.contains("pep") && !told.contains("wrong@"), "{why}: {told}");
    }
    let plain = OnlineOptions {
        url: format!("redis://features:pep%25per@{address}/0"),
        certificates: None,
        source: "shop".to_owned(),
        ttl: TimesToLive::default(),
    };
    assert!(Online::open(&plain).unwrap().ping().await.is_err(), "without TLS");
    let nonsense = OnlineOptions { url: "https://me:secret@host".to_owned(), ..plain };
    let error = Online::open(&nonsense).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
}
