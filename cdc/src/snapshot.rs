//! The tables as of one position of the log.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::{
    array::{Array, RecordBatch},
    compute::{concat, concat_batches},
};
use futures::{Stream, TryStreamExt, stream::try_unfold};
use lakeward_change::{BucketSum, CopiedRows, Lsn, TableId, raw_of, raw_or_null, with_raw};
use pgwire_replication::ReplicationClient;
use postgres_protocol::escape::escape_literal;
use tokio_postgres::{Client, CopyOutStream};

use crate::{
    CdcError,
    catalog::{Catalog, Definition},
    connection::connect,
    copy::CopyDecoder,
    fingerprint, leaves, slot,
};

/// Rows a batch of single keys' rows holds: they come together in the end.
const FETCHED_ROWS: usize = 8 * 1024;

/// An exported snapshot, alive as long as this value; an imported one, as long as its exporter.
pub struct Snapshot {
    url: String,
    catalog: Arc<Catalog>,
    lsn: Lsn,
    name: String,
    nulled: Arc<AtomicU64>,
    _session: Option<ReplicationClient>,
}

struct Copy {
    /// Its transaction holds the snapshot.
    _client: Client,
    rows: Pin<Box<CopyOutStream>>,
    decoder: CopyDecoder,
    nulled: Arc<AtomicU64>,
    done: bool,
}

impl Snapshot {
    pub(crate) fn new(url: String, catalog: Arc<Catalog>, created: slot::Created) -> Self {
        Self {
            url,
            catalog,
            lsn: created.lsn,
            name: created.snapshot,
            nulled: Arc::default(),
            _session: Some(created.session),
        }
    }

    /// The snapshot that another session exported under this name.
    pub(crate) fn imported(url: String, catalog: Arc<Catalog>, name: &str, lsn: Lsn) -> Self {
        Self { url, catalog, lsn, name: name.to_owned(), nulled: Arc::default(), _session: None }
    }

    /// What another process can import it by, while this value lives.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Transactions with a final LSN below it are in the snapshot; all others are streamed.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// How many values their types could not hold (NaN in a numeric, infinite times) and are null, in all copies.
    pub fn nulled(&self) -> u64 {
        self.nulled.load(Ordering::Relaxed)
    }

    /// All rows of a table, in batches of `batch_rows` (fewer where rows are wide) in the schema
    /// [`lakeward_change::TableSchema::arrow`], with [`lakeward_change::RAW`] where a batch needs it, over a connection of
    /// its own. Where equal rows are counted, they come one after the other.
    pub async fn copy(
        &self,
        table: &TableId,
        batch_rows: usize,
    ) -> Result<impl Stream<Item = Result<CopiedRows, CdcError>> + Send + use<>, CdcError> {
        let (client, table) = self.begin(table).await?;
        hold_still(&client, table).await?;
        let columns = table.column_list();
        let from = if table.schema.counts_rows() {
            format!("({})", fingerprint::equal_rows_together(table))
        } else if table.partitioned {
            format!("(SELECT {columns} FROM {})", table.sql_rows())
        } else {
            format!("{} ({columns})", table.sql_name())
        };
        self.copy_from(client, table, &from, batch_rows).await
    }

    /// The rows of some keys, given by their texts, in the schema [`lakeward_change::TableSchema::arrow`]; of keys that
    /// have no row, none, nor of rows that cannot be taken in.
    pub async fn rows_by_key(&self, table: &TableId, keys: &[String]) -> Result<RecordBatch, CdcError> {
        let (client, table) = self.begin(table).await?;
        let from = format!("({})", fingerprint::rows_by_key(table, keys));
        let rows = self.copy_from(client, table, &from, FETCHED_ROWS).await?;
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

    async fn copy_from(
        &self,
        client: Client,
        table: &Definition,
        from: &str,
        batch_rows: usize,
    ) -> Result<impl Stream<Item = Result<CopiedRows, CdcError>> + Send + use<>, CdcError> {
        let failed = || CdcError::query(format!("copy table {}", table.schema.id));
        let rows = client.copy_out(&format!("COPY {from} TO STDOUT")).await.map_err(failed())?;
        let copy = Copy {
            _client: client,
            rows: Box::pin(rows),
            decoder: CopyDecoder::new(Arc::clone(&table.schema), &table.salt, batch_rows),
            nulled: Arc::clone(&self.nulled),
            done: false,
        };
        let table = table.schema.id.clone();
        Ok(try_unfold(copy, move |mut copy| {
            let table = table.clone();
            async move {
                while !copy.done && !copy.decoder.is_full() {
                    let data = copy.rows.try_next().await;
                    match data.map_err(CdcError::query(format!("copy table {table}")))? {
                        Some(data) => copy.decoder.push(&data)?,
                        None => {
                            copy.done = true;
                            copy.nulled.fetch_add(copy.decoder.nulled(), Ordering::Relaxed);
                        }
                    }
                }
                Ok(copy.decoder.finish()?.map(|batch| (batch, copy)))
            }
        }))
    }

    /// Checksums of a table by key bucket, sorted by bucket; see [`crate::fingerprint`].
    pub async fn fingerprint(&self, table: &TableId) -> Result<Vec<BucketSum>, CdcError> {
        let (client, table) = self.begin(table).await?;
        hold_still(&client, table).await?;
        fingerprint::bucket_sums(&client, table).await
    }

    /// Key text and hash of each row in some buckets, sorted.
    pub async fn bucket_rows(
        &self,
        table: &TableId,
        buckets: &[u16],
    ) -> Result<Vec<(String, i64)>, CdcError> {
        let (client, table) = self.begin(table).await?;
        fingerprint::bucket_rows(&client, table, buckets).await
    }

    /// Key text and row text of the rows of some keys, given by their texts, sorted.
    pub async fn row_texts(
        &self,
        table: &TableId,
        keys: &[String],
    ) -> Result<Vec<(String, String)>, CdcError> {
        let (client, table) = self.begin(table).await?;
        fingerprint::row_texts(&client, table, keys).await
    }

    /// A session inside the snapshot.
    async fn begin(&self, table: &TableId) -> Result<(Client, &Definition), CdcError> {
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

/// Keeps the table from being rewritten or emptied while it is read. A snapshot that is older than a rewrite sees an
/// empty table: one that came since the catalog was read is an error. So is another partition, which it would see whole.
async fn hold_still(client: &Client, table: &Definition) -> Result<(), CdcError> {
    let id = &table.schema.id;
    let failed = || CdcError::query(format!("lock table {id} while it is read"));
    let lock = format!("LOCK TABLE {} IN ACCESS SHARE MODE", table.sql_source());
    client.batch_execute(&lock).await.map_err(failed())?;
    if table.partitioned {
        return match leaves::are_still(client, table.oid).await.map_err(failed())? {
            true => Ok(()),
            false => Err(CdcError::Rewritten { table: id.clone() }),
        };
    }
    let row = client
        .query_opt("SELECT coalesce(pg_relation_filenode($1::oid), 0)", &[&table.oid])
        .await
        .map_err(failed())?;
    if row.map(|row| row.get::<_, u32>(0)) == Some(table.schema.origin.storage) {
        return Ok(());
    }
    Err(CdcError::Rewritten { table: id.clone() })
}
