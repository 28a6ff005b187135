//! One Postgres for all tests, a database each.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    util::display::array_value_to_string,
};
use futures::TryStreamExt;
use lakeward_cdc::{Boundary, ChangeStream, Chunk, PostgresOptions, PostgresSource, Snapshot};
use lakeward_change::{ChangeBatch, Lsn, Op, Position, TableId};
use lakeward_postgres::{EmbeddedOptions, EmbeddedPostgres};
use tempfile::TempDir;
use tokio::sync::{OnceCell, Semaphore};
use tokio_postgres::Client;

pub const WAIT: Duration = Duration::from_secs(60);
pub const EPOCH: i64 = 1;

static SERVER: OnceCell<(EmbeddedPostgres, TempDir)> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(1);

/// A database with its own source settings.
pub struct Database {
    pub url: String,
    pub client: Client,
}

impl Database {
    pub async fn create(schema: &str) -> Self {
        let (server, _) = SERVER
            .get_or_init(|| async {
                let dir = tempfile::tempdir().expect("a folder");
                let settings = [("max_replication_slots", "64"), ("max_wal_senders", "64")];
                let options = EmbeddedOptions {
                    fsync: false,
                    settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
                    ..EmbeddedOptions::new(dir.path())
                };
                (EmbeddedPostgres::start(options).await.expect("a server"), dir)
            })
            .await;
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        server.create_database(&name).await.expect("a database");
        let url = server.url(&name);
        let client = lakeward_postgres::connect(&url).await.expect("a connection");
        let database = Self { url, client };
        database.run(schema).await;
        database
    }

    pub async fn connect(&self) -> Client {
        lakeward_postgres::connect(&self.url).await.expect("a connection")
    }

    pub async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Whether publications can be of schemas, columns and some rows: from 15 on.
    pub async fn publishes_parts(&self) -> bool {
        self.one::<i32>("SELECT current_setting('server_version_num')::int").await >= 150_000
    }

    pub async fn source(&self) -> PostgresSource {
        PostgresSource::open(PostgresOptions::new(&self.url)).await.expect("a source")
    }

    /// Each statement in a transaction of its own.
    pub async fn run_each(&self, statements: &[&str]) {
        for sql in statements {
            self.run(sql).await;
        }
    }

    /// A source with its slot, streaming from the slot's start.
    pub async fn capture(&self) -> (PostgresSource, Box<dyn ChangeStream>) {
        let source = self.source().await;
        source.prepare().await.expect("a publication");
        let lsn = source.create_slot(WAIT).await.expect("a slot").lsn();
        let stream = source.stream(lsn, &followed(&source)).await.expect("a stream");
        (source, stream)
    }

    pub async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.client.query_one(sql, &[]).await.expect(sql).get(0)
    }

    /// A position after everything that is committed by now, on the server's disk.
    pub async fn mark(&self) -> Lsn {
        // A transaction of its own, so that the end of it is written out on every version.
        let mark = "SELECT pg_logical_emit_message(true, 'lakeward', '')::text";
        self.one::<String>(mark).await.parse().expect("a position")
    }
}

/// All tables of a source, from the stream's beginning on.
pub fn followed(source: &PostgresSource) -> BTreeMap<TableId, Position> {
    let from = Position { epoch: EPOCH, commit: 0, order: 0 };
    source.tables().iter().map(|table| (table.id.clone(), from)).collect()
}

/// A change, for comparing: values as text, `∅` null, `?` unavailable.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub table: String,
    pub op: Op,
    pub commit: i64,
    pub order: i64,
    pub lsn: i64,
    pub values: String,
    pub old_key: Option<String>,
}

pub fn rows(batches: &[ChangeBatch]) -> Vec<Row> {
    let mut rows: Vec<_> = batches.iter().flat_map(rows_of).collect();
    rows.sort_by_key(|row| (row.commit, row.order));
    rows
}

fn rows_of(batch: &ChangeBatch) -> Vec<Row> {
    let row = |i: usize| {
        let values = batch.values.columns().iter().zip(&batch.unavailable).map(|(column, mask)| {
            match mask.as_ref().is_some_and(|mask| mask.value(i)) {
                true => "?".into(),
                false => cell(column, i),
            }
        });
        let old = batch.old_keys.as_ref().filter(|old| old.is_valid(i));
        Row {
            table: batch.table.id.name.clone(),
            op: batch.ops[i],
            commit: batch.commits.value(i),
            order: batch.orders.value(i),
            lsn: batch.lsns.value(i),
            values: values.collect::<Vec<_>>().join("|"),
            old_key: old.map(|old| old.columns().iter().map(|c| cell(c, i)).collect::<Vec<_>>().join("|")),
        }
    };
    (0..batch.num_rows()).map(row).collect()
}

fn cell(column: &dyn Array, i: usize) -> String {
    if column.is_null(i) {
        return "∅".into();
    }
    match column.as_string_opt::<i32>() {
        Some(text) => text.value(i).to_owned(),
        None => array_value_to_string(column, i).expect("printable"),
    }
}

/// Reads until everything that committed before `lsn` is in.
pub async fn read_to(stream: &mut Box<dyn ChangeStream>, lsn: Lsn) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut closed = 0;
    loop {
        let chunk = next(stream).await;
        closed = check_boundary(&chunk, closed);
        let done = matches!(chunk.boundary, Boundary::Closed { end } if end >= lsn);
        chunks.push(chunk);
        if done {
            return chunks;
        }
    }
}

/// A closed end tells the truth: all that committed before it was there already, nothing else was. Gives the new end.
pub fn check_boundary(chunk: &Chunk, closed: i64) -> i64 {
    let commits = || chunk.batches.iter().flat_map(|batch| batch.commits.values());
    assert!(commits().all(|commit| *commit >= closed), "a change from before the last end {closed}");
    match chunk.boundary {
        Boundary::Open { commit } => {
            assert!(commits().all(|other| *other <= commit.as_i64()));
            closed
        }
        Boundary::Closed { end } => {
            assert!(commits().all(|commit| *commit < end.as_i64()), "a change from beyond the end {end}");
            end.as_i64()
        }
    }
}

pub async fn next(stream: &mut Box<dyn ChangeStream>) -> Chunk {
    tokio::time::timeout(WAIT, stream.next()).await.expect("something to arrive").expect("a chunk")
}

pub fn rows_of_chunks(chunks: &[Chunk]) -> Vec<Row> {
    rows(&chunks.iter().flat_map(|chunk| chunk.batches.clone()).collect::<Vec<_>>())
}

/// Everything that is committed by now.
pub async fn changes(database: &Database, stream: &mut Box<dyn ChangeStream>) -> Vec<Row> {
    let lsn = database.mark().await;
    rows_of_chunks(&read_to(stream, lsn).await)
}

pub fn table(name: &str) -> TableId {
    TableId::new("public", name)
}

pub async fn copied(snapshot: &Snapshot, table: &TableId, batch_rows: usize) -> Vec<RecordBatch> {
    let sessions = Arc::new(Semaphore::new(2));
    let batches = snapshot.copy(table, batch_rows, &sessions).await.expect("a copy");
    batches.map_ok(|copied| copied.rows).try_collect().await.expect("all rows")
}
