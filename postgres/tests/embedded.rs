use std::os::unix::fs::PermissionsExt;

use lakeward_postgres::{EmbeddedOptions, EmbeddedPostgres, Error, connect};
use tokio_postgres::error::SqlState;

use crate::{options, server, text};

#[tokio::test]
async fn starts_stops_and_starts_again_with_its_data() {
    let (folder, first) = server().await;
    let port = first.port();
    first.create_database("shop \"1\"").await.unwrap();
    first.create_database("shop \"1\"").await.unwrap();
    let url = first.url("shop \"1\"");
    let client = connect(&url).await.unwrap();
    client.batch_execute("CREATE TABLE kept AS SELECT 'still here' AS word").await.unwrap();
    assert_eq!(text(&client, "SHOW wal_level").await, "logical");
    assert_eq!(text(&client, "SHOW fsync").await, "off");
    assert_eq!(text(&client, "SHOW application_name").await, "lakeward");
    assert_eq!(text(&client, "SHOW server_encoding").await, "UTF8");
    assert!(text(&client, "SHOW server_version").await.starts_with("17."));
    first.stop().await.unwrap();
    assert!(matches!(connect(&url).await, Err(Error::Connect { .. })));

    let settings = vec![("work_mem".to_owned(), "5MB".to_owned())];
    let again = EmbeddedOptions { settings, ..options(&folder) };
    let second = EmbeddedPostgres::start(again).await.unwrap();
    assert_eq!(second.port(), port, "the URL stays good");
    let client = connect(&second.url("shop \"1\"")).await.unwrap();
    assert_eq!(text(&client, "SELECT word FROM kept").await, "still here");
    assert_eq!(text(&client, "SHOW work_mem").await, "5MB");
    second.stop().await.unwrap();
}

#[tokio::test]
async fn is_closed_to_others() {
    let (folder, server) = server().await;
    let mode = |name: &str| folder.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("password"), 0o600);
    assert_eq!(mode("server"), 0o700);
    assert_eq!(mode("server.log"), 0o600);
    let client = connect(&server.url("postgres")).await.unwrap();
    assert_eq!(text(&client, "SHOW listen_addresses").await, "127.0.0.1");

    let password = std::fs::read_to_string(folder.path().join("password")).unwrap();
    let error = connect(&server.url("postgres").replace(&password, "wrong")).await.unwrap_err();
    let Error::Connect { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.code(), Some(&SqlState::INVALID_PASSWORD));
    assert!(!error.to_string().contains("wrong"), "{error}");
    assert!(!format!("{server:?}").contains(&password));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_deep_folder_has_no_socket_but_works() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(120));
    // Root's servers run as another account, which must get through.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let options = EmbeddedOptions { fsync: false, ..EmbeddedOptions::new(deep) };
    let server = EmbeddedPostgres::start(options).await.unwrap();
    let client = connect(&server.url("postgres")).await.unwrap();
    assert_eq!(text(&client, "SHOW unix_socket_directories").await, "");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_setting_that_does_not_work_is_told_with_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let settings = vec![("no_such_setting".to_owned(), "1".to_owned())];
    let error = EmbeddedPostgres::start(EmbeddedOptions { settings, ..options(&folder) }).await.unwrap_err();
    assert!(error.to_string().contains("no_such_setting"), "{error}");
    let server = EmbeddedPostgres::start(options(&folder)).await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn comes_back_after_a_crash() {
    let (folder, server) = server().await;
    let client = connect(&server.url("postgres")).await.unwrap();
    client.batch_execute("CREATE TABLE kept AS SELECT 'still here' AS word; CHECKPOINT").await.unwrap();
    let before = server.pid().unwrap();
    server.kill().unwrap();
    server.restart().await.unwrap();
    assert_ne!(server.pid().unwrap(), before);
    let client = connect(&server.url("postgres")).await.unwrap();
    assert_eq!(text(&client, "SELECT word FROM kept").await, "still here");

    server.kill().unwrap();
    let second = EmbeddedPostgres::start(options(&folder)).await.unwrap();
    let client = connect(&server.url("postgres")).await.unwrap();
    assert_eq!(text(&client, "SELECT word FROM kept").await, "still here");
    second.stop().await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn restarts_for_all_holders() {
    let (folder, server) = server().await;
    let second = EmbeddedPostgres::start(options(&folder)).await.unwrap();
    let before = server.pid().unwrap();
    second.restart().await.unwrap();
    assert_ne!(server.pid().unwrap(), before);
    connect(&server.url("postgres")).await.unwrap();
    server.stop().await.unwrap();
    connect(&second.url("postgres")).await.unwrap();
    second.stop().await.unwrap();
}
