//! What the tests stand on: a Postgres of their own, a lake in a temporary folder, and the command itself.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use arrow::{array::AsArray, datatypes::Int64Type};
use lakeward_lakehouse::{Lake, S3Options, Watermark};
use lakeward_postgres::{EmbeddedOptions, EmbeddedPostgres};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};
use tokio_postgres::Client;

/// Whatever takes longer will not happen.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Stand {
    pub server: EmbeddedPostgres,
    pub url: String,
    pub client: Client,
    /// Where commands run; the lake, unless that is elsewhere.
    pub lake: TempDir,
    elsewhere: Option<(String, S3Options)>,
    /// More of the environment of commands.
    settings: Vec<(&'static str, String)>,
    /// The server's, and its services'.
    data: TempDir,
}

impl Stand {
    pub async fn new() -> Self {
        Self::start(false).await
    }

    /// With `fsync`, as slow and as lasting as a shop's own server.
    pub async fn start(fsync: bool) -> Self {
        let data = tempfile::tempdir().expect("a folder for Postgres");
        let options = EmbeddedOptions { fsync, ..EmbeddedOptions::new(data.path()) };
        let server = EmbeddedPostgres::start(options).await.expect("Postgres starts");
        Self::on(server, data).await
    }

    /// With the shop and the control database on that server.
    pub async fn on(server: EmbeddedPostgres, data: TempDir) -> Self {
        for database in ["shop", "control"] {
            server.create_database(database).await.expect("a database");
        }
        let url = server.url("shop");
        let client = lakeward_postgres::connect(&url).await.expect("a connection");
        let lake = tempfile::tempdir().expect("a folder for the lake");
        Self { server, url, client, lake, elsewhere: None, settings: Vec::new(), data }
    }

    /// Leaves lake and data where they are, to look at.
    pub fn keep(self) -> [PathBuf; 2] {
        [self.lake.keep(), self.data.keep()]
    }

    /// Commands know the settings, too.
    pub fn with(mut self, settings: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        self.settings.extend(settings);
        self
    }

    /// With its lake on S3.
    pub fn on_s3(self, url: String, options: S3Options) -> Self {
        let (key, secret) = options.access_key.clone().expect("keys of a store of our own");
        let settings = [
            ("LAKEWARD__LAKE__S3__ENDPOINT", options.endpoint.clone().expect("its endpoint")),
            ("LAKEWARD__LAKE__S3__REGION", options.region.clone().expect("its region")),
            ("LAKEWARD__LAKE__S3__ACCESS_KEY_ID", key),
            ("LAKEWARD__LAKE__S3__SECRET_ACCESS_KEY", secret),
        ];
        Self { elsewhere: Some((url, options)), ..self }.with(settings)
    }

    pub async fn sql(&self, statements: &str) {
        self.client.batch_execute(statements).await.expect("the statements run");
    }

    pub async fn count(&self, query: &str) -> i64 {
        self.client.query_one(query, &[]).await.expect("the query runs").get(0)
    }

    /// `lakeward` with the arguments, knowing this stand's control database.
    pub fn lakeward(&self, arguments: &[&str]) -> Command {
        let mut command = lakeward(arguments);
        command.env("LAKEWARD__CONTROL__URL", self.server.url("control")).current_dir(self.lake.path());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The same, with `--postgres-url`, `--lake` and `--json`.
    pub fn capture(&self, arguments: &[&str]) -> Command {
        let mut command = self.lakeward(arguments);
        command.args(["--postgres-url", &self.url, "--lake", self.lake_path(), "--json"]);
        command
    }

    pub fn lake_path(&self) -> &str {
        match &self.elsewhere {
            Some((url, _)) => url,
            None => self.lake.path().to_str().expect("a path of plain letters"),
        }
    }

    pub fn ingest_until_idle(&self) {
        succeed(self.capture(&["ingest", "--until-idle"]));
    }

    /// An ingester in the background, once it reads the slot.
    pub async fn start_ingester(&self) -> Background {
        let ingester = Background::start(self.capture(&["ingest"]));
        until("the ingester holds the slot", async || {
            self.count("select count(*) from pg_replication_slots where active").await == 1
        })
        .await;
        ingester
    }

    pub fn open_lake(&self) -> Lake {
        let options = self.elsewhere.as_ref().map(|(_, options)| options.clone()).unwrap_or_default();
        Lake::open_with(self.lake_path(), BTreeMap::new(), &options).expect("the lake opens")
    }

    /// The newest watermark; none before the first copy is whole.
    pub async fn watermark(&self) -> Option<Watermark> {
        self.open_lake().latest_watermark(None).await.expect("the watermarks can be read")
    }

    /// All watermarks that are kept, the oldest first.
    pub async fn watermarks(&self) -> Vec<Watermark> {
        self.open_lake().watermarks("shop").await.expect("the watermarks can be read")
    }

    /// The number that a query finds in a Delta table, which it calls `t`, at a version or the newest.
    pub async fn number(&self, path: &str, version: Option<i64>, query: &str) -> i64 {
        let lake = self.open_lake();
        let session = lake.session();
        let provider = lake.read(path, version).await.expect("the table reads");
        session.register_table("t", provider).expect("it registers");
        let found = session.sql(query).await.expect("it plans").collect().await.expect("it runs");
        found[0].column(0).as_primitive::<Int64Type>().value(0)
    }

    /// How many changes are in a table's bronze more than once.
    pub async fn doubled_in_bronze(&self, path: &str) -> i64 {
        let query = "select (select count(*) from t)
            - (select count(*) from (select distinct _epoch, _commit, _order from t)) as doubled";
        self.number(path, None, query).await
    }

    /// Runs `reconcile`, which must find no difference; gives the rows of each table.
    pub fn reconcile(&self) -> Vec<(String, u64)> {
        let report = json(&succeed(self.capture(&["reconcile"])));
        let tables = report["tables"].as_array().expect("tables").iter();
        tables
            .map(|table| {
                assert_eq!(table["source_rows"], table["lake_rows"], "{table}");
                (
                    table["table"].as_str().expect("a name").to_owned(),
                    table["lake_rows"].as_u64().expect("a count"),
                )
            })
            .collect()
    }
}

pub fn lakeward(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lakeward"));
    command.args(arguments).env_remove("LAKEWARD_POSTGRES_URL").env_remove("LAKEWARD_CONFIG");
    command
}

/// Runs to the end; the exit code must be 0.
pub fn succeed(mut command: Command) -> Output {
    let output = command.output().expect("the command starts");
    let (said, told) = (text(&output.stderr), text(&output.stdout));
    assert!(output.status.success(), "{command:?}: {}\n{said}\n{told}", output.status);
    output
}

/// Runs to the end; gives exit code and standard error.
pub fn fail(mut command: Command) -> (i32, String) {
    let output = command.output().expect("the command starts");
    (output.status.code().expect("no signal ended it"), text(&output.stderr))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The last line of standard output.
pub fn json(output: &Output) -> Value {
    let stdout = text(&output.stdout);
    let line = stdout.lines().last().expect("a line of output");
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// A command in the background, killed at the end of the test if it still runs.
pub struct Background {
    child: Child,
    /// What it said on standard error.
    said: NamedTempFile,
}

impl Background {
    pub fn start(mut command: Command) -> Self {
        let said = NamedTempFile::new().expect("a file");
        let stderr = said.reopen().expect("the file opens again");
        let child = command.stdout(Stdio::null()).stderr(stderr).spawn().expect("the command starts");
        Self { child, said }
    }

    pub fn kill(mut self) {
        assert!(self.ended().is_none(), "it ended by itself before it was killed: {}", self.said());
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is gone");
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(self.said.path()).expect("text")
    }

    /// The most memory it has had so far, in MiB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak is told");
        peak.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        kill(pid, signal).expect("it is there");
    }

    /// Ctrl-C; it must end by itself, with exit code 0.
    pub fn interrupt(self) {
        let (code, said) = self.interrupted();
        assert_eq!(code, Some(0), "{said}");
    }

    /// Ctrl-C; it must end by itself. Its exit code, and what it said on standard error.
    pub fn interrupted(mut self) -> (Option<i32>, String) {
        self.signal(Signal::SIGINT);
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return (status.code(), self.said());
            }
            assert!(began.elapsed() < PATIENCE, "Ctrl-C did not stop it");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python that `make test` makes, with another engine for Delta tables; none where it was not made, which is told.
pub fn python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".data/venv/bin/python");
    if !python.exists() {
        eprintln!("no other engine reads: there is no {}; `make test` makes it", python.display());
        return None;
    }
    Some(python)
}

/// A port of loopback that is free now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Asks again until the condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "still not true: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The newest watermark's tables.
pub fn listed(stand: &Stand) -> Vec<Value> {
    let output = succeed(stand.lakeward(&["table", "list", "--lake", stand.lake_path(), "--json"]));
    serde_json::from_slice(&output.stdout).expect("a list of tables")
}

/// How often the table was copied.
pub fn epoch(stand: &Stand, table: &str) -> i64 {
    let tables = listed(stand);
    let found = tables.iter().find(|entry| entry["name"] == table);
    found.map_or(0, |entry| entry["epoch"].as_i64().expect("an epoch"))
}

/// Every table of the source is in the newest cut, and equal.
pub async fn whole(stand: &Stand, tables: usize, after: &str) {
    until(&format!("the lake is whole after: {after}"), async || {
        let output = stand.capture(&["reconcile"]).output().expect("it runs");
        output.status.success() && json(&output)["tables"].as_array().map_or(0, Vec::len) == tables
    })
    .await;
}
