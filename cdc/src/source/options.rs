//! What to capture, and how.

#[cfg(feature = "kafka")]
use crate::kafka::KafkaOptions;
use crate::{Salt, TableRule};

/// What to capture, and how.
#[derive(Clone)]
pub struct PostgresOptions {
    pub url: String,
    /// What the source is called; by default its database's name.
    pub source_name: Option<String>,
    /// Replication slot; by default named by the source.
    pub slot: Option<String>,
    /// Publication; by default named by the source. One that exists and is not ours is taken as it is.
    pub publication: Option<String>,
    /// Patterns `schema.table`, where `*` stands for any characters; without a dot a table of any schema. Empty: all.
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    /// What holds for some tables only.
    pub rules: Vec<TableRule>,
    /// Of the columns that rules have hashed.
    pub salt: Salt,
    /// Numerics without a scale are decimals of 38 digits with this many of them a fraction, at most 38; by default texts.
    pub numeric_scale: Option<u8>,
    /// Topics to read changes from, instead of a slot.
    #[cfg(feature = "kafka")]
    pub kafka: Option<KafkaOptions>,
    /// A chunk ends at this many rows.
    pub max_chunk_rows: usize,
    /// A chunk ends at about this size; the row that reaches it is still in it.
    pub max_chunk_bytes: usize,
}

impl PostgresOptions {
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            source_name: None,
            slot: None,
            publication: None,
            include: Vec::new(),
            exclude: Vec::new(),
            rules: Vec::new(),
            salt: Salt::default(),
            numeric_scale: None,
            #[cfg(feature = "kafka")]
            kafka: None,
            max_chunk_rows: 65_536,
            max_chunk_bytes: 32 << 20,
        }
    }

    pub(super) fn has_topics(&self) -> bool {
        #[cfg(feature = "kafka")]
        return self.kafka.is_some();
        #[cfg(not(feature = "kafka"))]
        false
    }
}
