use lakeward_cdc::{CdcError, PostgresOptions, PostgresSource};
use lakeward_change::{ColumnType, TableId};

use crate::server::Database;

#[tokio::test]
async fn tables_come_with_types_and_keys_or_with_a_reason() {
    let database = Database::create(
        "CREATE SCHEMA shop; CREATE TABLE shop.orders(total numeric(12,2), id int8, wide numeric(40,2), PRIMARY KEY (id));
         CREATE TABLE shop.tmp_x(id int PRIMARY KEY);
         CREATE TABLE nokey(n int); CREATE TABLE bare(); CREATE UNLOGGED TABLE quick(id int PRIMARY KEY);
         CREATE TABLE whole(id int, n int, PRIMARY KEY (id) DEFERRABLE); ALTER TABLE whole REPLICA IDENTITY FULL;
         CREATE TABLE later(id int, PRIMARY KEY (id) DEFERRABLE);
         CREATE TABLE nothing(id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
         CREATE TABLE \"Odd \"\"name\"(\"Key\" int PRIMARY KEY);",
    )
    .await;
    let source = database.source().await;
    assert!(source.system_id().len() > 10 && source.timeline() == 1);
    let tables: Vec<_> = source.tables().iter().map(|table| table.id.to_string()).collect();
    let histories = ["public.later", "public.nokey", "public.nothing"];
    let [later, nokey, nothing] = histories;
    assert_eq!(
        tables,
        ["public.Odd \"name", later, nokey, nothing, "public.whole", "shop.orders", "shop.tmp_x"]
    );
    let whole = &source.tables()[4];
    assert!(whole.counts_rows() && whole.key == [0, 1], "a deferrable key tells no rows apart");
    let orders = &source.tables()[5];
    assert_eq!(orders.key, [1]);
    let types: Vec<_> = orders.columns.iter().map(|column| column.column_type).collect();
    assert_eq!(types, [ColumnType::Numeric { precision: 12, scale: 2 }, ColumnType::Int8, ColumnType::Text]);
    let found = source.histories();
    assert_eq!(found.iter().map(|table| table.id.to_string()).collect::<Vec<_>>(), histories);
    for (table, word) in found.iter().zip(["deferrable", "no usable key", "NOTHING"]) {
        assert!(table.reason.contains(word), "{found:?}");
    }
    let skipped = source.skipped();
    assert!(skipped.len() == 2 && skipped[0].reason.contains("no column"), "{skipped:?}");
    assert!(skipped[1].reason.contains("unlogged"), "{skipped:?}");
    source.prepare().await.expect("names are quoted");
    // No statement of the shop fails because of us.
    database
        .run(
            "INSERT INTO nokey VALUES (1); UPDATE nokey SET n = 2; INSERT INTO nothing VALUES (1); DELETE FROM nothing;
             INSERT INTO later VALUES (1); UPDATE later SET id = 2; INSERT INTO whole VALUES (1); DELETE FROM whole; UPDATE \"Odd \"\"name\" SET \"Key\" = 1;",
        )
        .await;

    let options = PostgresOptions {
        include: vec!["shop.*".into()],
        exclude: vec!["tmp_*".into()],
        ..PostgresOptions::new(&database.url)
    };
    let source = PostgresSource::open(options).await.expect("a source");
    assert_eq!(
        source.tables().iter().map(|table| table.id.clone()).collect::<Vec<_>>(),
        [TableId::new("shop", "orders")]
    );
    assert!(source.skipped().is_empty());
}

#[tokio::test]
async fn an_unfit_publication_is_refused() {
    let database = Database::create("CREATE TABLE t(id int PRIMARY KEY, n int);").await;
    let open = async |name: &str| {
        let options =
            PostgresOptions { publication: Some(name.into()), ..PostgresOptions::new(&database.url) };
        PostgresSource::open(options).await
    };
    database
        .run(
            "CREATE PUBLICATION inserts FOR TABLE t WITH (publish = 'insert');
             CREATE TABLE nokey(n int); CREATE PUBLICATION everything FOR ALL TABLES;",
        )
        .await;
    assert!(matches!(open("inserts").await, Err(CdcError::Publication { .. })));
    if database.publishes_parts().await {
        let parts =
            "CREATE PUBLICATION part FOR TABLE t WHERE (id > 5); CREATE PUBLICATION slim FOR TABLE t (id)";
        database.run(parts).await;
        assert!(matches!(open("part").await, Err(CdcError::Publication { .. })));
        let slim = open("slim").await.expect("a column list is fine");
        assert_eq!(slim.tables()[0].columns.len(), 1);
        assert_eq!(slim.omitted_columns()[0].1, "n");
    }
    let everything = open("everything").await.expect("it may hold more than is captured");
    assert_eq!((everything.tables().len(), everything.histories().len()), (1, 0));
    assert!(everything.skipped()[0].reason.contains("not one of ours"), "{:?}", everything.skipped());
}

#[tokio::test]
async fn a_publication_must_tell_of_partitions() {
    let database = Database::create(
        "CREATE TABLE t(id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE t_0 PARTITION OF t DEFAULT;
         CREATE TABLE bare(id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE PUBLICATION rooted FOR TABLE t, bare WITH (publish_via_partition_root = true);
         CREATE PUBLICATION named FOR TABLE t, bare; CREATE PUBLICATION everything FOR ALL TABLES;
         CREATE PUBLICATION leaf FOR TABLE t_0;",
    )
    .await;
    let mut whole = vec!["named", "everything"];
    if database.publishes_parts().await {
        database.run("CREATE PUBLICATION by_schema FOR TABLES IN SCHEMA public").await;
        whole.push("by_schema");
    }
    let found = async |name: &str| {
        let options =
            PostgresOptions { publication: Some(name.into()), ..PostgresOptions::new(&database.url) };
        let source = PostgresSource::open(options).await.expect("a source");
        (source.tables().len(), source.skipped().first().map(|table| table.reason.clone()))
    };
    for name in whole {
        assert_eq!(found(name).await, (2, None), "{name}");
    }
    assert!(
        matches!(found("rooted").await, (0, Some(reason)) if reason.contains("via_partition_root = false"))
    );
    assert!(matches!(found("leaf").await, (0, Some(reason)) if reason.contains("does not hold it")));

    let database = Database::create(
        "CREATE TABLE quick(id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE UNLOGGED TABLE quick_0 PARTITION OF quick DEFAULT;
         CREATE TABLE named(id int PRIMARY KEY, _leaf text) PARTITION BY RANGE (id);
         CREATE EXTENSION postgres_fdw; CREATE SERVER away FOREIGN DATA WRAPPER postgres_fdw;
         CREATE TABLE far(id int NOT NULL) PARTITION BY RANGE (id);
         CREATE FOREIGN TABLE far_0 PARTITION OF far DEFAULT SERVER away;",
    )
    .await;
    let source = database.source().await;
    for (table, word) in
        [("quick", "quick_0 is unlogged"), ("named", "a column _leaf"), ("far", "far_0 is a foreign")]
    {
        let found = source.skipped().iter().find(|skipped| skipped.id.name == table).expect("it is skipped");
        assert!(found.reason.contains(word), "{}", found.reason);
    }
}

#[tokio::test]
async fn an_empty_selection_is_an_error() {
    let database = Database::create("CREATE UNLOGGED TABLE quick(id int PRIMARY KEY);").await;
    assert!(matches!(database.source().await.prepare().await, Err(CdcError::NoTables { skipped: 1 })));
}

#[tokio::test]
async fn a_wrong_password_is_not_shown() {
    let database = Database::create("SELECT 1").await;
    let (start, end) = database.url.split_once('@').expect("a password");
    let user = start.rsplit_once(':').expect("a password").0;
    let url = format!("{user}:wrongsecret@{end}");
    let Err(error) = PostgresSource::open(PostgresOptions::new(&url)).await else { panic!("it let us in") };
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text += &cause.to_string();
        source = cause.source();
    }
    assert!(!text.contains("wrongsecret"), "{text}");
}
