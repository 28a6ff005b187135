//! Checksums of a table by ranges of key hashes, over the canonical text that Postgres computes too.
//!
//! A row's hash is the first eight bytes of the MD5 of its text; its bucket the first two bytes of the MD5 of its key's
//! text, as a big-endian number, modulo 16,384. Where equal rows are counted, a row's text ends with how many there are,
//! and all before is its key.

use std::{borrow::Cow, collections::HashSet};

use deltalake::datafusion::{
    error::DataFusionError,
    execution::SendableRecordBatchStream,
    logical_expr::Expr,
    physical_plan::{ExecutionPlanProperties, execute_stream_partitioned},
};
use futures::TryStreamExt;
use lakeward_change::{BUCKETS, BucketSum, RAW, TableSchema};
use md5::{Digest, Md5};
use tokio::task::JoinSet;

use crate::{Lake, LakeError, canonical::for_each_row, condition::column, silver, table::Table};

impl Lake {
    /// Sums a silver table at a version, by bucket; empty buckets are left out.
    ///
    /// # Errors
    /// If there is no such version, it lacks a column of `schema`, or the store fails.
    pub async fn fingerprint(
        &self,
        silver_path: &str,
        version: i64,
        schema: &TableSchema,
    ) -> Result<Vec<BucketSum>, LakeError> {
        let schema = &compared(schema);
        let mut total = empty();
        let mut tasks = JoinSet::new();
        for mut stream in self.row_images(silver_path, version, schema).await? {
            let schema = TableSchema::clone(schema);
            tasks.spawn(async move {
                let mut sums = empty();
                while let Some(batch) = stream.try_next().await? {
                    for_each_row(&schema, &batch, |key, row| {
                        let (rows, sum) = &mut sums[usize::from(bucket(key))];
                        *rows += 1;
                        *sum += i128::from(hash(row));
                    })?;
                }
                Ok::<_, DataFusionError>(sums)
            });
        }
        while let Some(sums) = tasks.join_next().await {
            let sums = sums.map_err(|error| LakeError::Damaged {
                table: silver_path.to_owned(),
                reason: error.to_string(),
            })?;
            for (total, part) in total.iter_mut().zip(sums.map_err(LakeError::query(silver_path, "summed"))?)
            {
                total.0 += part.0;
                total.1 += part.1;
            }
        }
        Ok((0_u16..)
            .zip(total)
            .filter(|(_, (rows, _))| *rows > 0)
            .map(|(bucket, (rows, sum))| BucketSum { bucket, rows, sum })
            .collect())
    }

    /// The key's text and the hash of each row in some buckets, sorted.
    ///
    /// # Errors
    /// As [`Self::fingerprint`].
    pub async fn bucket_rows(
        &self,
        silver_path: &str,
        version: i64,
        schema: &TableSchema,
        buckets: &[u16],
    ) -> Result<Vec<(String, i64)>, LakeError> {
        let wanted: HashSet<u16> = buckets.iter().copied().collect();
        let mut found = Vec::new();
        self.visit_rows(silver_path, version, schema, |key, row| {
            if wanted.contains(&bucket(key)) {
                found.push((text(key), hash(row)));
            }
        })
        .await?;
        found.sort_unstable();
        Ok(found)
    }

    /// The key's text and the row's text of the rows of some keys, given by their texts, sorted.
    ///
    /// # Errors
    /// As [`Self::fingerprint`].
    pub async fn row_texts(
        &self,
        silver_path: &str,
        version: i64,
        schema: &TableSchema,
        keys: &[String],
    ) -> Result<Vec<(String, String)>, LakeError> {
        let wanted: HashSet<&[u8]> = keys.iter().map(String::as_bytes).collect();
        let mut found = Vec::new();
        self.visit_rows(silver_path, version, schema, |key, row| {
            if wanted.contains(key) {
                found.push((text(key), text(row)));
            }
        })
        .await?;
        found.sort_unstable();
        Ok(found)
    }

    async fn visit_rows(
        &self,
        path: &str,
        version: i64,
        schema: &TableSchema,
        mut visit: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), LakeError> {
        let schema = &compared(schema);
        for mut stream in self.row_images(path, version, schema).await? {
            while let Some(batch) = stream.try_next().await.map_err(LakeError::query(path, "summed"))? {
                for_each_row(schema, &batch, &mut visit).map_err(LakeError::arrow(path))?;
            }
        }
        Ok(())
    }

    async fn row_images(
        &self,
        path: &str,
        version: i64,
        schema: &TableSchema,
    ) -> Result<Vec<SendableRecordBatchStream>, LakeError> {
        let failed = || LakeError::query(path, "summed");
        let session = self.session();
        let table = Table::open_at(self, path, Some(version)).await?;
        let provider = table.provider(&session).await?;
        let raw = provider.schema().field_with_name(RAW).is_ok().then_some(RAW);
        let columns: Vec<Expr> =
            schema.columns.iter().map(|column| column.name.as_str()).chain(raw).map(column).collect();
        let plan = session
            .read_table(provider)
            .and_then(|rows| rows.select(columns))
            .map_err(failed())?
            .create_physical_plan()
            .await
            .map_err(failed())?;
        tracing::debug!(partitions = plan.output_partitioning().partition_count(), "summing {path}");
        execute_stream_partitioned(plan, session.task_ctx()).map_err(failed())
    }
}

/// The table with the columns that are compared: its own, and the number of equal rows where those are counted.
pub fn compared(schema: &TableSchema) -> Cow<'_, TableSchema> {
    if schema.counts_rows() { Cow::Owned(silver::with_count(schema)) } else { Cow::Borrowed(schema) }
}

/// Rows and sum of each bucket.
fn empty() -> Vec<(u64, i128)> {
    vec![(0, 0); usize::from(BUCKETS)]
}

fn bucket(key: &[u8]) -> u16 {
    let digest = Md5::digest(key);
    u16::from_be_bytes([digest[0], digest[1]]) % BUCKETS
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn hash(row: &[u8]) -> i64 {
    let digest = Md5::digest(row);
    i64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| digest[byte]))
}
