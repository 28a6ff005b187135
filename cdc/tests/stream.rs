use lakeward_cdc::{Boundary, CdcError, PostgresOptions, PostgresSource, SlotState};
use lakeward_change::Op;

use crate::server::{Database, WAIT, changes, check_boundary, followed, next, read_to, rows, rows_of_chunks};

const TABLE: &str = "CREATE TABLE t(id int PRIMARY KEY, note text);";

#[tokio::test]
async fn a_confirmed_position_reaches_the_slot_and_nothing_before_it_comes_again() {
    let database = Database::create(TABLE).await;
    let (source, mut stream) = database.capture().await;
    database.run("INSERT INTO t VALUES (1, 'a')").await;
    let lsn = database.mark().await;
    let chunks = read_to(&mut stream, lsn).await;
    let Some(Boundary::Closed { end }) = chunks.last().map(|chunk| chunk.boundary) else { panic!("open") };
    stream.confirm(end, None);
    tokio::time::timeout(WAIT, async {
        loop {
            match source.slot().await.expect("a state") {
                SlotState::Present { confirmed, active_pid: Some(_), lost: false } if confirmed == end => {
                    break;
                }
                SlotState::Present { confirmed, .. } => {
                    assert!(confirmed <= end, "{confirmed} is not confirmed")
                }
                SlotState::Missing => panic!("the slot is gone"),
            }
        }
    })
    .await
    .expect("the slot to move");
    stream.close().await;
    database.run("INSERT INTO t VALUES (2, 'b')").await;
    let mut stream = source.stream(end, &followed(&source)).await.expect("a stream");
    let rows = changes(&database, &mut stream).await;
    assert_eq!(rows.iter().map(|row| row.values.as_str()).collect::<Vec<_>>(), ["2|b"]);
}

#[tokio::test]
async fn an_unconfirmed_stretch_comes_again_with_the_same_positions() {
    let database = Database::create(TABLE).await;
    let (source, mut stream) = database.capture().await;
    let SlotState::Present { confirmed, .. } = source.slot().await.expect("a state") else {
        panic!("no slot")
    };
    database
        .run("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 100) i; DELETE FROM t WHERE id < 5")
        .await;
    let first = changes(&database, &mut stream).await;
    drop(stream);
    let mut stream = source.stream(confirmed, &followed(&source)).await.expect("a stream");
    assert_eq!(changes(&database, &mut stream).await, first);
    assert_eq!(first.len(), 104);
}

#[tokio::test]
async fn one_reader_at_a_time() {
    let database = Database::create(TABLE).await;
    let (source, mut stream) = database.capture().await;
    let error = source.stream(lakeward_change::Lsn(0), &followed(&source)).await.err().expect("a refusal");
    assert!(matches!(error, CdcError::SlotInUse { .. }) && error.is_retryable(), "{error}");
    assert!(matches!(source.drop_all().await, Err(CdcError::SlotInUse { .. })));
    database.run("INSERT INTO t VALUES (1, 'a')").await;
    assert_eq!(changes(&database, &mut stream).await.len(), 1);
}

#[tokio::test]
async fn a_long_transaction_comes_in_parts() {
    let database = Database::create(TABLE).await;
    let options = PostgresOptions { max_chunk_rows: 7_000, ..PostgresOptions::new(&database.url) };
    let source = PostgresSource::open(options).await.expect("a source");
    source.prepare().await.expect("a publication");
    let from = source.create_slot(WAIT).await.expect("a slot").lsn();
    let mut stream = source.stream(from, &followed(&source)).await.expect("a stream");
    database.run("INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 100000) i").await;
    let lsn = database.mark().await;
    let chunks = read_to(&mut stream, lsn).await;
    let (parts, rest): (Vec<_>, Vec<_>) =
        chunks.iter().partition(|chunk| matches!(chunk.boundary, Boundary::Open { .. }));
    assert_eq!(parts.len(), 14);
    assert!(parts.iter().all(|chunk| chunk.num_rows() == 7_000));
    assert_eq!(rest.iter().map(|chunk| chunk.num_rows()).sum::<usize>(), 2_000);
    let rows = rows_of_chunks(&chunks);
    let commit = rows[0].commit;
    assert!(rows.iter().zip(1..).all(|(row, order)| (row.commit, row.order) == (commit, order)));
    assert!(
        parts
            .iter()
            .all(|chunk| chunk.boundary == Boundary::Open { commit: lakeward_change::Lsn::from_i64(commit) })
    );
}

#[tokio::test]
async fn a_cut_stands_exactly_at_a_snapshot() {
    let database = Database::create(TABLE).await;
    let (source, mut stream) = database.capture().await;
    database.run("INSERT INTO t VALUES (1, 'before')").await;
    let snapshot = source.temporary_snapshot(WAIT).await.expect("a snapshot");
    let cut = snapshot.lsn();
    stream.stop_before(Some(cut));
    database.run("INSERT INTO t VALUES (2, 'after')").await;
    let chunks = read_to(&mut stream, cut).await;
    assert_eq!(chunks.last().map(|chunk| chunk.boundary), Some(Boundary::Closed { end: cut }));
    let before = rows_of_chunks(&chunks);
    assert_eq!(before.iter().map(|row| row.values.as_str()).collect::<Vec<_>>(), ["1|before"]);
    // Held until the bound is lifted; dropping the future loses nothing.
    for _ in 0..3 {
        assert!(futures::FutureExt::now_or_never(stream.next()).is_none());
    }
    stream.stop_before(None);
    let after = changes(&database, &mut stream).await;
    assert_eq!(after.iter().map(|row| row.values.as_str()).collect::<Vec<_>>(), ["2|after"]);
    assert!(after[0].commit >= cut.as_i64());
}

#[tokio::test]
async fn a_cut_is_reached_without_any_transaction() {
    let database = Database::create(TABLE).await;
    let (source, mut stream) = database.capture().await;
    for _ in 0..3 {
        let cut = source.temporary_snapshot(WAIT).await.expect("a snapshot").lsn();
        stream.stop_before(Some(cut));
        let chunks = read_to(&mut stream, cut).await;
        assert_eq!(chunks.last().map(|chunk| chunk.boundary), Some(Boundary::Closed { end: cut }));
        assert!(rows_of_chunks(&chunks).is_empty());
        stream.stop_before(None);
    }
}

#[tokio::test]
async fn a_cut_that_comes_too_late_is_told() {
    let database = Database::create(TABLE).await;
    let (source, mut stream) = database.capture().await;
    let cut = source.temporary_snapshot(WAIT).await.expect("a snapshot").lsn();
    database.run("INSERT INTO t VALUES (1, 'beyond')").await;
    assert_eq!(changes(&database, &mut stream).await.len(), 1);
    stream.stop_before(Some(cut));
    assert!(matches!(next(&mut stream).await.boundary, Boundary::Closed { end } if end > cut));
}

#[tokio::test]
async fn an_idle_source_moves_on() {
    let database = Database::create(TABLE).await;
    let (_, mut stream) = database.capture().await;
    // No publication has it.
    database.run("CREATE TABLE unseen(n int)").await;
    database.run("INSERT INTO unseen SELECT generate_series(1, 100)").await;
    let lsn = database.mark().await;
    let chunks = read_to(&mut stream, lsn).await;
    assert!(chunks.iter().all(|chunk| chunk.batches.is_empty() && chunk.committed_at.is_none()));
}

/// Dropped futures: `next` loses nothing wherever it is cut off.
#[tokio::test]
async fn a_dropped_future_loses_nothing() {
    let database = Database::create(TABLE).await;
    let (_, mut stream) = database.capture().await;
    let writer = database.connect().await;
    let writing = tokio::spawn(async move {
        for id in 0..300 {
            writer.batch_execute(&format!("INSERT INTO t VALUES ({id}, 'x')")).await.expect("an insert");
        }
    });
    let mut batches = Vec::new();
    let (mut count, mut closed) = (0, 0);
    tokio::time::timeout(WAIT, async {
        while count < 300 {
            tokio::select! {
                biased;
                chunk = stream.next() => {
                    let chunk = chunk.expect("a chunk");
                    closed = check_boundary(&chunk, closed);
                    count += chunk.num_rows();
                    batches.extend(chunk.batches);
                }
                () = tokio::task::yield_now() => {}
            }
        }
    })
    .await
    .expect("all rows");
    writing.await.expect("the writer");
    let rows = rows(&batches);
    assert!(rows.iter().all(|row| row.op == Op::Insert));
    assert!(rows.iter().zip(0..).all(|(row, id)| row.values == format!("{id}|x")), "in order, each once");
}
