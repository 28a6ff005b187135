//! The columns of a normalised batch, typed.

use std::hash::BuildHasher;

use arrow::{
    array::{Array, AsArray, Int64Array, PrimitiveArray, RecordBatch, StringArray, StructArray},
    buffer::NullBuffer,
    compute::cast,
    datatypes::{ArrowPrimitiveType, DataType, Decimal128Type, Int64Type, TimestampMicrosecondType},
};

use foldhash::quality::FixedState;

use crate::{FeatureError, Money, Result, ShopTable, columns::CLOSED_STATUSES};

/// A batch in [`ShopTable::schema`].
pub(crate) struct Rows {
    table: ShopTable,
    batch: RecordBatch,
}

impl Rows {
    pub(crate) fn of(table: ShopTable, batch: &RecordBatch) -> Result<Self> {
        Ok(Self { table, batch: table.normalise(batch)? })
    }

    pub(crate) fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// # Errors
    /// The row has no key. (Events are counted also without one.)
    pub(crate) fn check_key(&self, row: usize) -> Result<()> {
        if self.table == ShopTable::Events || self.integer(0, row).is_some() {
            return Ok(());
        }
        Err(FeatureError::NullKey { table: self.table, column: self.table.columns()[0].name })
    }

    /// The row's key, checked before; of an event a number made of it, or [`NO_EVENT`].
    pub(crate) fn key(&self, row: usize) -> i64 {
        match self.table {
            ShopTable::Events => self.text(4, row).map_or(NO_EVENT, event_key),
            _ => self.integer(0, row).unwrap_or_default(),
        }
    }

    fn value<T: ArrowPrimitiveType>(&self, column: usize, row: usize) -> Option<T::Native> {
        let array: &PrimitiveArray<T> = self.batch.column(column).as_primitive();
        array.is_valid(row).then(|| array.value(row))
    }

    fn integer(&self, column: usize, row: usize) -> Option<i64> {
        self.value::<Int64Type>(column, row)
    }

    fn time(&self, column: usize, row: usize) -> Option<i64> {
        self.value::<TimestampMicrosecondType>(column, row)
    }

    fn money(&self, column: usize, row: usize) -> Option<Money> {
        // 18 digits fit.
        self.value::<Decimal128Type>(column, row)
            .and_then(|value| i64::try_from(value).ok())
            .map(Money::from_units)
    }

    fn text(&self, column: usize, row: usize) -> Option<&str> {
        let array: &StringArray = self.batch.column(column).as_string();
        array.is_valid(row).then(|| array.value(row))
    }

    pub(crate) fn user(&self, row: usize) -> UserRow<'_> {
        UserRow { name: self.text(1, row), created_at: self.time(2, row), last_login: self.time(3, row) }
    }

    pub(crate) fn product(&self, row: usize) -> ProductRow<'_> {
        ProductRow { name: self.text(1, row), category: self.text(2, row), price: self.money(3, row) }
    }

    pub(crate) fn order(&self, row: usize) -> OrderRow<'_> {
        let times = [4, 5, 6, 7, 8, 9].map(|column| self.time(column, row));
        OrderRow {
            user_id: self.integer(1, row),
            total_amount: self.money(2, row).unwrap_or_default(),
            status: self.text(3, row),
            created_at: times[0],
            closed_at: [times[1], times[2]].into_iter().flatten().min(),
            newest_time: times.into_iter().flatten().max(),
        }
    }

    pub(crate) fn item(&self, row: usize) -> ItemRow {
        ItemRow {
            order_id: self.integer(1, row),
            product_id: self.integer(2, row),
            quantity: self.integer(3, row).unwrap_or(0),
            price: self.money(4, row).unwrap_or_default(),
        }
    }

    pub(crate) fn event(&self, row: usize) -> EventRow<'_> {
        EventRow {
            time: self.time(0, row),
            event_type: self.text(1, row),
            user_id: self.integer(2, row),
            product_id: self.integer(3, row),
            category_code: self.text(5, row),
            brand: self.text(6, row),
            price: self.money(7, row),
            visit: self.text(8, row).map(event_key),
        }
    }
}

/// An event without a key: it is counted, and whatever becomes of it later is not seen.
pub(crate) const NO_EVENT: i64 = 0;

/// 64 bits of a key that may be of any type.
fn event_key(key: &str) -> i64 {
    i64::from_ne_bytes(FixedState::with_seed(0).hash_one(key).to_ne_bytes())
}

/// Keys before changes, null where a change left the key as it was.
pub(crate) fn old_keys(table: ShopTable, keys: &StructArray) -> Result<Int64Array> {
    let convert = |source| FeatureError::Convert { table, source };
    if table == ShopTable::Events {
        let Some(column) = keys.column_by_name("event_id") else {
            return Ok(Int64Array::new_null(keys.len()));
        };
        let column = cast(column, &DataType::Utf8).map_err(convert)?;
        let old = |(row, key): (usize, Option<&str>)| key.filter(|_| keys.is_valid(row)).map(event_key);
        return Ok(column.as_string::<i32>().iter().enumerate().map(old).collect());
    }
    let name = table.columns()[0].name;
    let column =
        keys.column_by_name(name).ok_or(FeatureError::MissingColumns { table, columns: vec![name] })?;
    let column = cast(column, &DataType::Int64).map_err(convert)?;
    let column = column.as_primitive::<Int64Type>();
    Ok(Int64Array::new(column.values().clone(), NullBuffer::union(column.nulls(), keys.nulls())))
}

pub(crate) struct UserRow<'a> {
    pub(crate) name: Option<&'a str>,
    pub(crate) created_at: Option<i64>,
    pub(crate) last_login: Option<i64>,
}

pub(crate) struct ProductRow<'a> {
    pub(crate) name: Option<&'a str>,
    pub(crate) category: Option<&'a str>,
    pub(crate) price: Option<Money>,
}

pub(crate) struct OrderRow<'a> {
    pub(crate) user_id: Option<i64>,
    pub(crate) total_amount: Money,
    pub(crate) status: Option<&'a str>,
    pub(crate) created_at: Option<i64>,
    /// When it was cancelled or returned, whichever came first.
    pub(crate) closed_at: Option<i64>,
    pub(crate) newest_time: Option<i64>,
}

impl OrderRow<'_> {
    /// When it was cancelled or returned, given its status, which may be that of an earlier row; `i64::MAX` while it is
    /// kept. A status that came without a time counts at once, and for all time that can be asked for.
    pub(crate) fn closes_at(&self, status: &str) -> i64 {
        let closed = CLOSED_STATUSES.contains(&status).then_some(i64::MIN);
        self.closed_at.or(closed).unwrap_or(i64::MAX)
    }

    /// When it was placed and what it is worth, if it is kept as of this row.
    pub(crate) fn revenue(&self) -> Option<(i64, Money)> {
        let kept = self.closes_at(self.status.unwrap_or_default()) == i64::MAX;
        Some((self.created_at.filter(|_| kept)?, self.total_amount))
    }
}

pub(crate) struct ItemRow {
    pub(crate) order_id: Option<i64>,
    pub(crate) product_id: Option<i64>,
    pub(crate) quantity: i64,
    pub(crate) price: Money,
}

pub(crate) struct EventRow<'a> {
    pub(crate) time: Option<i64>,
    pub(crate) event_type: Option<&'a str>,
    pub(crate) user_id: Option<i64>,
    pub(crate) product_id: Option<i64>,
    pub(crate) category_code: Option<&'a str>,
    pub(crate) brand: Option<&'a str>,
    pub(crate) price: Option<Money>,
    /// A number for its `user_session`.
    pub(crate) visit: Option<i64>,
}
