//! Checksums of a table by ranges of key hashes, over one canonical text that Postgres computes too.
//!
//! A value's text is `-` for null, else its length in bytes, a colon and the text: integers and decimals in plain
//! digits, floats as the hexadecimal digits of their bits, times as microseconds and dates as days since 1970, bytes
//! in hexadecimal, booleans as `t` and `f`. A row's text is that of its columns one after the other, a key's likewise.
//! A row's hash is the first eight bytes of the MD5 of its text, its bucket the low six bits of the first byte of the
//! MD5 of its key's.

use std::io::Write;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, Float32Type, Float64Type},
    error::ArrowError,
};
use deltalake::datafusion::{
    common::Column,
    error::DataFusionError,
    execution::SendableRecordBatchStream,
    logical_expr::Expr,
    physical_plan::{ExecutionPlanProperties, execute_stream_partitioned},
};
use futures::TryStreamExt;
use lakeward_change::{BucketSum, ColumnType, TableSchema};
use md5::{Digest, Md5};
use tokio::task::JoinSet;

use crate::{Lake, LakeError, table::Table};

const BUCKETS: usize = 64;

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
        let mut total = [(0_u64, 0_i128); BUCKETS];
        let mut tasks = JoinSet::new();
        for mut stream in self.row_images(silver_path, version, schema).await? {
            let schema = schema.clone();
            tasks.spawn(async move {
                let mut sums = [(0_u64, 0_i128); BUCKETS];
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
        Ok((0_u8..)
            .zip(total)
            .filter(|(_, (rows, _))| *rows > 0)
            .map(|(bucket, (rows, sum))| BucketSum { bucket, rows, sum })
            .collect())
    }

    /// The key's text and the hash of each row in a bucket, sorted.
    ///
    /// # Errors
    /// As [`Self::fingerprint`].
    pub async fn bucket_rows(
        &self,
        silver_path: &str,
        version: i64,
        schema: &TableSchema,
        wanted: u8,
    ) -> Result<Vec<(String, i64)>, LakeError> {
        let mut found = Vec::new();
        for mut stream in self.row_images(silver_path, version, schema).await? {
            while let Some(batch) =
                stream.try_next().await.map_err(LakeError::query(silver_path, "summed"))?
            {
                for_each_row(schema, &batch, |key, row| {
                    if bucket(key) == wanted {
                        found.push((String::from_utf8_lossy(key).into_owned(), hash(row)));
                    }
                })
                .map_err(LakeError::arrow(silver_path))?;
            }
        }
        found.sort();
        Ok(found)
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
        let columns: Vec<Expr> =
            schema.columns.iter().map(|column| Expr::Column(Column::new_unqualified(&column.name))).collect();
        let plan = session
            .read_table(table.provider(&session).await?)
            .and_then(|rows| rows.select(columns))
            .map_err(failed())?
            .create_physical_plan()
            .await
            .map_err(failed())?;
        tracing::debug!(partitions = plan.output_partitioning().partition_count(), "summing {path}");
        execute_stream_partitioned(plan, session.task_ctx()).map_err(failed())
    }
}

fn bucket(key: &[u8]) -> u8 {
    Md5::digest(key)[0] & (BUCKETS as u8 - 1)
}

fn hash(row: &[u8]) -> i64 {
    let digest = Md5::digest(row);
    i64::from_be_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| digest[byte]))
}

/// Calls with the canonical texts of each row's key and of the row. `batch` has the schema's columns in their order.
fn for_each_row(
    schema: &TableSchema,
    batch: &RecordBatch,
    mut visit: impl FnMut(&[u8], &[u8]),
) -> Result<(), ArrowError> {
    let texts: Vec<StringArray> = schema
        .columns
        .iter()
        .zip(batch.columns())
        .map(|(column, values)| text(column.column_type, values))
        .collect::<Result<_, _>>()?;
    let (mut key, mut row) = (Vec::new(), Vec::new());
    let mut entries = vec![0..0; texts.len()];
    for index in 0..batch.num_rows() {
        row.clear();
        for (texts, entry) in texts.iter().zip(&mut entries) {
            let start = row.len();
            if texts.is_null(index) {
                row.push(b'-');
            } else {
                let text = texts.value(index);
                write!(row, "{}:{text}", text.len())?;
            }
            *entry = start..row.len();
        }
        key.clear();
        for &column in &schema.key {
            key.extend_from_slice(&row[entries[column].clone()]);
        }
        visit(&key, &row);
    }
    Ok(())
}

fn text(column_type: ColumnType, values: &ArrayRef) -> Result<StringArray, ArrowError> {
    let through = |number| cast(&cast(values, &number)?, &DataType::Utf8);
    let text = match column_type {
        ColumnType::Bool => {
            return Ok(values.as_boolean().iter().map(|v| v.map(|v| if v { "t" } else { "f" })).collect());
        }
        ColumnType::Float4 => {
            let hex = |v: f32| if v.is_nan() { "NaN".to_owned() } else { format!("{:08x}", v.to_bits()) };
            return Ok(values.as_primitive::<Float32Type>().iter().map(|v| v.map(hex)).collect());
        }
        ColumnType::Float8 => {
            let hex = |v: f64| if v.is_nan() { "NaN".to_owned() } else { format!("{:016x}", v.to_bits()) };
            return Ok(values.as_primitive::<Float64Type>().iter().map(|v| v.map(hex)).collect());
        }
        ColumnType::Bytes => {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            return Ok(values.as_binary::<i32>().iter().map(|v| v.map(hex)).collect());
        }
        ColumnType::Date => through(DataType::Int32)?,
        ColumnType::Timestamp { .. } => through(DataType::Int64)?,
        ColumnType::Int2
        | ColumnType::Int4
        | ColumnType::Int8
        | ColumnType::Numeric { .. }
        | ColumnType::Text
        | ColumnType::Uuid
        | ColumnType::Json => cast(values, &DataType::Utf8)?,
    };
    Ok(text.as_string::<i32>().clone())
}
