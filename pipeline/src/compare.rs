//! One table of the lake beside the source's, at one point: which keys differ, and in what.
//!
//! First the sums of 16,384 buckets of keys, then the rows of the buckets that differ, key by key: so little of a table
//! is ever held that its size does not matter.

use std::cmp::Ordering;

use futures::future::try_join;
use lakeward_cdc::Snapshot;
use lakeward_change::{BucketSum, TableSchema, entry_values};
use lakeward_lakehouse::{Lake, OpenLetters, WatermarkTable, compared};
use serde::Serialize;

use crate::{PipelineError, repair::MOST_KEYS};

/// Differing keys that are named; all are counted.
const NAMED_KEYS: usize = 20;
/// Rows, of both sides together, that are listed at a time, each time by one scan a side: at most some 200 MiB, unless a
/// single bucket has more.
const LISTED_ROWS: u64 = 1_500_000;
/// Stands for a value that is not shown.
const MASK: &str = "***";

#[derive(Debug, Serialize)]
pub struct TableReport {
    pub table: String,
    /// Distinct rows, where equal ones are counted; likewise in the lake.
    pub source_rows: u64,
    pub lake_rows: u64,
    /// Keys that differ.
    pub differing: u64,
    /// The first differing keys.
    pub differences: Vec<Difference>,
    /// Rows that could not be taken in and are still open: how many, by reason.
    #[serde(skip_serializing_if = "OpenLetters::is_empty")]
    pub dead_letters: OpenLetters,
    /// What was done about them, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair: Option<TableRepair>,
}

#[derive(Debug, Serialize)]
pub struct Difference {
    /// The key's values in the key's order, as text; `None` is null.
    pub key: Vec<Option<String>>,
    pub kind: DifferenceKind,
    /// The columns that differ, where both sides have the key.
    pub columns: Vec<ColumnDifference>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    MissingInLake,
    OnlyInLake,
    DifferentValues,
    /// The lake has more than one row of the key; one of them may be right.
    DoubledInLake,
}

/// Canonical texts of the two values, or `***` where values are not to be shown; `None` is null.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ColumnDifference {
    pub column: String,
    pub source: Option<String>,
    pub lake: Option<String>,
}

/// What became of a table's differing keys.
#[derive(Debug, Serialize)]
pub struct TableRepair {
    /// Keys put right.
    pub keys: u64,
    /// Keys left alone, since the stream had touched them after the comparison.
    pub passed_over: u64,
    /// Keys that differ at a second point, after the repair.
    pub left: u64,
}

/// A comparison's report, and the texts of the first [`MOST_KEYS`] keys that differ; none where equal rows are counted,
/// which no repair is made for.
pub(crate) struct Compared {
    pub(crate) report: TableReport,
    pub(crate) keys: Vec<String>,
}

pub(crate) async fn compare(
    lake: &Lake,
    snapshot: &Snapshot,
    schema: &TableSchema,
    entry: &WatermarkTable,
    show_values: bool,
) -> Result<Compared, PipelineError> {
    let (path, version) = (&entry.silver_path, entry.silver_version);
    let theirs = async { Ok::<_, PipelineError>(snapshot.fingerprint(&schema.id).await?) };
    let ours = async { Ok(lake.fingerprint(path, version, schema).await?) };
    let (theirs, ours) = try_join(theirs, ours).await?;
    let (mut keys, mut named, mut differing) = (Vec::new(), Vec::new(), 0);
    for buckets in listed_together(&differing_buckets(&theirs, &ours)) {
        let theirs = async { Ok::<_, PipelineError>(snapshot.bucket_rows(&schema.id, &buckets).await?) };
        let ours = async { Ok(lake.bucket_rows(path, version, schema, &buckets).await?) };
        let (theirs, ours) = try_join(theirs, ours).await?;
        for (key, kind) in differing_keys(&theirs, &ours) {
            differing += 1;
            if named.len() < NAMED_KEYS {
                named.push((key.to_owned(), kind));
            }
            if keys.len() < MOST_KEYS {
                keys.push(key.to_owned());
            }
        }
    }
    let report = TableReport {
        table: schema.id.to_string(),
        source_rows: theirs.iter().map(|bucket| bucket.rows).sum(),
        lake_rows: ours.iter().map(|bucket| bucket.rows).sum(),
        differing,
        differences: describe(lake, snapshot, schema, entry, named, show_values).await?,
        dead_letters: OpenLetters::new(),
        repair: None,
    };
    if !schema.has_key() {
        keys.clear();
    }
    Ok(Compared { report, keys })
}

/// Fetches the named rows from both sides, to say in which columns they differ.
async fn describe(
    lake: &Lake,
    snapshot: &Snapshot,
    schema: &TableSchema,
    entry: &WatermarkTable,
    named: Vec<(String, DifferenceKind)>,
    show_values: bool,
) -> Result<Vec<Difference>, PipelineError> {
    let both = |kind| matches!(kind, DifferenceKind::DifferentValues | DifferenceKind::DoubledInLake);
    let wanted: Vec<String> =
        named.iter().filter(|(_, kind)| both(*kind)).map(|(key, _)| key.clone()).collect();
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    if !wanted.is_empty() {
        theirs = snapshot.row_texts(&schema.id, &wanted).await?;
        ours = lake.row_texts(&entry.silver_path, entry.silver_version, schema, &wanted).await?;
    }
    let compared = compared(schema);
    // Where equal rows are counted, the key is all that a row holds.
    let shown = |value: &str| if show_values || schema.has_key() { value } else { MASK }.to_owned();
    Ok(named
        .into_iter()
        .map(|(key, kind)| {
            let ours: Vec<&str> =
                ours.iter().filter(|(of, _)| *of == key).map(|(_, row)| row.as_str()).collect();
            let columns = theirs
                .iter()
                .find(|(of, _)| *of == key)
                .map(|(_, row)| differing_columns(&compared, row, &ours, show_values));
            let key = entry_values(&key).into_iter().map(|value| value.map(shown)).collect();
            Difference { key, kind, columns: columns.unwrap_or_default() }
        })
        .collect())
}

/// Compares the text of the source's row with those of the lake's rows of the same key.
fn differing_columns(
    schema: &TableSchema,
    source: &str,
    lake: &[&str],
    show_values: bool,
) -> Vec<ColumnDifference> {
    let shown = |value: Option<&str>| value.map(|value| if show_values { value } else { MASK }.to_owned());
    let source = entry_values(source);
    let lake: Vec<_> = lake.iter().map(|row| entry_values(row)).collect();
    let columns = schema.columns.iter().zip(source).enumerate();
    columns
        .filter_map(|(index, (column, theirs))| {
            let ours = lake.iter().filter_map(|row| row.get(index)).find(|ours| **ours != theirs)?;
            Some(ColumnDifference { column: column.name.clone(), source: shown(theirs), lake: shown(*ours) })
        })
        .collect()
}

/// The buckets that differ, with the rows that both sides together have in them. Both lists are sorted by bucket.
fn differing_buckets(theirs: &[BucketSum], ours: &[BucketSum]) -> Vec<(u16, u64)> {
    merge(theirs, ours, |a, b| a.bucket.cmp(&b.bucket))
        .into_iter()
        .filter(|(theirs, ours)| theirs != ours)
        .filter_map(|(theirs, ours)| {
            let bucket = theirs.first().or(ours.first())?.bucket;
            Some((bucket, theirs.iter().chain(ours).map(|sum| sum.rows).sum()))
        })
        .collect()
}

fn listed_together(buckets: &[(u16, u64)]) -> Vec<Vec<u16>> {
    let mut groups: Vec<Vec<u16>> = Vec::new();
    let mut held = 0;
    for &(bucket, rows) in buckets {
        match groups.last_mut() {
            Some(group) if held + rows <= LISTED_ROWS => group.push(bucket),
            _ => {
                groups.push(vec![bucket]);
                held = 0;
            }
        }
        held += rows;
    }
    groups
}

/// Compares two sorted lists of (key, row hash).
fn differing_keys<'a>(
    theirs: &'a [(String, i64)],
    ours: &'a [(String, i64)],
) -> impl Iterator<Item = (&'a str, DifferenceKind)> {
    merge(theirs, ours, |a, b| a.0.cmp(&b.0)).into_iter().filter(|(theirs, ours)| theirs != ours).filter_map(
        |(theirs, ours)| {
            let kind = match (theirs.len(), ours.len()) {
                (_, 0) => DifferenceKind::MissingInLake,
                (0, _) => DifferenceKind::OnlyInLake,
                (_, 1) => DifferenceKind::DifferentValues,
                _ => DifferenceKind::DoubledInLake,
            };
            Some((theirs.first().or(ours.first())?.0.as_str(), kind))
        },
    )
}

/// The runs of equal entries of two sorted lists, side by side; a run is empty where its list has none.
fn merge<'a, T>(
    theirs: &'a [T],
    ours: &'a [T],
    order: impl Fn(&T, &T) -> Ordering,
) -> Vec<(&'a [T], &'a [T])> {
    let same = |a: &T, b: &T| order(a, b).is_eq();
    let (mut theirs, mut ours) = (theirs.chunk_by(same).peekable(), ours.chunk_by(same).peekable());
    let mut merged = Vec::new();
    loop {
        let first = match (theirs.peek(), ours.peek()) {
            (Some(theirs), Some(ours)) => order(&theirs[0], &ours[0]),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return merged,
        };
        let theirs = if first.is_le() { theirs.next() } else { None };
        let ours = if first.is_ge() { ours.next() } else { None };
        merged.push((theirs.unwrap_or_default(), ours.unwrap_or_default()));
    }
}

#[cfg(test)]
mod tests {
    use lakeward_change::{Column, ColumnType, Origin, TableId};

    use super::*;

    fn rows(rows: &[(&str, i64)]) -> Vec<(String, i64)> {
        rows.iter().map(|(key, hash)| ((*key).to_owned(), *hash)).collect()
    }

    #[test]
    fn names_every_kind_of_difference() {
        let theirs = rows(&[("a", 1), ("b", 2), ("c", 3), ("d", 4), ("f", 1), ("g", 7)]);
        let ours =
            rows(&[("a", 1), ("b", 5), ("d", 4), ("d", 4), ("e", 6), ("e", 6), ("f", 2), ("f", 3), ("g", 7)]);
        let found: Vec<_> = differing_keys(&theirs, &ours).collect();
        let expected = [
            ("b", DifferenceKind::DifferentValues),
            ("c", DifferenceKind::MissingInLake),
            ("d", DifferenceKind::DoubledInLake),
            ("e", DifferenceKind::OnlyInLake),
            ("f", DifferenceKind::DoubledInLake),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_bucket_differs_by_sum_by_count_and_by_absence() {
        let sums = |sums: &[(u16, u64, i128)]| -> Vec<BucketSum> {
            sums.iter().map(|&(bucket, rows, sum)| BucketSum { bucket, rows, sum }).collect()
        };
        let theirs = sums(&[(0, 1, 10), (1, 1, 10), (2, 1, 10), (3, 2, 0)]);
        let ours = sums(&[(0, 1, 10), (1, 1, 11), (3, 4, 0), (9, 1, 1)]);
        assert_eq!(differing_buckets(&theirs, &ours), [(1, 2), (2, 1), (3, 6), (9, 1)]);
    }

    #[test]
    fn few_rows_are_listed_at_a_time() {
        let all: Vec<_> = (0..10).map(|bucket| (bucket, LISTED_ROWS / 4)).collect();
        assert_eq!(listed_together(&all), [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
        let large = [(0, 1), (1, LISTED_ROWS * 2), (2, 1)];
        assert_eq!(listed_together(&large), [[0], [1], [2]]);
        assert!(listed_together(&[]).is_empty());
    }

    #[test]
    fn columns_that_differ_are_named_and_masked() {
        let column = |name: &str| Column {
            name: name.into(),
            column_type: ColumnType::Text,
            source_type: String::new(),
        };
        let schema = TableSchema {
            id: TableId::new("s", "t"),
            columns: vec![column("id"), column("a"), column("b")],
            key: vec![0],
            origin: Origin::default(),
        };
        let difference = |column: &str, source: Option<&str>, lake: Option<&str>| ColumnDifference {
            column: column.into(),
            source: source.map(str::to_owned),
            lake: lake.map(str::to_owned),
        };
        let found = |show| differing_columns(&schema, "1:11:x-", &["1:11:x1:y", "1:1-1:z"], show);
        assert_eq!(found(true), [difference("a", Some("x"), None), difference("b", None, Some("y"))]);
        assert_eq!(found(false), [difference("a", Some("***"), None), difference("b", None, Some("***"))]);
        assert!(differing_columns(&schema, "1:11:x-", &["1:11:x-", "1:11:x-"], true).is_empty());
    }
}
