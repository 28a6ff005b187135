//! The columns we read of each of the shop's tables, and how whatever type they have becomes the one we compute with.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use arrow::{
    array::{ArrayRef, RecordBatch, new_null_array},
    compute::cast,
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};

use crate::{FeatureError, Money, Result, ShopTable};

/// What a column is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier or a count: any integer type, or a decimal.
    Integer,
    /// A decimal of any scale, an integer, a float, or text (how a numeric without declared scale lands).
    Money,
    /// A timestamp or a date.
    Time,
    Text,
}

impl Kind {
    pub(crate) fn arrow(self) -> DataType {
        match self {
            Self::Integer => DataType::Int64,
            Self::Money => DataType::Decimal128(18, Money::SCALE),
            Self::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Text => DataType::Utf8,
        }
    }

    fn reads(self, found: &DataType) -> bool {
        let integer = found.is_integer() || matches!(found, DataType::Decimal128(_, 0));
        match self {
            Self::Integer => integer,
            Self::Money => found.is_numeric() || found.is_string(),
            Self::Time => matches!(found, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64),
            Self::Text => found.is_string() || integer,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Integer => "an integer",
            Self::Money => "an amount",
            Self::Time => "a time",
            Self::Text => "text",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Without it nothing can be computed; any other is read as null where the shop has none.
    pub(crate) required: bool,
}

const fn required(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, required: true }
}

const fn optional(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, required: false }
}

const USERS: [Column; 4] = [
    required("user_id", Kind::Integer),
    optional("name", Kind::Text),
    optional("created_at", Kind::Time),
    optional("last_login", Kind::Time),
];
const PRODUCTS: [Column; 4] = [
    required("product_id", Kind::Integer),
    optional("name", Kind::Text),
    optional("category", Kind::Text),
    optional("price", Kind::Money),
];
const ORDERS: [Column; 10] = [
    required("order_id", Kind::Integer),
    required("user_id", Kind::Integer),
    required("total_amount", Kind::Money),
    optional("status", Kind::Text),
    required("created_at", Kind::Time),
    optional("cancelled_at", Kind::Time),
    optional("returned_at", Kind::Time),
    optional("paid_at", Kind::Time),
    optional("shipped_at", Kind::Time),
    optional("completed_at", Kind::Time),
];
const ORDER_ITEMS: [Column; 5] = [
    required("order_item_id", Kind::Integer),
    required("order_id", Kind::Integer),
    required("product_id", Kind::Integer),
    required("quantity", Kind::Integer),
    required("price_per_unit", Kind::Money),
];
const EVENTS: [Column; 9] = [
    required("event_time", Kind::Time),
    required("event_type", Kind::Text),
    required("user_id", Kind::Integer),
    required("product_id", Kind::Integer),
    // By it the online store knows which event was deleted or changed.
    optional("event_id", Kind::Text),
    optional("category_code", Kind::Text),
    optional("brand", Kind::Text),
    optional("price", Kind::Money),
    optional("user_session", Kind::Text),
];

/// Of events, what sessions alone read.
const OF_SESSIONS: [&str; 4] = ["category_code", "brand", "price", "user_session"];

impl ShopTable {
    /// Whether a view's rows depend on a column.
    pub(crate) fn is_viewed(self, column: &str) -> bool {
        self != Self::Events || !OF_SESSIONS.contains(&column)
    }

    pub(crate) fn columns(self) -> &'static [Column] {
        match self {
            Self::Users => &USERS,
            Self::Products => &PRODUCTS,
            Self::Orders => &ORDERS,
            Self::OrderItems => &ORDER_ITEMS,
            Self::Events => &EVENTS,
        }
    }

    /// The table as we read it: [`Self::columns`], all nullable.
    pub(crate) fn schema(self) -> SchemaRef {
        static SCHEMAS: LazyLock<[SchemaRef; 5]> = LazyLock::new(|| {
            ShopTable::ALL.map(|table| {
                let fields =
                    table.columns().iter().map(|column| Field::new(column.name, column.kind.arrow(), true));
                Arc::new(Schema::new(fields.collect::<Vec<_>>()))
            })
        });
        Arc::clone(&SCHEMAS[self as usize])
    }

    /// Where each of [`Self::columns`] lies in `found`.
    ///
    /// # Errors
    /// Required columns that are missing, all of them at once, or a type that cannot be read.
    pub(crate) fn locate(self, found: &Schema) -> Result<Vec<Option<usize>>> {
        let missing: Vec<_> = self
            .columns()
            .iter()
            .filter(|column| column.required && found.index_of(column.name).is_err())
            .map(|column| column.name)
            .collect();
        if !missing.is_empty() {
            return Err(FeatureError::MissingColumns { table: self, columns: missing });
        }
        let locate = |column: &Column| {
            let Ok(index) = found.index_of(column.name) else { return Ok(None) };
            let data_type = found.field(index).data_type();
            if column.kind.reads(data_type) {
                return Ok(Some(index));
            }
            Err(FeatureError::ColumnType {
                table: self,
                column: column.name,
                found: data_type.to_string(),
                wanted: column.kind.name(),
            })
        };
        self.columns().iter().map(locate).collect()
    }

    /// A batch of this table in [`Self::schema`].
    pub(crate) fn normalise(self, batch: &RecordBatch) -> Result<RecordBatch> {
        let convert = |source| FeatureError::Convert { table: self, source };
        let columns = self
            .locate(&batch.schema())?
            .into_iter()
            .zip(self.columns())
            .map(|(index, column)| match index {
                Some(index) => cast(batch.column(index), &column.kind.arrow()).map_err(convert),
                None => Ok(new_null_array(&column.kind.arrow(), batch.num_rows())),
            })
            .collect::<Result<Vec<ArrayRef>>>()?;
        RecordBatch::try_new(self.schema(), columns).map_err(convert)
    }
}

impl fmt::Display for ShopTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Statuses that say an order does not count, in shops that keep no time for it.
pub(crate) const CLOSED_STATUSES: [&str; 4] = ["cancelled", "canceled", "returned", "refunded"];
