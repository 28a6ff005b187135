//! Tables and columns as the source declares them, and the Arrow types they become.

use std::{collections::BTreeMap, fmt, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::Lsn;

/// A table's name in its source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableId {
    pub schema: String,
    pub name: String,
}

impl TableId {
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// Why a table is not followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// It is another table than the one that was captured, or it is gone.
    Definition,
    /// It is being copied, and comes back by itself.
    Copying,
    /// Its rows cannot be taken in.
    #[default]
    Rows,
}

/// A table whose capture has stopped: what changes in it from here on does not arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoppedTable {
    #[serde(flatten)]
    pub id: TableId,
    pub reason: String,
    #[serde(default)]
    pub cause: StopCause,
    /// All that committed before this has arrived.
    #[serde(default)]
    pub complete_to: Lsn,
}

/// What a column holds. Whatever has no type of its own lands as text, in the source's own output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    /// An exact decimal of at most 38 digits; a wider one, or one without declared scale, is [`Self::Text`].
    Numeric {
        precision: u8,
        scale: i8,
    },
    Text,
    Uuid,
    Json,
    Bytes,
    Date,
    /// Microseconds since the epoch, UTC; a timestamp without time zone is read as UTC.
    Timestamp {
        zoned: bool,
    },
    /// The hexadecimal SHA-256 of a salt and the value's text; `salt` tells one salt from another.
    Hashed {
        salt: u32,
    },
}

impl ColumnType {
    pub fn arrow(self) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int2 => DataType::Int16,
            Self::Int4 => DataType::Int32,
            Self::Int8 => DataType::Int64,
            Self::Float4 => DataType::Float32,
            Self::Float8 => DataType::Float64,
            Self::Numeric { precision, scale } => DataType::Decimal128(precision, scale),
            Self::Text | Self::Uuid | Self::Json | Self::Hashed { .. } => DataType::Utf8,
            Self::Bytes => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Timestamp { .. } => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }

    /// Whether the source's type has values that ours lacks: NaN, infinities, a wider range.
    pub fn is_partial(self) -> bool {
        matches!(self, Self::Numeric { .. } | Self::Date | Self::Timestamp { .. })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// In the lake; the source may have another one ([`TableSchema::source_name`]).
    pub name: String,
    pub column_type: ColumnType,
    /// The type's name in the source, for people and for comparing definitions.
    pub source_type: String,
}

/// A captured table: its columns in the source's order and which of them are its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    pub id: TableId,
    pub columns: Vec<Column>,
    /// Indexes into `columns` of the key's columns, in the key's order. Empty where nothing tells rows apart: then only
    /// inserts and truncates are known, and only as a history. All columns where equal rows are counted.
    pub key: Vec<usize>,
    #[serde(default)]
    pub origin: Origin,
}

/// What a source knows a table by beyond names and types: it tells whether rows may have changed without messages.
/// Zero and empty where the source cannot tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Another number is another table of the same name.
    pub table: u32,
    /// Another number: all rows were written anew.
    pub storage: u32,
    /// One number a column, never used again.
    pub columns: Vec<i16>,
    /// Numbers of columns that came with a value for the rows that were there before.
    pub filled: Vec<i16>,
    /// The source's names of columns that have another name in the lake, by that name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub renamed: BTreeMap<String, String>,
    /// There is no key, but updates and deletes tell the whole row before: equal rows are counted.
    #[serde(default)]
    pub whole_rows: bool,
    /// The partitions that hold a partitioned table's rows.
    #[serde(default)]
    pub leaves: Vec<Leaf>,
}

/// The column that a partitioned table has besides its own: in which partition the row is.
pub const LEAF: &str = "_leaf";

/// A partition that holds rows, at any depth below its table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// As [`Origin::table`].
    pub table: u32,
    /// What [`LEAF`] says of its rows: `schema.name`.
    pub name: String,
    /// It may have had rows before it became a part of the table.
    pub filled: bool,
}

impl TableSchema {
    /// The Arrow schema of a row image: every column nullable, since deletes carry keys only.
    pub fn arrow(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().map(Column::field).collect::<Vec<_>>()))
    }

    /// Whether the table is stored with the column [`crate::RAW`]: a column's type is partial.
    pub fn has_raw(&self) -> bool {
        self.columns.iter().any(|column| column.column_type.is_partial())
    }

    /// Whether the lake gets but a hash of some column's values.
    pub fn has_hashes(&self) -> bool {
        self.columns.iter().any(|column| matches!(column.column_type, ColumnType::Hashed { .. }))
    }

    /// The Arrow schema of the key's columns alone, in the key's order.
    pub fn key_arrow(&self) -> SchemaRef {
        Arc::new(Schema::new(self.key.iter().map(|&i| self.columns[i].field()).collect::<Vec<_>>()))
    }

    /// The index of [`LEAF`]; `None` for a table without it.
    pub fn leaf(&self) -> Option<usize> {
        self.columns.iter().position(|column| column.name == LEAF)
    }

    /// Updates and deletes cannot be known: the table is a history of inserts, without current rows.
    pub fn is_history(&self) -> bool {
        self.key.is_empty()
    }

    /// The current rows are the distinct ones, each with how many there are.
    pub fn counts_rows(&self) -> bool {
        self.origin.whole_rows
    }

    pub fn has_key(&self) -> bool {
        !self.is_history() && !self.counts_rows()
    }

    pub fn key_names(&self) -> impl Iterator<Item = &str> {
        self.key.iter().map(|&i| self.columns[i].name.as_str())
    }
}

impl Column {
    fn field(&self) -> Field {
        Field::new(&self.name, self.column_type.arrow(), true)
    }
}
