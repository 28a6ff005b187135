//! Any file of order lines.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use arrow::array::Array;
use chrono::DateTime;
use tokio_util::sync::CancellationToken;

use super::ids::Ids;
use super::map::OrdersMap;
use super::sheet::{MAX_CENTS, Sheet};
use crate::error::Error;
use crate::load::{Output, load};
use crate::schema::{ORDER_ITEMS, ORDERS, PRODUCTS, USERS};
use crate::{LoadReport, Progress};

const STOCK: i32 = 1000;

/// Loads a CSV or Parquet file of order lines into an empty shop, in one transaction.
///
/// Keys that are whole numbers stay as they are; others are numbered and kept in `external_id`. Orders count as
/// completed at their own time: such files don't tell more. A product's price is the last one paid.
///
/// # Errors
/// [`Error::Input`] names row and column of what cannot be used; nothing is loaded then. Also [`Error::NotEmpty`],
/// [`Error::Cancelled`] and what the database says.
pub async fn import_orders(
    url: &str,
    file: &Path,
    map: &OrdersMap,
    progress: Progress<'_>,
    cancel: &CancellationToken,
) -> Result<LoadReport, Error> {
    let (file, map) = (file.to_owned(), map.clone());
    load(url, move |output| Lines::read(&file, &map)?.write(output), progress, cancel).await
}

struct Lines {
    users: Ids,
    products: Ids,
    times: Vec<i64>,
    /// One a row; made up where the file has none.
    orders: Vec<i64>,
    order_names: Option<Ids>,
    quantities: Vec<i32>,
    cents: Vec<i64>,
    names: Option<arrow::array::StringArray>,
    categories: Option<arrow::array::StringArray>,
    rounded: u64,
}

impl Lines {
    fn read(file: &Path, map: &OrdersMap) -> Result<Self, Error> {
        let sheet = Sheet::open(file, &map.columns())?;
        let users = Ids::read(&sheet, &map.user)?;
        let products = Ids::read(&sheet, &map.product)?;
        let times = sheet.times(&map.time, map.time_format.as_deref())?;
        let quantities = quantities(&sheet, map.quantity.as_deref())?;
        let mut rounded = 0;
        let cents = match &map.price {
            Some(column) => sheet.cents(column, &mut rounded)?,
            None => vec![0; sheet.rows()],
        };
        let order_names = map.order.as_deref().map(|column| Ids::read(&sheet, column)).transpose()?;
        let orders = match &order_names {
            Some(ids) => ids.values.clone(),
            None => orders_by_user_and_time(&users.values, &times),
        };
        let text = |column: &Option<String>| column.as_deref().map(|column| sheet.texts(column)).transpose();
        let (names, categories) = (text(&map.name)?, text(&map.category)?);
        let lines = Self {
            users,
            products,
            times,
            orders,
            order_names,
            quantities,
            cents,
            names,
            categories,
            rounded,
        };
        lines.check(&sheet, map)?;
        Ok(lines)
    }

    fn check(&self, sheet: &Sheet, map: &OrdersMap) -> Result<(), Error> {
        let mut owners: HashMap<i64, (i64, i64)> = HashMap::new();
        let mut seen = HashSet::with_capacity(sheet.rows());
        let lines = map
            .line
            .as_deref()
            .map(|column| Ids::read(sheet, column).map(|ids| (column, ids)))
            .transpose()?;
        for row in 0..sheet.rows() {
            let (user, order) = (self.users.values[row], self.orders[row]);
            let (owner, total) = owners.entry(order).or_insert((user, 0));
            if *owner != user {
                return Err(sheet.cell_error(
                    row,
                    &map.user,
                    "is another user than in the order's lines before",
                ));
            }
            *total = total.saturating_add(i64::from(self.quantities[row]).saturating_mul(self.cents[row]));
            if *total > MAX_CENTS {
                let column = map.price.as_deref().unwrap_or_default();
                return Err(sheet.cell_error(row, column, "makes the order's amount too large"));
            }
            let (key, column, reason) = match &lines {
                Some((column, ids)) => {
                    ((ids.values[row], 0), *column, "duplicate key: the line is there already")
                }
                None => (
                    (order, self.products.values[row]),
                    map.product.as_str(),
                    "duplicate key: the order has this product already; map a key of the line if that is meant",
                ),
            };
            if !seen.insert(key) {
                return Err(sheet.cell_error(row, column, reason));
            }
        }
        if sheet.rows() == 0 {
            return Err(Error::file(sheet.file(), "has no rows"));
        }
        Ok(())
    }

    fn write(&self, output: &mut Output) -> Result<LoadReport, Error> {
        let mut rows: Vec<usize> = (0..self.times.len()).collect();
        rows.sort_by_key(|row| (self.times[*row], self.orders[*row], *row));
        // Per user: first and last order; per product: first and last line; per order: its first time, user and amount.
        let mut users: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        let mut products: BTreeMap<i64, (usize, usize)> = BTreeMap::new();
        let mut orders: HashMap<i64, (usize, i64)> = HashMap::new();
        for row in &rows {
            let time = self.times[*row];
            users.entry(self.users.values[*row]).or_insert((time, time)).1 = time;
            products.entry(self.products.values[*row]).or_insert((*row, *row)).1 = *row;
            orders.entry(self.orders[*row]).or_insert((*row, 0)).1 +=
                i64::from(self.quantities[*row]) * self.cents[*row];
        }
        output.expect_rows((users.len() + products.len() + orders.len() + rows.len()) as u64);
        output.table(USERS)?;
        for (user, (first, last)) in &users {
            let label = self.users.label(*user);
            output.row(|row| {
                row.int8(*user)
                    .text(&format!("Customer {label}"))
                    .text(&format!("customer.{user}@example.com"))
                    .null()
                    .time(*first)
                    .time(*last)
                    .option(self.users.external(*user), |row, text| row.text(text));
            })?;
        }
        output.table(PRODUCTS)?;
        for (product, (first, last)) in &products {
            let text = |texts: &Option<arrow::array::StringArray>| {
                texts
                    .as_ref()
                    .filter(|texts| texts.is_valid(*last))
                    .map(|texts| texts.value(*last).to_owned())
            };
            let name =
                text(&self.names).unwrap_or_else(|| format!("Product {}", self.products.label(*product)));
            let category = text(&self.categories).unwrap_or_else(|| "Uncategorised".to_owned());
            output.row(|row| {
                row.int8(*product)
                    .text(&name)
                    .money(self.cents[*last])
                    .text(&category)
                    .null()
                    .null()
                    .int4(STOCK);
                row.time(self.times[*first])
                    .time(self.times[*last])
                    .option(self.products.external(*product), |row, text| row.text(text));
            })?;
        }
        output.table(ORDERS)?;
        for row in &rows {
            let order = self.orders[*row];
            let (first, total) = orders[&order];
            if first != *row {
                continue;
            }
            let time = self.times[*row];
            output.row(|columns| {
                columns.int8(order).int8(self.users.values[*row]).money(total).text("completed").time(time);
                columns.time(time).time(time).time(time).null().null();
                let external = self.order_names.as_ref().and_then(|ids| ids.external(order));
                columns.option(external, |columns, text| columns.text(text));
            })?;
        }
        output.table(ORDER_ITEMS)?;
        for (row, order_item_id) in rows.iter().zip(1..) {
            output.row(|columns| {
                columns
                    .int8(order_item_id)
                    .int8(self.orders[*row])
                    .int8(self.products.values[*row])
                    .int4(self.quantities[*row])
                    .money(self.cents[*row])
                    .null();
            })?;
        }
        let time =
            |row: Option<&usize>| row.and_then(|row| DateTime::from_timestamp_micros(self.times[*row]));
        let mut notes = Vec::new();
        if self.rounded > 0 {
            notes.push(format!(
                "{} prices had more than two decimals and were rounded to cents",
                self.rounded
            ));
        }
        Ok(LoadReport {
            users: users.len() as u64,
            products: products.len() as u64,
            orders: orders.len() as u64,
            order_items: rows.len() as u64,
            events: 0,
            first_order: time(rows.first()),
            last_order: time(rows.last()),
            notes,
        })
    }
}

fn quantities(sheet: &Sheet, column: Option<&str>) -> Result<Vec<i32>, Error> {
    let Some(column) = column else { return Ok(vec![1; sheet.rows()]) };
    let quantities = sheet.integers(column)?;
    quantities
        .into_iter()
        .enumerate()
        .map(|(row, quantity)| match i32::try_from(quantity) {
            Ok(quantity) if quantity >= 1 => Ok(quantity),
            Ok(0) => Err(sheet.cell_error(row, column, "is 0; an order line has at least 1 piece")),
            Ok(_) => Err(sheet.cell_error(row, column, "is negative")),
            Err(_) => Err(sheet.cell_error(row, column, "is too large or too small")),
        })
        .collect()
}

/// Numbers the (user, time) pairs in order of time, then user.
fn orders_by_user_and_time(users: &[i64], times: &[i64]) -> Vec<i64> {
    let mut pairs: Vec<(i64, i64)> = times.iter().copied().zip(users.iter().copied()).collect();
    let rows = pairs.clone();
    pairs.sort_unstable();
    pairs.dedup();
    rows.iter().map(|pair| pairs.partition_point(|other| other < pair) as i64 + 1).collect()
}
