//! Changes by way of Debezium and Kafka: the same rows as without, whatever is killed.

use std::{collections::BTreeMap, process::Command, time::Duration};

use arrow::{array::AsArray, datatypes::Int64Type};
use lakeward_lakehouse::Lake;
use lakeward_stack::{DATABASE, Ports, Stack};
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::stand::{Background, fail, json, lakeward, succeed, text};

const TABLES: &str = "
    create table accounts (id int primary key, balance numeric(12, 2) not null, note text);
    create table \"Odd Names\" (\"Key\" text primary key, at timestamptz, tags text[], doc jsonb);
    create table parts (at date, id int, primary key (id, at));
    create table events (id int primary key, kind text);
    insert into accounts select i, 100, repeat(md5(i::text), 400) from generate_series(1, 200) i;
    insert into parts select '2026-06-01', i from generate_series(1, 20) i";

struct Shop {
    stack: Stack,
    client: Client,
    url: String,
    lake: TempDir,
    /// Last, since the services end before their folder.
    _folder: TempDir,
}

impl Shop {
    async fn open() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ports = Ports::free().expect("free ports");
        let stack = Stack::start(folder.path(), ports, &|doing| eprintln!("{doing}")).await.expect("a stack");
        stack.postgres.create_database("control").await.expect("a database");
        let url = stack.postgres.url(DATABASE);
        let client = lakeward_postgres::connect(&url).await.expect("a connection");
        let lake = tempfile::tempdir().expect("a folder for the lake");
        Self { stack, client, url, lake, _folder: folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = lakeward(arguments);
        command.args(["--postgres-url", &self.url]).current_dir(self.lake.path()).envs([
            ("LAKEWARD__CONTROL__URL", self.stack.postgres.url("control")),
            ("LAKEWARD__CONNECT__URL", format!("http://127.0.0.1:{}", self.stack.ports.connect)),
            ("LAKEWARD__SOURCE__KAFKA__PREFIX", "ecommerce".to_owned()),
            ("LAKEWARD__SOURCE__KAFKA__BROKERS", format!("127.0.0.1:{}", self.stack.ports.kafka)),
            ("LAKEWARD__SOURCE__EXCLUDE", "[\"public.events\"]".to_owned()),
            ("LAKEWARD__INGEST__FLUSH_SECONDS", "0.5".to_owned()),
        ]);
        command
    }

    fn capture(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.args(["--lake", self.lake_path(), "--json"]);
        command
    }

    fn lake_path(&self) -> &str {
        self.lake.path().to_str().expect("a path of plain letters")
    }

    async fn sql(&self, statements: &str) {
        self.client.batch_execute(statements).await.expect("the statements run");
    }

    /// The rows of each table, which are those of the source.
    fn reconciled(&self) -> BTreeMap<String, u64> {
        let report = json(&succeed(self.capture(&["reconcile"])));
        let tables = report["tables"].as_array().expect("tables").iter();
        let rows = tables.map(|table| {
            assert_eq!(table["source_rows"], table["lake_rows"], "{table}");
            assert_eq!(table["differing"], 0, "{table}");
            (
                table["table"].as_str().expect("a name").to_owned(),
                table["lake_rows"].as_u64().expect("a count"),
            )
        });
        rows.collect()
    }

    async fn doubled_in_bronze(&self, table: &str) -> i64 {
        let lake = Lake::open(self.lake_path(), BTreeMap::new()).expect("the lake opens");
        let session = lake.session();
        let path = format!("bronze/ecommerce/public/{table}");
        session.register_table("t", lake.read(&path, None).await.expect("it reads")).expect("it registers");
        let query = "select (select count(*) from t)
            - (select count(*) from (select distinct _epoch, _commit, _order from t)) as doubled";
        let found = session.sql(query).await.expect("it plans").collect().await.expect("it runs");
        found[0].column(0).as_primitive::<Int64Type>().value(0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_by_topics_are_those_of_the_log() {
    if lakeward_stack::is_skipped() {
        return;
    }
    let mut shop = Shop::open().await;
    shop.sql(TABLES).await;
    let (code, said) = fail(shop.capture(&["ingest", "--until-idle"]));
    assert!(code != 0 && said.contains("connector apply"), "{said}");
    succeed(shop.command(&["connector", "apply", "ecommerce-connector"]));

    succeed(shop.capture(&["ingest", "--until-idle"]));
    let copied = shop.reconciled();
    assert_eq!((copied["public.accounts"], copied["public.parts"]), (200, 20));
    every_kind_of_change(&shop).await;
    a_column_comes(&shop).await;
    a_connector_begins_anew(&shop).await;
    kills(&mut shop).await;
    succeed(shop.command(&["connector", "delete", "ecommerce-connector"]));
    shop.stack.stop().await.expect("the stack stops");
}

async fn every_kind_of_change(shop: &Shop) {
    shop.sql(
        "begin;
         insert into accounts values (1000, 5, 'new'), (1001, 6, null);
         update accounts set balance = balance + 1 where id <= 10;
         insert into \"Odd Names\" values ('Ärger', '2026-02-03 04:05:06.789+00', '{a,NULL}', '{\"a\": [1]}');
         delete from accounts where id between 11 and 20;
         commit;",
    )
    .await;
    // The long value is not sent, and is in the row of the old key.
    shop.sql("update accounts set id = id + 5000 where id between 21 and 25").await;
    shop.sql("begin; update accounts set id = -1 where id = 30; update accounts set id = 30 where id = 31; update accounts set id = 31 where id = -1; commit").await;
    shop.sql("update parts set at = '2026-08-01' where id <= 5").await;
    shop.sql("delete from accounts where id = 40; insert into accounts values (40, 1, 'again')").await;
    succeed(shop.capture(&["ingest", "--until-idle"]));
    assert_eq!(shop.reconciled()["public.accounts"], 192);
    shop.sql("truncate \"Odd Names\"; insert into \"Odd Names\" values ('after', null, null, null)").await;
    // More than can be held at a time.
    shop.sql("insert into accounts select i, 1, 'many' from generate_series(10001, 60000) i").await;
    let mut ingest = shop.capture(&["ingest", "--until-idle"]);
    ingest.env("LAKEWARD__INGEST__FLUSH_ROWS", "5000");
    succeed(ingest);
    let rows = shop.reconciled();
    assert_eq!((rows["public.accounts"], rows["public.Odd Names"]), (50_192, 1));
    for table in ["accounts", "parts"] {
        assert_eq!(shop.doubled_in_bronze(table).await, 0);
    }
}

/// Its events are of two definitions.
async fn a_column_comes(shop: &Shop) {
    shop.sql("insert into accounts values (2000, 1, 'before'); alter table accounts add column colour text; insert into accounts values (2001, 1, 'after', 'red')").await;
    succeed(shop.capture(&["ingest", "--until-idle"]));
    assert_eq!(shop.reconciled()["public.accounts"], 50_194);
}

/// Its slot went with what was changed meanwhile; its topics are those of before, with a new snapshot in them.
async fn a_connector_begins_anew(shop: &Shop) {
    succeed(shop.command(&["connector", "delete", "ecommerce-connector"]));
    shop.sql("delete from accounts where id = 2000; update accounts set balance = 7 where id = 2001").await;
    succeed(shop.command(&["connector", "apply", "ecommerce-connector"]));
    shop.sql("insert into accounts values (2002, 1, 'anew', 'blue')").await;
    let said = text(&succeed(shop.capture(&["ingest", "--until-idle"])).stderr);
    assert!(said.contains("snapshot that the connector took again"), "{said}");
    assert_eq!(shop.reconciled()["public.accounts"], 50_194);
}

/// Of the ingester, Connect and Kafka, while transfers go on.
async fn kills(shop: &mut Shop) {
    let writer = lakeward_postgres::connect(&shop.url).await.expect("a connection");
    let load = tokio::spawn(async move {
        for number in 0u64.. {
            let (from, to) = (number * 7 % 1000 + 10_001, number * 13 % 1000 + 20_001);
            let transfer = format!(
                "begin; update accounts set balance = balance - 1 where id = {from};
                 update accounts set balance = balance + 1 where id = {to};
                 insert into parts values ('2026-09-01', {}); commit",
                number + 1000
            );
            writer.batch_execute(&transfer).await.expect("a transfer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    for round in 0..4 {
        let ingester = Background::start(shop.capture(&["ingest"]));
        tokio::time::sleep(Duration::from_secs(6)).await;
        match round {
            1 => {
                shop.stack.connect.kill().await.expect("it is killed");
                shop.stack.connect.launch().await.expect("it comes back");
            }
            2 => {
                shop.stack.kafka.kill().await.expect("it is killed");
                shop.stack.kafka.launch().await.expect("it comes back");
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_secs(6)).await;
        ingester.kill();
    }
    load.abort();
    let output = succeed(shop.capture(&["ingest", "--until-idle"]));
    let rows = shop.reconciled();
    assert!(rows["public.parts"] > 1000, "{rows:?}\n{}", text(&output.stderr));
    for table in ["accounts", "parts"] {
        assert_eq!(shop.doubled_in_bronze(table).await, 0);
    }
}
