//! Checksums of a table, over one canonical text of each row, computed by Postgres.
//!
//! Whoever holds a copy computes the same from it; equal checksums mean equal rows. The definition:
//!
//! - The *entry* of a value is `-` for null, else `n:text`, where `n` is the text's length in UTF-8 bytes, decimal.
//! - The *row text* joins the entries of all columns, in column order; the *key text* those of the key columns, in
//!   the key's order; without separators.
//! - The text of a value: booleans `t` or `f`; integers in decimal; numeric(p,s) with exactly s fraction digits, or
//!   `NaN`; floats as the big-endian hexadecimal digits of their IEEE bits (8 or 16), every NaN as `NaN`;
//!   texts, JSON and UUIDs as they are stored; of hashed columns the hexadecimal SHA-256 of salt and text; bytes in
//!   lower-case hexadecimal; dates as days and timestamps as microseconds since 1970-01-01 UTC, in decimal, infinite
//!   ones and those beyond 64 bits as Postgres writes them.
//! - The *row hash* is the first 8 bytes of the MD5 of the row text, as a big-endian signed integer.
//! - The *bucket* is the first two bytes of the MD5 of the key text, as a big-endian number, modulo 16,384: so many that
//!   the rows of a bucket that differs can be listed, also those of a large table.
//! - A table's fingerprint: for each bucket that has rows, their number and the exact sum of their hashes.
//! - Where equal rows are counted (REPLICA IDENTITY FULL without a key), the rows are the distinct ones: the key text is
//!   that of all columns, and the row text goes on with the entry of how many there are.
//!
//! A row `(1::int8, null, 'é', 0.5::numeric(12,2), true)` has the text `1:1-2:é4:0.501:t`.

use futures::TryStreamExt;
use lakeward_change::{BUCKETS, BucketSum, ColumnType};
use postgres_protocol::escape::escape_literal;
use tokio_postgres::Client;

use crate::{
    CdcError,
    definition::Definition,
    types::{TEXT, VARCHAR},
};

/// The session's setting that holds the salt: no query shows it.
const SALT: &str = "lakeward.salt";

/// Gives the session the salt of the table's hashed columns.
pub(crate) async fn tell_salt(client: &Client, table: &Definition) -> Result<(), CdcError> {
    let told = client.execute("SELECT set_config($1, $2, false)", &[&SALT, &table.salt.text()]).await;
    told.map(drop).map_err(CdcError::query("take the session settings"))
}

pub(crate) async fn bucket_sums(client: &Client, table: &Definition) -> Result<Vec<BucketSum>, CdcError> {
    let sql = format!(
        "SELECT bucket, count(*), sum(hash)::text FROM ({}) hashed GROUP BY bucket ORDER BY bucket",
        hashes(table)
    );
    let action = || format!("sum table {}", table.schema.id);
    let rows = client.query(&sql, &[]).await.map_err(CdcError::query(action()))?;
    let sums = rows.iter().map(|row| {
        let sum: String = row.try_get(2)?;
        Ok((row.try_get::<_, i32>(0)?, row.try_get::<_, i64>(1)?, sum))
    });
    let sums = sums.collect::<Result<Vec<_>, _>>().map_err(CdcError::query(action()))?;
    sums.into_iter()
        .map(|(bucket, rows, sum)| {
            let bucket = u16::try_from(bucket).ok();
            let parts = bucket.zip(u64::try_from(rows).ok()).zip(sum.parse().ok());
            parts
                .map(|((bucket, rows), sum)| BucketSum { bucket, rows, sum })
                .ok_or_else(|| CdcError::Sequence(format!("a sum of table {} that is none", table.schema.id)))
        })
        .collect()
}

/// Key text and hash of each row of some buckets, sorted.
pub(crate) async fn bucket_rows(
    client: &Client,
    table: &Definition,
    buckets: &[u16],
) -> Result<Vec<(String, i64)>, CdcError> {
    let sql = format!("SELECT key_text, hash FROM ({}) hashed WHERE bucket = ANY($1)", hashes(table));
    let buckets: Vec<i32> = buckets.iter().map(|&bucket| i32::from(bucket)).collect();
    let failed = || CdcError::query(format!("list rows of table {}", table.schema.id));
    // Row by row: what the client itself keeps of a row is several times as large.
    let rows = client.query_raw(&sql, [buckets]).await.map_err(failed())?;
    let mut rows: Vec<(String, i64)> = rows
        .and_then(|row| async move { Ok((row.try_get(0)?, row.try_get(1)?)) })
        .try_collect()
        .await
        .map_err(failed())?;
    rows.sort_unstable();
    Ok(rows)
}

/// Key text and row text of the rows of some keys, sorted.
pub(crate) async fn row_texts(
    client: &Client,
    table: &Definition,
    keys: &[String],
) -> Result<Vec<(String, String)>, CdcError> {
    let sql = format!("SELECT key_text, row_text FROM ({}) hashed WHERE key_text = ANY($1)", hashes(table));
    let rows = client
        .query(&sql, &[&keys])
        .await
        .map_err(CdcError::query(format!("read rows of table {}", table.schema.id)))?;
    let mut rows: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    rows.sort_unstable();
    Ok(rows)
}

/// A query of the rows of some keys.
pub(crate) fn rows_by_key(table: &Definition, keys: &[String]) -> String {
    let key_text = entries(table.schema.key.iter().map(|&column| {
        let column_type = table.schema.columns[column].column_type;
        canonical(&table.sql_column(column), column_type, table.base_types[column])
    }));
    let keys: Vec<_> = keys.iter().map(|key| escape_literal(key)).collect();
    format!(
        "SELECT {} FROM {} WHERE {key_text} = ANY (ARRAY[{}]::text[])",
        table.column_list(),
        table.sql_rows(),
        keys.join(", ")
    )
}

/// A query of the rows of a table that counts equal ones, in an order that puts those together.
pub(crate) fn equal_rows_together(table: &Definition) -> String {
    let texts = canonicals(table).map(|text| format!("({text})"));
    format!(
        "SELECT {} FROM {} ORDER BY sha256(convert_to({}, 'UTF8'))",
        table.column_list(),
        table.sql_rows(),
        entries(texts)
    )
}

/// SQL of the canonical text of each column.
fn canonicals(table: &Definition) -> impl Iterator<Item = String> {
    let columns = table.schema.columns.iter().zip(&table.base_types).enumerate();
    columns.map(|(index, (column, &base))| canonical(&table.sql_column(index), column.column_type, base))
}

/// A query of `key_text`, `row_text`, `bucket` and `hash` of every row.
fn hashes(table: &Definition) -> String {
    let texts: Vec<_> =
        canonicals(table).enumerate().map(|(index, text)| format!("{text} AS c{index}")).collect();
    let named = |index: usize| format!("c{index}");
    // OFFSET 0 keeps the planner from writing each text's expression wherever it is used.
    let texts_of = format!("(SELECT {} FROM {} OFFSET 0) texts", texts.join(", "), table.sql_rows());
    let row_text = entries((0..texts.len()).map(named));
    let rows = if table.schema.counts_rows() {
        format!(
            "SELECT key_text, key_text || {} AS row_text FROM \
             (SELECT {row_text} COLLATE \"C\" AS key_text, count(*)::text AS c FROM {texts_of} GROUP BY 1) counted",
            entries(std::iter::once("c".to_owned()))
        )
    } else {
        let key_text = entries(table.schema.key.iter().copied().map(named));
        format!("SELECT {key_text} AS key_text, {row_text} AS row_text FROM {texts_of}")
    };
    format!(
        "SELECT key_text, row_text, \
         ('x' || left(md5(convert_to(key_text, 'UTF8')), 4))::bit(16)::int % {BUCKETS} AS bucket, \
         ('x' || left(md5(convert_to(row_text, 'UTF8')), 16))::bit(64)::bigint AS hash \
         FROM ({rows}) entries"
    )
}

/// SQL of the entries of some values' texts, one after the other.
fn entries(texts: impl Iterator<Item = String>) -> String {
    let entry =
        |text: String| format!("coalesce(octet_length(convert_to({text}, 'UTF8')) || ':' || {text}, '-')");
    let entries: Vec<_> = texts.map(entry).collect();
    // Grouped: one chain of operators nests too deep for very wide tables.
    let groups: Vec<_> = entries.chunks(50).map(|group| format!("({})", group.join(" || "))).collect();
    groups.join(" || ")
}

/// SQL of a column's canonical text, null where the column or what it can stand for is null.
fn canonical(column: &str, column_type: ColumnType, base: u32) -> String {
    // Finite, and within 64 bits of microseconds; years count from 4713 BC, so only the upper end can overflow.
    let time = |limit: &str| {
        format!(
            "CASE WHEN isfinite({column}) AND {column} < '294247-01-10 04:00:54.775808{limit}' \
             THEN trunc(extract(epoch FROM {column}) * 1000000)::text ELSE {column}::text END"
        )
    };
    match column_type {
        ColumnType::Bool => format!("CASE WHEN {column} THEN 't' WHEN NOT {column} THEN 'f' END"),
        ColumnType::Int2
        | ColumnType::Int4
        | ColumnType::Int8
        | ColumnType::Numeric { precision: ..38, .. }
        | ColumnType::Uuid
        | ColumnType::Json => format!("{column}::text"),
        // Its own type may have no scale, or more digits.
        ColumnType::Numeric { precision, scale } => {
            let whole = i16::from(precision) - i16::from(scale);
            format!(
                "CASE WHEN abs({column}) < 1e{whole} AND round({column}, {scale}) = {column} \
                 THEN round({column}, {scale})::text ELSE {column}::text END"
            )
        }
        ColumnType::Float4 => {
            format!("CASE WHEN {column} = 'NaN' THEN 'NaN' ELSE encode(float4send({column}), 'hex') END")
        }
        ColumnType::Float8 => {
            format!("CASE WHEN {column} = 'NaN' THEN 'NaN' ELSE encode(float8send({column}), 'hex') END")
        }
        ColumnType::Text if matches!(base, TEXT | VARCHAR) => format!("{column}::text"),
        // A cast to text is not always the output: character(n) loses its padding, inet gains a mask. And IS NOT NULL
        // asks a composite for its fields.
        ColumnType::Text => {
            format!("CASE WHEN {column} IS DISTINCT FROM NULL THEN format('%s', {column}) END")
        }
        ColumnType::Hashed { .. } => {
            let value = canonical(column, ColumnType::Text, base);
            format!("encode(sha256(convert_to(current_setting('{SALT}') || {value}, 'UTF8')), 'hex')")
        }
        ColumnType::Bytes => format!("encode({column}, 'hex')"),
        ColumnType::Date => {
            format!(
                "CASE WHEN isfinite({column}) THEN ({column} - date '1970-01-01')::text ELSE {column}::text END"
            )
        }
        ColumnType::Timestamp { zoned: true } => time("+00"),
        ColumnType::Timestamp { zoned: false } => time(""),
    }
}
