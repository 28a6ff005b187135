//! Partitioned tables: one table in the lake, whatever becomes of its partitions.

use crate::stand::{Stand, epoch, until, whole};

/// By range, then by list, with defaults; one partition has its columns in another order.
const SALES: &str = "
    create table sales(id int, day date, region text, note text, primary key (id, day, region)) partition by range (day);
    create table sales_1 partition of sales for values from ('2026-01-01') to ('2026-02-01');
    create table sales_2 partition of sales for values from ('2026-02-01') to ('2026-03-01') partition by list (region);
    create table sales_2_n partition of sales_2 for values in ('n');
    create table sales_2_rest partition of sales_2 default;
    create table sales_3(note text, region text not null, gone int, day date not null, id int not null);
    alter table sales_3 drop column gone;
    alter table sales attach partition sales_3 for values from ('2026-03-01') to ('2026-04-01');
    create table sales_rest partition of sales default;
    insert into sales select n, date '2026-01-01' + n % 150, case n % 3 when 0 then 'n' else 's' end, 'sale ' || n
        from generate_series(1, 1500) n;
    create table other(id int primary key);
    insert into other select generate_series(1, 20);";

const SALE: &str = "public.sales";

/// The lake's definition has this partition, so its first row is nothing new.
async fn follows(stand: &Stand, partition: &str) {
    let lake = stand.open_lake();
    let watermark = stand.watermark().await.expect("a watermark");
    let (_, entry) = watermark.tables.iter().find(|(id, _)| id.to_string() == SALE).expect("it is followed");
    until("the partition is followed", async || {
        let definition = lake.definition(&entry.silver_path).await.expect("it reads").expect("it is there");
        definition.origin.leaves.iter().any(|leaf| leaf.name == partition)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_is_followed_through_all_its_partitions() {
    let stand = Stand::new().await;
    stand.sql(SALES).await;
    let ingester = stand.start_ingester().await;
    whole(&stand, 2, "the first copy").await;

    let streamed = [
        "update sales set day = day + 31 where id % 10 = 0; update sales set region = 'n' where id % 7 = 0",
        "update sales_3 set note = note || '!'; delete from sales_rest where id % 2 = 0",
        "begin; insert into sales values (9001, '2026-01-05', 's', 'before'), (9002, '2026-03-05', 's', 'kept');
         truncate sales_1; insert into sales values (9001, '2026-01-05', 's', 'after'); commit",
        // Out of a partition that is emptied, and back.
        "begin; update sales set day = '2026-03-09' where id = 9001; truncate sales_1;
         update sales set day = '2026-01-09' where id = 9001; commit",
        "truncate sales_2",
        "insert into sales select n, '2026-02-03', 'n', 'again' from generate_series(1, 50) n; truncate sales_2_rest, sales_rest",
        "create table sales_4 partition of sales for values from ('2026-05-01') to ('2026-06-01')",
        "insert into sales select n, '2026-05-02', 's', 'new' from generate_series(1, 100) n; truncate sales_3",
    ];
    for change in streamed {
        stand.sql(change).await;
        whole(&stand, 2, change).await;
        assert_eq!(epoch(&stand, SALE), 1, "every row came as a change: {change}");
    }
    // As some tools make a partition: beside the table, then attached.
    stand.sql("create table sales_5(like sales including all)").await;
    stand
        .sql("alter table sales attach partition sales_5 for values from ('2026-06-01') to ('2026-07-01')")
        .await;
    follows(&stand, "public.sales_5").await;
    stand.sql("insert into sales values (1, '2026-06-06', 's', 'first')").await;
    whole(&stand, 2, "an empty partition that was attached").await;
    assert_eq!(epoch(&stand, SALE), 1);

    let copied = [
        "create table sales_6(like sales including all); insert into sales_6 values (1, '2026-07-07', 's', 'had');
         alter table sales attach partition sales_6 for values from ('2026-07-01') to ('2026-08-01')",
        "drop table sales_2",
        "alter table sales_4 rename to sales_of_may",
        "drop table sales_5; create table sales_5 partition of sales for values from ('2026-06-01') to ('2026-07-01');
         insert into sales values (2, '2026-06-06', 's', 'second')",
    ];
    for (copies, change) in (2..).zip(copied) {
        stand.sql(change).await;
        stand.sql("insert into sales values (-1, '2026-01-31', 'n', 'x') on conflict do nothing").await;
        whole(&stand, 2, change).await;
        assert_eq!(epoch(&stand, SALE), copies, "{change}");
    }
    stand.sql("alter table sales detach partition sales_1; insert into sales_1 values (3, '2026-01-01', 'n', 'alone')").await;
    whole(&stand, 3, "a partition became a table").await;
    stand.sql("truncate sales").await;
    whole(&stand, 3, "all partitions emptied").await;
    assert_eq!((epoch(&stand, SALE), epoch(&stand, "public.other")), (6, 1), "the others go on");
    ingester.interrupt();
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_changed_while_nobody_looked_are_followed() {
    let stand = Stand::new().await;
    stand.sql(SALES).await;
    stand.ingest_until_idle();
    stand
        .sql(
            "insert into sales values (9003, '2026-01-05', 's', 'x'); truncate sales_3;
             create table sales_4 partition of sales for values from ('2027-05-01') to ('2027-06-01');
             insert into sales values (9004, '2027-05-05', 's', 'y'); truncate sales_1",
        )
        .await;
    stand.ingest_until_idle();
    whole(&stand, 2, "a new partition and truncates").await;
    assert_eq!(epoch(&stand, SALE), 1);

    // As an older version had it: what it published does not say which partition was emptied.
    stand.sql("alter publication lakeward_shop set (publish_via_partition_root = true)").await;
    stand.sql("insert into sales values (9005, '2027-05-05', 's', 'z'); truncate sales_rest").await;
    stand.ingest_until_idle();
    whole(&stand, 2, "a publication via the root").await;
    assert_eq!((epoch(&stand, SALE), epoch(&stand, "public.other")), (2, 1));
    stand.sql("truncate sales_4").await;
    stand.ingest_until_idle();
    whole(&stand, 2, "the publication is mended").await;
    assert_eq!(epoch(&stand, SALE), 2);
}
