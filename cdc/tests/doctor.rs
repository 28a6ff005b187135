use lakeward_cdc::{Level, doctor};

use crate::server::Database;

#[tokio::test]
async fn a_good_server_has_no_errors() {
    let database = Database::create("CREATE TABLE t(id int PRIMARY KEY); CREATE TABLE nokey(n int);").await;
    let findings = doctor(&database.url).await;
    assert!(findings.iter().all(|finding| finding.level != Level::Error), "{findings:#?}");
    let warning = findings.iter().find(|finding| finding.what.contains("public.nokey")).expect("a warning");
    assert_eq!(warning.level, Level::Warn);
    assert!(warning.fix.as_ref().is_some_and(|fix| fix.starts_with("ALTER TABLE \"public\".\"nokey\"")));
}

#[tokio::test]
async fn what_a_poor_role_lacks_is_named_with_its_sql() {
    let database = Database::create("CREATE TABLE t(id int PRIMARY KEY);").await;
    let name: String = database.one("SELECT current_database()::text").await;
    let role = format!("poor_{name}");
    database.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'poor'")).await;
    let address = database.url.split_once('@').expect("an address").1;
    let url = format!("postgres://{role}:poor@{address}");
    let fixes: Vec<_> = doctor(&url)
        .await
        .into_iter()
        .filter(|finding| finding.level == Level::Error)
        .filter_map(|finding| finding.fix)
        .collect();
    assert!(
        fixes.iter().any(|fix| fix.starts_with(&format!("ALTER ROLE \"{role}\" REPLICATION"))),
        "{fixes:?}"
    );
    let create = format!("GRANT CREATE ON DATABASE \"{name}\" TO \"{role}\"");
    assert!(fixes.contains(&create), "{fixes:?}");
    // The SQL mends it.
    database.run(&format!("ALTER ROLE {role} REPLICATION; {create}; GRANT SELECT ON t TO {role}")).await;
    let errors = doctor(&url).await.into_iter().filter(|finding| finding.level == Level::Error);
    assert_eq!(errors.collect::<Vec<_>>(), []);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_a_finding() {
    let findings = doctor("postgres://nobody@127.0.0.1:1/none?sslmode=disable").await;
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].level, Level::Error);
}
