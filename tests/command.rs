//! Usage, configuration, exit codes.

use crate::stand::{fail, lakeward, succeed, text};

#[test]
fn wrong_usage_and_configuration_exit_with_2() {
    let (code, error) = fail(lakeward(&["ingest", "--nonsense"]));
    assert_eq!(code, 2);
    assert!(error.contains("--nonsense"), "{error}");

    let mut command = lakeward(&["config", "check"]);
    command.env("LAKEWARD__INGEST__FLUSH_ROWS", "0").env("LAKEWARD__LAKE__NOPE", "1");
    let (code, error) = fail(command);
    assert_eq!(code, 2);
    assert!(error.contains("lake.nope") && error.contains("ingest.flush_rows"), "{error}");

    let (code, error) = fail(lakeward(&["ingest", "--lake", "/tmp/nowhere-lake"]));
    assert_eq!(code, 2);
    assert!(error.contains("--postgres-url"), "{error}");
}

#[test]
fn a_server_that_does_not_answer_is_worth_another_try() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = lakeward(&["source", "drop", "--postgres-url", "postgres://a:secret@127.0.0.1:1/shop"]);
    command.current_dir(folder.path());
    let (code, error) = fail(command);
    assert_eq!(code, 1, "{error}");
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn a_kafka_connect_that_does_not_answer_is_worth_another_try() {
    let mut command = lakeward(&["connector", "status", "--connect-url", "http://127.0.0.1:1"]);
    command.args(["--postgres-url", "postgres://a:secret@127.0.0.1:1/shop"]);
    let (code, error) = fail(command);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("[connect] url") && !error.contains("secret"), "{error}");
}

#[test]
fn help_teaches_and_completions_complete() {
    let help = text(&succeed(lakeward(&["--help"])).stdout);
    for word in ["demo", "ingest", "reconcile", "Exit codes"] {
        assert!(help.contains(word), "{word} is not in the help");
    }
    let completions = text(&succeed(lakeward(&["completions", "bash"])).stdout);
    assert!(completions.contains("reconcile"));
}

#[test]
fn the_configuration_shows_no_secret() {
    let mut command = lakeward(&["config", "show"]);
    command.env("LAKEWARD__SOURCE__POSTGRES_URL", "postgres://me:hunter2@db/shop");
    let shown = text(&succeed(command).stdout);
    assert!(shown.contains("db/shop") && !shown.contains("hunter2"), "{shown}");
}
