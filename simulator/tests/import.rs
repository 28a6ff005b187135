use std::path::Path;

use lakeward_simulator::{Error, LoadReport, OrdersMap, import_complete_journey, import_orders};
use tokio_util::sync::CancellationToken;

use crate::server::Database;
use crate::wheel::{self, ROWS};

const MAP: &str = "user=customer,product=sku,order=basket,time=at,quantity=pieces,price=each,category=kind";
const HEADER: &str = "customer,sku,basket,at,pieces,each,kind\n";

async fn orders(database: &Database, file: &Path, map: &str) -> Result<LoadReport, Error> {
    import_orders(&database.url, file, &map.parse()?, &|_, _| {}, &CancellationToken::new()).await
}

async fn journey(database: &Database, wheel: &Path) -> Result<LoadReport, Error> {
    import_complete_journey(&database.url, wheel, None, &|_, _| {}, &CancellationToken::new()).await
}

#[track_caller]
fn assert_input(error: &Error, expected_row: Option<u64>, expected_column: Option<&str>, words: &str) {
    let Error::Input { row, column, reason, .. } = error else { panic!("{error:?}") };
    assert_eq!((*row, column.as_deref()), (expected_row, expected_column), "{error}");
    assert!(reason.contains(words), "{error}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_csv_with_text_keys_is_mapped() {
    let database = Database::new("import_csv").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines.csv");
    let text = format!(
        "{HEADER}ann,A-1,B1,2024-01-05 10:00,2,1.50,Tea\nbob,A-2,B2,2024-01-06,1,9.999,\nann,A-2,B1,2024-01-05 10:00,1,10,Cups\n"
    );
    std::fs::write(&file, text).unwrap();
    let report = orders(&database, &file, MAP).await.unwrap();
    assert_eq!((report.users, report.products, report.orders, report.order_items), (2, 2, 2, 3));
    assert_eq!(report.notes.len(), 1, "one price had three decimals");
    database.assert_totals_add_up().await;
    let row = "select o.external_id || ' ' || u.external_id || ' ' || total_amount || ' ' || status from orders o \
               join users u using (user_id) order by o.created_at limit 1";
    assert_eq!(database.text(row).await, "B1 ann 13.00 completed");
    // Named by the last line that sold it; that one has no category.
    assert_eq!(
        database.text("select category from products where external_id = 'A-2'").await,
        "Uncategorised"
    );
    assert_eq!(database.text("select price::text from products where external_id = 'A-2'").await, "10.00");
}

#[tokio::test]
async fn bad_lines_are_named_and_nothing_is_imported() {
    let database = Database::new("import_bad_csv").await;
    let folder = tempfile::tempdir().unwrap();
    let good = "1,10,7,2024-01-05,2,1.50,Tea\n";
    for (name, text, row, column, words) in [
        ("missing column", "customer,sku,basket,pieces,each,kind\n".into(), None, Some("at"), "missing"),
        ("bad date", format!("{HEADER}{good}1,11,7,2024-02-30,1,1,x\n"), Some(2), Some("at"), "date"),
        (
            "negative",
            format!("{HEADER}{good}1,11,7,2024-01-05,-1,1,x\n"),
            Some(2),
            Some("pieces"),
            "negative",
        ),
        ("zero", format!("{HEADER}1,11,7,2024-01-05,0,1,x\n"), Some(1), Some("pieces"), "0"),
        ("no number", format!("{HEADER}1,11,7,2024-01-05,1.5,1,x\n"), Some(1), Some("pieces"), "whole"),
        ("price", format!("{HEADER}1,11,7,2024-01-05,1,-1,x\n"), Some(1), Some("each"), "money"),
        ("empty", format!("{HEADER}1,,7,2024-01-05,1,1,x\n"), Some(1), Some("sku"), "empty"),
        ("duplicate", format!("{HEADER}{good}{good}"), Some(2), Some("sku"), "duplicate key"),
        (
            "two users",
            format!("{HEADER}{good}2,11,7,2024-01-05,1,1,x\n"),
            Some(2),
            Some("customer"),
            "another user",
        ),
        ("half a line", format!("{HEADER}{good}1,11,7,20"), Some(2), None, "cut off"),
        ("no rows", HEADER.to_owned(), None, None, "no rows"),
    ] {
        let file = folder.path().join("lines.csv");
        std::fs::write(&file, text).unwrap();
        let error = orders(&database, &file, MAP).await.expect_err(name);
        assert_input(&error, row, column, words);
        assert!(error.to_string().contains("lines.csv"), "{name}: {error}");
        database.assert_untouched().await;
    }
    let missing = orders(&database, &folder.path().join("none.csv"), MAP).await.unwrap_err();
    assert_input(&missing, None, None, "");
    let other = orders(&database, &folder.path().join("lines.xlsx"), MAP).await.unwrap_err();
    assert_input(&other, None, None, "neither");
}

#[test]
fn a_map_needs_user_product_and_time() {
    for text in ["user=a,product=b", "user", "user=a,product=b,time=c,shoe=d"] {
        assert!(matches!(text.parse::<OrdersMap>(), Err(Error::Option { name: "map", .. })), "{text}");
    }
}

#[tokio::test]
async fn a_wheel_is_imported_line_by_line() {
    let database = Database::new("import_wheel").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("small.whl");
    wheel::write(&file, &ROWS);
    let report = journey(&database, &file).await.unwrap();
    // Product 99 is in no list, product 13 was never sold.
    assert_eq!((report.users, report.products, report.orders, report.order_items), (3, 5, 6, 9));
    database.assert_totals_add_up().await;
    let value: i64 = ROWS.iter().map(|row| row.4).sum();
    assert_eq!(database.number("select (sum(total_amount) * 100)::bigint from orders").await, value);
    let units = "select string_agg(units::text, ' ' order by order_item_id) from order_items where quantity = 1 and units is not null";
    assert_eq!(database.text(units).await, "3 17148 0");
    assert_eq!(
        database.text("select name from products where product_id = 10").await,
        "Ice - crushed/cubed, 22 lb"
    );
    assert_eq!(database.text("select category from products where product_id = 12").await, "Fuel");
    // 2.75 was paid last for 10, 3.50 for 11: the median of their category prices what nobody bought.
    assert_eq!(database.text("select price::text from products where product_id = 13").await, "2.75");
    assert_eq!(database.number("select count(*) from orders where status <> 'completed'").await, 0);
}

#[tokio::test]
async fn a_bad_wheel_is_refused_whole() {
    let database = Database::new("import_bad_wheel").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.whl");
    for (change, row, column, words) in [
        ((1, 500, 10, -2, 500, 0), Some(2), Some("quantity"), "negative"),
        ((1, 500, 10, 1, -500, 0), Some(2), Some("sales_value"), "money"),
        ((2, 500, 11, 1, 100, 0), Some(2), Some("household_id"), "another household"),
        ((1, 500, 11, 1, 100, 1), Some(2), Some("transaction_timestamp"), "another time"),
        ((1, 500, 10, 1, 100, 0), Some(2), Some("product_id"), "duplicate key"),
    ] {
        let mut rows = ROWS.to_vec();
        rows[1] = change;
        wheel::write(&file, &rows);
        let error = journey(&database, &file).await.unwrap_err();
        assert_input(&error, row, column, words);
        assert!(error.to_string().contains("transactions.parquet"), "{error}");
        database.assert_untouched().await;
    }

    wheel::write(&file, &ROWS);
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert_input(&journey(&database, &file).await.unwrap_err(), None, None, "zip");
    std::fs::write(&file, b"no zip at all").unwrap();
    assert_input(&journey(&database, &file).await.unwrap_err(), None, None, "zip");
    let half = folder.path().join("half.parquet");
    std::fs::write(&half, &whole[40..400]).unwrap();
    assert_input(&orders(&database, &half, MAP).await.unwrap_err(), None, None, "Parquet");
    database.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_complete_journey_is_imported() {
    let Some(file) = std::env::var_os("LAKEWARD_COMPLETE_JOURNEY") else {
        eprintln!("skipped: LAKEWARD_COMPLETE_JOURNEY does not name the wheel");
        return;
    };
    let database = Database::new("import_complete_journey").await;
    let report = journey(&database, Path::new(&file)).await.unwrap();
    assert_eq!((report.users, report.orders, report.order_items), (2_469, 155_848, 1_469_307));
    assert!(report.products >= 92_331);
    database.assert_totals_add_up().await;
    // The sum of sales_value over the whole file.
    assert_eq!(database.text("select round(sum(total_amount))::text from orders").await, "4596040");
}
