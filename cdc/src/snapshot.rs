//! The tables as of one position of the log.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arrow::{
    array::{Array, RecordBatch},
    compute::{concat, concat_batches},
};
use futures::TryStreamExt;
use lakeward_change::{BucketSum, Lsn, TableId, raw_of, raw_or_null, with_raw};
use pgwire_replication::ReplicationClient;
use postgres_protocol::escape::escape_literal;
use tokio_postgres::Client;

use crate::{
    CdcError, catalog::Catalog, connection::connect, definition::Definition, fingerprint, slot, table_copy,
};

/// Rows a batch of single keys' rows holds: they come together in the end.
const FETCHED_ROWS: usize = 8 * 1024;

/// An exported snapshot, alive as long as this value; an imported one, as long as its exporter.
pub struct Snapshot {
    pub(crate) view: View,
    lsn: Lsn,
    pub(crate) nulled: Arc<AtomicU64>,
    _session: Option<ReplicationClient>,
}

/// What a session needs to see the snapshot.
#[derive(Clone)]
pub(crate) struct View {
    url: String,
    catalog: Arc<Catalog>,
    name: String,
}

impl Snapshot {
    pub(crate) fn new(url: String, catalog: Arc<Catalog>, created: slot::Created) -> Self {
        let view = View { url, catalog, name: created.snapshot };
        Self { view, lsn: created.lsn, nulled: Arc::default(), _session: Some(created.session) }
    }

    /// The snapshot that another session exported under this name.
    pub(crate) fn imported(url: String, catalog: Arc<Catalog>, name: &str, lsn: Lsn) -> Self {
        let view = View { url, catalog, name: name.to_owned() };
        Self { view, lsn, nulled: Arc::default(), _session: None }
    }

    /// What another process can import it by, while this value lives.
    pub fn name(&self) -> &str {
        &self.view.name
    }

    /// Transactions with a final LSN below it are in the snapshot; all others are streamed.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// How many values their types could not hold (NaN in a numeric, infinite times) and are null, in all copies.
    pub fn nulled(&self) -> u64 {
        self.nulled.load(Ordering::Relaxed)
    }

    /// The rows of some keys, given by their texts, in the schema [`lakeward_change::TableSchema::arrow`]; of keys that
    /// have no row, none, nor of rows that cannot be taken in.
    pub async fn rows_by_key(&self, table: &TableId, keys: &[String]) -> Result<RecordBatch, CdcError> {
        let (client, table) = self.view.begin(table).await?;
        let from = format!("({})", fingerprint::rows_by_key(table, keys));
        let rows = table_copy::read(&client, table, &from, FETCHED_ROWS, Arc::clone(&self.nulled)).await?;
        let batches: Vec<_> = rows.map_ok(|copied| copied.rows).try_collect().await?;
        let arrow = table.schema.arrow();
        let own: Vec<usize> = (0..arrow.fields().len()).collect();
        let rows = batches.iter().map(|batch| batch.project(&own)).collect::<Result<Vec<_>, _>>();
        // Some of the batches may have texts of values beside their columns.
        let raws: Vec<_> = batches.iter().map(raw_or_null).collect();
        let raws: Vec<&dyn Array> = raws.iter().map(AsRef::as_ref).collect();
        let raw = batches.iter().any(|batch| raw_of(batch).is_some()).then(|| concat(&raws)).transpose();
        rows.and_then(|rows| with_raw(concat_batches(&arrow, &rows)?, raw?))
            .map_err(|source| CdcError::Batch { table: table.schema.id.clone(), source })
    }

    /// Checksums of a table by key bucket, sorted by bucket; see [`crate::fingerprint`].
    pub async fn fingerprint(&self, table: &TableId) -> Result<Vec<BucketSum>, CdcError> {
        let (client, table) = self.view.begin(table).await?;
        table_copy::hold_still(&client, table).await?;
        fingerprint::bucket_sums(&client, table).await
    }

    /// Key text and hash of each row in some buckets, sorted.
    pub async fn bucket_rows(
        &self,
        table: &TableId,
        buckets: &[u16],
    ) -> Result<Vec<(String, i64)>, CdcError> {
        let (client, table) = self.view.begin(table).await?;
        fingerprint::bucket_rows(&client, table, buckets).await
    }

    /// Key text and row text of the rows of some keys, given by their texts, sorted.
    pub async fn row_texts(
        &self,
        table: &TableId,
        keys: &[String],
    ) -> Result<Vec<(String, String)>, CdcError> {
        let (client, table) = self.view.begin(table).await?;
        fingerprint::row_texts(&client, table, keys).await
    }
}

impl View {
    /// A session inside the snapshot.
    pub(crate) async fn begin(&self, table: &TableId) -> Result<(Client, &Definition), CdcError> {
        let table = self.catalog.find(table)?;
        let client = connect(&self.url).await?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            escape_literal(&self.name)
        );
        client.batch_execute(&begin).await.map_err(CdcError::query("use the snapshot"))?;
        fingerprint::tell_salt(&client, table).await?;
        Ok((client, table))
    }
}
