//! Checksums of a table, over one canonical text of each row, computed by Postgres.
//!
//! Whoever holds a copy computes the same from it; equal checksums mean equal rows. The definition:
//!
//! - The *entry* of a value is `-` for null, else `n:text`, where `n` is the text's length in UTF-8 bytes, decimal.
//! - The *row text* joins the entries of all columns, in column order; the *key text* those of the key columns, in
//!   the key's order; without separators.
//! - The text of a value: booleans `t` or `f`; integers in decimal; numeric(p,s) with exactly s fraction digits, NaN
//!   counting as null; floats as the big-endian hexadecimal digits of their IEEE bits (8 or 16), every NaN as `NaN`;
//!   texts, JSON and UUIDs as they are stored; bytes in lower-case hexadecimal; dates as days and timestamps as
//!   microseconds since 1970-01-01 UTC, in decimal, infinite ones and those beyond 64 bits counting as null.
//! - The *row hash* is the first 8 bytes of the MD5 of the row text, as a big-endian signed integer.
//! - The *bucket* is the first byte of the MD5 of the key text, modulo 64.
//! - A table's fingerprint: for each bucket that has rows, their number and the exact sum of their hashes.
//!
//! A row `(1::int8, null, 'é', 0.5::numeric(12,2), true)` has the text `1:1-2:é4:0.501:t`.

use lakeward_change::{BucketSum, ColumnType};
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::Client;

use crate::{
    CdcError,
    catalog::Definition,
    types::{TEXT, VARCHAR},
};

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
            let bucket = u8::try_from(bucket).ok();
            let parts = bucket.zip(u64::try_from(rows).ok()).zip(sum.parse().ok());
            parts
                .map(|((bucket, rows), sum)| BucketSum { bucket, rows, sum })
                .ok_or_else(|| CdcError::Sequence(format!("a sum of table {} that is none", table.schema.id)))
        })
        .collect()
}

/// Key text and hash of each row of a bucket, by key text.
pub(crate) async fn bucket_rows(
    client: &Client,
    table: &Definition,
    bucket: u8,
) -> Result<Vec<(String, i64)>, CdcError> {
    let sql = format!("SELECT key_text, hash FROM ({}) hashed WHERE bucket = $1", hashes(table));
    let rows = client
        .query(&sql, &[&i32::from(bucket)])
        .await
        .map_err(CdcError::query(format!("read bucket {bucket} of table {}", table.schema.id)))?;
    let mut rows: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    rows.sort_unstable();
    Ok(rows)
}

/// A query of `key_text`, `bucket` and `hash` of every row.
fn hashes(table: &Definition) -> String {
    let columns = table.schema.columns.iter().zip(&table.base_types).enumerate();
    let texts: Vec<_> = columns
        .map(|(index, (column, &base))| {
            let name = escape_identifier(&column.name);
            format!("{} AS c{index}", canonical(&name, column.column_type, base))
        })
        .collect();
    // OFFSET 0 keeps the planner from writing each text's expression wherever it is used.
    format!(
        "SELECT key_text, get_byte(decode(md5(convert_to(key_text, 'UTF8')), 'hex'), 0) & 63 AS bucket, \
         ('x' || left(md5(convert_to(row_text, 'UTF8')), 16))::bit(64)::bigint AS hash \
         FROM (SELECT {} AS key_text, {} AS row_text FROM (SELECT {} FROM {} OFFSET 0) texts) entries",
        entries(table.schema.key.iter().copied()),
        entries(0..texts.len()),
        texts.join(", "),
        table.sql_source()
    )
}

fn entries(columns: impl Iterator<Item = usize>) -> String {
    let entry = |i: usize| format!("coalesce(octet_length(convert_to(c{i}, 'UTF8')) || ':' || c{i}, '-')");
    let entries: Vec<_> = columns.map(entry).collect();
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
             THEN trunc(extract(epoch FROM {column}) * 1000000)::text END"
        )
    };
    match column_type {
        ColumnType::Bool => format!("CASE WHEN {column} THEN 't' WHEN NOT {column} THEN 'f' END"),
        ColumnType::Int2 | ColumnType::Int4 | ColumnType::Int8 | ColumnType::Uuid | ColumnType::Json => {
            format!("{column}::text")
        }
        ColumnType::Numeric { .. } => format!("nullif({column}::text, 'NaN')"),
        ColumnType::Float4 => {
            format!("CASE WHEN {column} = 'NaN' THEN 'NaN' ELSE encode(float4send({column}), 'hex') END")
        }
        ColumnType::Float8 => {
            format!("CASE WHEN {column} = 'NaN' THEN 'NaN' ELSE encode(float8send({column}), 'hex') END")
        }
        ColumnType::Text if matches!(base, TEXT | VARCHAR) => format!("{column}::text"),
        // A cast to text is not always the output: character(n) loses its padding, inet gains a mask.
        ColumnType::Text => format!("CASE WHEN {column} IS NOT NULL THEN format('%s', {column}) END"),
        ColumnType::Bytes => format!("encode({column}, 'hex')"),
        ColumnType::Date => {
            format!("CASE WHEN isfinite({column}) THEN ({column} - date '1970-01-01')::text END")
        }
        ColumnType::Timestamp { zoned: true } => time("+00"),
        ColumnType::Timestamp { zoned: false } => time(""),
    }
}

/// The values of a key text, `None` for null; to show which row differs. What follows a damaged entry is left out.
pub fn key_values(key_text: &str) -> Vec<Option<String>> {
    let mut values = Vec::new();
    let mut rest = key_text;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('-') {
            values.push(None);
            rest = tail;
            continue;
        }
        let Some((value, tail)) =
            rest.split_once(':').and_then(|(length, tail)| tail.split_at_checked(length.parse().ok()?))
        else {
            break;
        };
        values.push(Some(value.to_owned()));
        rest = tail;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_texts_come_apart() {
        assert_eq!(
            key_values("1:1-2:é4:1:-2"),
            [Some("1".to_owned()), None, Some("é".to_owned()), Some("1:-2".to_owned())]
        );
        assert_eq!(key_values("9:short"), Vec::<Option<String>>::new());
    }
}
