//! A table's rows, read in parts by several sessions that share one snapshot.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures::{Stream, StreamExt, TryStreamExt, stream::try_unfold};
use lakeward_change::{CopiedRows, TableId};
use tokio::{
    sync::{Semaphore, mpsc},
    task::{JoinError, JoinSet},
};
use tokio_postgres::Client;

use crate::{
    CdcError, copy::CopyDecoder, definition::Definition, fingerprint, leaves, letter::MOST_LETTERS,
    snapshot::Snapshot,
};

/// A part has so many pages at least (8 MiB with the usual ones), …
const LEAST_PAGES: i64 = 1024;
/// … and a table so many parts at most: each has a session of its own.
const MOST_PARTS: i64 = 64;

/// Pages that hold the table's rows, the most of any partition; 0 where rows have no places by page, which only the
/// server's own kind of storage promises.
const PAGES: &str = "
    SELECT CASE WHEN bool_and(m.amname = 'heap')
        THEN max(pg_relation_size(c.oid)) / current_setting('block_size')::int8 ELSE 0 END
    FROM pg_class c JOIN pg_am m ON m.oid = c.relam
    WHERE c.relkind = 'r' AND (c.oid = $1 OR c.oid IN (SELECT relid FROM pg_partition_tree($1::oid::regclass)))";

/// The table's storage now, and as the session's snapshot sees it.
const STORAGES: &str =
    "SELECT coalesce(pg_relation_filenode(oid), 0), relfilenode FROM pg_class WHERE oid = $1";
const COLUMNS: &str = "
    SELECT attname::text, atttypid, atttypmod FROM pg_attribute
    WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped";

/// Sessions that read the table's parts, until this value is dropped.
struct TableCopy {
    readers: JoinSet<()>,
    batches: mpsc::Receiver<Result<CopiedRows, CdcError>>,
    /// Keeps the table as it was found.
    lock: Client,
    letters: usize,
}

impl Snapshot {
    /// All rows of a table, in no order but that of tables whose equal rows are counted: those come one after the other.
    /// They come in batches of `batch_rows` (fewer where rows are wide) in the schema
    /// [`lakeward_change::TableSchema::arrow`], with [`lakeward_change::RAW`] where a batch needs it. Each session that
    /// reads holds one of the permits of `sessions`.
    pub async fn copy(
        &self,
        table: &TableId,
        batch_rows: usize,
        sessions: &Arc<Semaphore>,
    ) -> Result<impl Stream<Item = Result<CopiedRows, CdcError>> + Send + use<>, CdcError> {
        let (lock, definition) = self.view.begin(table).await?;
        hold_still(&lock, definition).await?;
        let (sender, batches) = mpsc::channel(1);
        let mut readers = JoinSet::new();
        for source in parts(&lock, definition).await? {
            let (view, sessions, sender) = (self.view.clone(), Arc::clone(sessions), sender.clone());
            let (table, nulled) = (table.clone(), Arc::clone(&self.nulled));
            readers.spawn(async move {
                let _permit = sessions.acquire().await;
                let read = async {
                    let (client, definition) = view.begin(&table).await?;
                    let mut rows =
                        std::pin::pin!(read(&client, definition, &source, batch_rows, nulled).await?);
                    while let Some(batch) = rows.try_next().await? {
                        if sender.send(Ok(batch)).await.is_err() {
                            break;
                        }
                    }
                    Ok(())
                };
                if let Err(error) = read.await {
                    // Where nobody listens any more, nobody needs to know.
                    let _ = sender.send(Err(error)).await;
                }
            });
        }
        let copy = TableCopy { readers, batches, lock, letters: 0 };
        Ok(try_unfold(copy, |mut copy| async move { Ok(copy.next().await?.map(|batch| (batch, copy))) }))
    }
}

impl TableCopy {
    async fn next(&mut self) -> Result<Option<CopiedRows>, CdcError> {
        if let Some(batch) = self.batches.recv().await.transpose()? {
            self.letters += batch.letters.len();
            return match batch.letters.last().filter(|_| self.letters > MOST_LETTERS) {
                Some(last) => {
                    let (limit, reason) = (MOST_LETTERS, last.reason.clone());
                    Err(CdcError::Flood { limit, within: "of a copy", reason })
                }
                None => Ok(Some(batch)),
            };
        }
        while let Some(ended) = self.readers.join_next().await {
            if let Some(panic) = ended.err().filter(JoinError::is_panic) {
                std::panic::resume_unwind(panic.into_panic());
            }
        }
        // Had its session ended on the way, a table emptied since would have shown fewer rows.
        let held = self.lock.simple_query("").await;
        held.map_err(CdcError::query("say that the table was held still"))?;
        Ok(None)
    }
}

/// The rows that `COPY source TO` gives, in batches.
pub(crate) async fn read<'c>(
    client: &'c Client,
    table: &Definition,
    source: &str,
    batch_rows: usize,
    nulled: Arc<AtomicU64>,
) -> Result<impl Stream<Item = Result<CopiedRows, CdcError>> + Send + use<'c>, CdcError> {
    let action = format!("copy table {}", table.schema.id);
    let rows = client.copy_out(&format!("COPY {source} TO STDOUT")).await;
    let rows = Box::pin(rows.map_err(CdcError::query(action.as_str()))?.fuse());
    let decoder = CopyDecoder::new(Arc::clone(&table.schema), &table.salt, batch_rows);
    Ok(try_unfold((rows, decoder, action), move |(mut rows, mut decoder, action)| {
        let nulled = Arc::clone(&nulled);
        async move {
            while !decoder.is_full() {
                match rows.try_next().await.map_err(CdcError::query(action.as_str()))? {
                    Some(data) => decoder.push(&data),
                    None => break,
                }
            }
            let batch = decoder.finish()?;
            nulled.fetch_add(decoder.take_nulled(), Ordering::Relaxed);
            Ok(batch.map(|batch| (batch, (rows, decoder, action))))
        }
    }))
}

/// What to copy, one after the other or at the same time, to have every row once.
async fn parts(client: &Client, table: &Definition) -> Result<Vec<String>, CdcError> {
    if table.schema.counts_rows() {
        return Ok(vec![format!("({})", fingerprint::equal_rows_together(table))]);
    }
    let pages = client.query_one(PAGES, &[&table.oid]).await.and_then(|row| row.try_get(0));
    let pages: Option<i64> =
        pages.map_err(CdcError::query(format!("say how large table {} is", table.schema.id)))?;
    let select = format!("SELECT {} FROM", table.column_list());
    Ok(page_ranges(pages.unwrap_or(0))
        .map(|pages| format!("({select} {})", table.sql_rows_where(&pages)))
        .collect())
}

/// Conditions on rows' places: every row meets one of them.
fn page_ranges(pages: i64) -> impl Iterator<Item = String> {
    let length = LEAST_PAGES.max((pages + MOST_PARTS - 1) / MOST_PARTS);
    (0..pages.max(1)).step_by(length as usize).map(move |first| {
        let next = first + length;
        match (first > 0, next < pages) {
            (false, false) => "true".to_owned(),
            (false, true) => format!("t.ctid < '({next},0)'"),
            (true, false) => format!("t.ctid >= '({first},0)'"),
            (true, true) => format!("t.ctid >= '({first},0)' AND t.ctid < '({next},0)'"),
        }
    })
}

/// Keeps the table from being rewritten or emptied while it is read. A snapshot that is older than a rewrite sees an
/// empty table: that is an error. So is another partition since the catalog was read, which it would see whole.
pub(crate) async fn hold_still(client: &Client, table: &Definition) -> Result<(), CdcError> {
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
    let row = client.query_opt(STORAGES, &[&table.oid]).await.map_err(failed())?;
    let (now, seen) = row.map_or((0, 0), |row| (row.get::<_, u32>(0), row.get::<_, u32>(1)));
    if now == table.schema.origin.storage {
        return Ok(());
    }
    // Since the catalog was read, but before the snapshot: that sees what is there, if it is still the same columns.
    if now == seen && has_columns(client, table).await.map_err(failed())? {
        return Ok(());
    }
    Err(CdcError::Rewritten { table: id.clone() })
}

async fn has_columns(client: &Client, table: &Definition) -> Result<bool, tokio_postgres::Error> {
    let found = client.query(COLUMNS, &[&table.oid]).await?;
    let is_there = |(column, (of, modifier)): (usize, &(u32, i32))| {
        let name = table.schema.source_name(column);
        found.iter().any(|row| {
            row.get::<_, &str>(0) == name && row.get::<_, u32>(1) == *of && row.get::<_, i32>(2) == *modifier
        })
    };
    Ok(table.types.iter().enumerate().all(is_there))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_table_of_any_size() {
        let ranges = |pages| page_ranges(pages).collect::<Vec<_>>();
        assert_eq!(ranges(0), ["true"]);
        assert_eq!(ranges(LEAST_PAGES), ["true"]);
        assert_eq!(ranges(LEAST_PAGES + 1), ["t.ctid < '(1024,0)'", "t.ctid >= '(1024,0)'"]);
        assert_eq!(ranges(2 * LEAST_PAGES + 1)[1], "t.ctid >= '(1024,0)' AND t.ctid < '(2048,0)'");
        assert_eq!(ranges(1 << 31).len() as i64, MOST_PARTS);
    }
}
