use lakeward_change::Op;

use crate::server::{Database, WAIT, changes};

/// Postgres logs an insert before it checks unique indexes: B's insert of id 1 lies in the log before A's delete of
/// it, though it commits after.
#[tokio::test]
async fn the_order_of_commits_is_not_the_order_of_the_log() {
    let database = Database::create(
        "CREATE TABLE t(id int NOT NULL, u int); CREATE UNIQUE INDEX ON t(u);
         INSERT INTO t VALUES (1, 100); ALTER TABLE t ADD PRIMARY KEY (id);",
    )
    .await;
    let (_, mut stream) = database.capture().await;
    let (a, b, c) = (database.connect().await, database.connect().await, database.connect().await);
    let b_pid: i32 = b.query_one("SELECT pg_backend_pid()", &[]).await.expect("a pid").get(0);

    c.batch_execute("BEGIN; INSERT INTO t VALUES (99, 200)").await.expect("C inserts");
    let insert = tokio::spawn(async move { b.batch_execute("INSERT INTO t VALUES (1, 200)").await });
    tokio::time::timeout(WAIT, async {
        let blocked = "SELECT cardinality(pg_blocking_pids($1)) > 0";
        while !database.client.query_one(blocked, &[&b_pid]).await.expect("an answer").get::<_, bool>(0) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("B to wait for C");
    a.batch_execute("DELETE FROM t WHERE id = 1").await.expect("A deletes");
    c.batch_execute("ROLLBACK").await.expect("C rolls back");
    insert.await.expect("B's task").expect("B inserts");

    assert_eq!(database.one::<i64>("SELECT count(*) FROM t WHERE id = 1").await, 1);
    let rows = changes(&database, &mut stream).await;
    let [delete, insert] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((delete.op, delete.values.as_str()), (Op::Delete, "1|∅"));
    assert_eq!((insert.op, insert.values.as_str()), (Op::Insert, "1|200"));
    assert!(insert.commit > delete.commit, "the insert committed last");
    assert!(insert.lsn < delete.lsn, "and was logged first");
}
