//! The load of chaos: the simulated shop, and tables that are wide and odd, changed by random statements.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{task::JoinHandle, time::sleep};
use tokio_postgres::{Client, Row};

use crate::stand::{Background, Stand, succeed};

/// How much of it there is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Orders a second.
    pub rate: u32,
    /// Rows of each odd table.
    pub rows: u32,
    /// Between two transactions on odd tables, at most.
    pub pause: Duration,
}

/// Columns of the wide table.
const COLUMNS: u32 = 100;

/// Keys are moved about, so some statements find no room; they are part of the load as those that succeed.
/// `ROWS` stands for their number.
const ODD: &str = r#"
    create schema odd;
    create table odd."Mixed Case"(
        "Region Id" int, "Code" text, "Tags" text[], doc jsonb, "Amount" numeric(12,2),
        primary key ("Region Id", "Code"));
    insert into odd."Mixed Case"
        select i % 100, 'c' || i, array['a' || i % 5, 'b,"' || i % 3], jsonb_build_object('n', i % 9), i / 7.0
        from generate_series(1, ROWS) i;
    create table odd.toasted(id bigint primary key, small int, big text, bigger text);
    alter table odd.toasted alter big set storage external, alter bigger set storage external;
    insert into odd.toasted
        select i, i % 10, case when i % 50 = 0 then repeat(md5(i::text), 100) else 'short ' || i end,
            case when i % 70 = 0 then repeat(md5(i::text), 150) end
        from generate_series(1, ROWS) i;
    create table odd.parted(id bigint, day int, note text, at timestamptz, primary key (day, id))
        partition by range (day);
    create table odd.parted_1 partition of odd.parted for values from (0) to (10);
    create table odd.parted_2 partition of odd.parted for values from (10) to (20);
    create table odd.parted_rest partition of odd.parted default;
    insert into odd.parted select i, i % 30, 'n' || i, '2026-01-01Z' from generate_series(1, ROWS) i;
    create table odd.keyless(n int, note text); alter table odd.keyless replica identity full;
    insert into odd.keyless select nullif(i % 500, 0), 'n' || i % 20 from generate_series(1, ROWS) i;
    create table odd.emptied(id int primary key, note text);
    create table odd.pulses(id bigserial primary key, lsn pg_lsn default pg_current_wal_insert_lsn());
    insert into odd.pulses default values;"#;

/// Makes the tables, each of so many rows or more where it can be.
pub async fn prepare(stand: &Stand, rows: u32) {
    let mut seed = stand.lakeward(&["simulate", "seed", "--postgres-url", &stand.url]);
    seed.args(["--customers", "1600", "--products", "500"]);
    succeed(seed);
    stand.sql(&ODD.replace("ROWS", &rows.to_string())).await;
    let (mut columns, mut values) = (String::new(), String::new());
    for column in 1..COLUMNS {
        let (declared, value) = match column % 10 {
            0 => ("text", "'t' || i % 1000".to_owned()),
            1 => ("numeric(14,3)", "(i % 1000) / 8.0".to_owned()),
            2 => ("timestamptz", "timestamptz '2026-01-01Z' + i % 1000 * interval '1 second'".to_owned()),
            3 => ("boolean", format!("i % {} = 0", column + 2)),
            4 => ("double precision", "(i % 1000) / 3.0::float8".to_owned()),
            5 => ("date", "date '2026-01-01' + i % 100".to_owned()),
            _ => ("int", format!("i % {}", column + 1)),
        };
        // A String takes all.
        let _ = write!(columns, ", c{column} {declared}");
        let _ = write!(values, ", {value}");
    }
    stand
        .sql(&format!(
            "create table odd.wide(id bigint primary key{columns});
             insert into odd.wide select i{values} from generate_series(1, {rows}) i; analyze"
        ))
        .await;
}

pub struct Load {
    shop: Background,
    size: Size,
    odd: JoinHandle<()>,
    told: Arc<Told>,
}

/// What the load of the odd tables is told, and tells.
#[derive(Default)]
struct Told {
    ending: AtomicBool,
    /// Postgres shows a truncate to snapshots from before it, so that none may come while two states are compared.
    comparing: AtomicBool,
    committed: AtomicU64,
}

impl Load {
    pub fn start(stand: &Stand, size: Size, seed: u64) -> Self {
        let told = Arc::new(Told::default());
        let odd = tokio::spawn(change(stand.url.clone(), size, seed, Arc::clone(&told)));
        Self { shop: shop(stand, size), size, odd, told }
    }

    /// The simulated shop may give up when Postgres is killed.
    pub fn keep_up(&mut self, stand: &Stand) {
        assert!(!self.odd.is_finished(), "the load of the odd tables has ended");
        if self.shop.ended().is_some() {
            self.shop = shop(stand, self.size);
        }
    }

    /// Begins or ends a time without truncates.
    pub fn compare(&self, comparing: bool) {
        self.told.comparing.store(comparing, Ordering::Relaxed);
    }

    /// Ends it; gives the transactions that the odd tables saw.
    pub async fn end(self) -> u64 {
        self.told.ending.store(true, Ordering::Relaxed);
        self.odd.await.expect("the load does not panic");
        self.told.committed.load(Ordering::Relaxed)
    }
}

fn shop(stand: &Stand, size: Size) -> Background {
    let rate = size.rate.to_string();
    Background::start(stand.lakeward(&["simulate", "run", "--rate", &rate, "--postgres-url", &stand.url]))
}

async fn change(url: String, size: Size, seed: u64, told: Arc<Told>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut client: Option<Client> = None;
    while !told.ending.load(Ordering::Relaxed) {
        let statement = statement(size.rows, &mut random);
        if statement.starts_with("truncate") && told.comparing.load(Ordering::Relaxed) {
            continue;
        }
        let connected = match client.take().filter(|client| !client.is_closed()) {
            Some(connected) => connected,
            None => match lakeward_postgres::connect(&url).await {
                Ok(connected) => connected,
                Err(_) => {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let whole = format!("begin; {statement}; insert into odd.pulses default values; commit");
        match connected.batch_execute(&whole).await {
            Ok(()) => {
                told.committed.fetch_add(1, Ordering::Relaxed);
            }
            // A key that is taken, or Postgres is gone, which the next turn finds out.
            Err(_) => drop(connected.batch_execute("rollback").await),
        }
        client = Some(connected);
        sleep(random.random_range(Duration::ZERO..size.pause)).await;
    }
}

/// A part of a transaction, from the seed alone.
fn statement(rows: u32, random: &mut StdRng) -> String {
    let id = random.random_range(1..=rows);
    let some = random.random_range(1..200);
    let to = id + some;
    let n: u32 = random.random_range(0..1000);
    let column = [6, 7, 8, 9][random.random_range(0..4)] + 10 * random.random_range(0..9);
    match random.random_range(0..20) {
        0 => format!("update odd.wide set c{column} = {n} where id between {id} and {to}"),
        1 => format!("update odd.wide set c10 = 'u{n}', c1 = null, c5 = null where id = {id}"),
        2 => format!("delete from odd.wide where id between {id} and {id} + 3"),
        3 => format!("insert into odd.wide(id, c10, c3) values ({id}, 'again', true) on conflict do nothing"),
        4 => format!(r#"update odd."Mixed Case" set "Tags" = "Tags" || 't{n}'::text where "Code" = 'c{id}'"#),
        5 => {
            format!(
                r#"update odd."Mixed Case" set doc = doc || '{{"m": [{n}, null]}}' where "Code" = 'c{id}'"#
            )
        }
        6 => format!(r#"update odd."Mixed Case" set "Region Id" = {n} where "Code" = 'c{id}'"#),
        7 => {
            format!(
                r#"delete from odd."Mixed Case" where "Code" = 'c{id}';
                   insert into odd."Mixed Case" values (-{n}, 'c{id}', '{{}}', 'null', {n})"#
            )
        }
        // Unchanged large values, under the same key and under another.
        8 => format!("update odd.toasted set small = {n} where id between {id} and {to}"),
        9 => format!("update odd.toasted set id = -id where id between {id} and {to}"),
        10 => format!("update odd.toasted set big = repeat(md5('{n}'), 120), small = -1 where id = {id}"),
        // Some rows move to another partition.
        11 => format!("update odd.parted set day = (day + 7) % 33, note = 'm{n}' where id = {id}"),
        12 => format!("delete from odd.parted where id between {id} and {to} and day < 15"),
        13 => format!("insert into odd.parted values ({id}, {n} % 40, 'i', now()) on conflict do nothing"),
        14 => format!(
            "truncate odd.emptied; insert into odd.emptied select i, 'e{n}' from generate_series(1, {some}) i"
        ),
        // A part of the transaction that is taken back.
        15 => format!(
            "savepoint s; delete from odd.toasted where id = {id}; update odd.wide set c6 = 0 where id = {id};
             rollback to s"
        ),
        // Many equal rows, some of which change.
        16 => {
            format!("update odd.keyless set n = {some}, note = null where n = {n} and note = 'n' || n % 20")
        }
        17 => format!(
            "delete from odd.keyless where ctid in (select ctid from odd.keyless where n = {some} limit 3)"
        ),
        18 => format!("insert into odd.keyless select {some}, 'n7' from generate_series(1, 5)"),
        // A large transaction.
        _ if n < 100 => {
            format!("update odd.toasted set small = small + 1 where id between {id} and {id} + 20000")
        }
        _ => format!("update odd.emptied set id = -id, note = note || '{n}'"),
    }
}

/// One row, over a connection of its own; none while Postgres does not answer.
pub async fn ask(url: &str, query: &str) -> Option<Row> {
    lakeward_postgres::connect(url).await.ok()?.query_one(query, &[]).await.ok()
}
