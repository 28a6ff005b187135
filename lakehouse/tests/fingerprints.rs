//! Checksums over canonical text.

use std::{collections::BTreeMap, sync::Arc};

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int16Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::error::ArrowError;
use futures::stream;
use lakeward_change::{Column, ColumnType, Lsn, TableId, TableSchema};
use lakeward_lakehouse::{CapturedTable, Lake};
use md5::{Digest, Md5};
use object_store::{ObjectStore, memory::InMemory};
use url::Url;

use crate::source::{TAKEN_AT, server};

fn lake() -> Lake {
    let store = Arc::new(InMemory::new()) as Arc<dyn ObjectStore>;
    Lake::with_store(Url::parse("memory:///").unwrap(), store, BTreeMap::new()).unwrap()
}

/// One column of every type, with a plain value, an awkward one and a null, and the texts they must have.
pub fn every_type() -> Vec<(ColumnType, ArrayRef, [&'static str; 3])> {
    let numeric = |precision, scale, values: Vec<Option<i128>>| {
        Arc::new(Decimal128Array::from(values).with_precision_and_scale(precision, scale).unwrap())
            as ArrayRef
    };
    let text = |values: Vec<Option<&str>>| Arc::new(StringArray::from(values)) as ArrayRef;
    vec![
        (
            ColumnType::Bool,
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
            ["1:t", "1:f", "-"],
        ),
        (
            ColumnType::Int2,
            Arc::new(Int16Array::from(vec![Some(7), Some(-32768), None])),
            ["1:7", "6:-32768", "-"],
        ),
        (ColumnType::Int4, Arc::new(Int32Array::from(vec![Some(0), Some(-1), None])), ["1:0", "2:-1", "-"]),
        (
            ColumnType::Float4,
            Arc::new(Float32Array::from(vec![Some(1.5), Some(-0.0), None])),
            ["8:3fc00000", "8:80000000", "-"],
        ),
        (
            ColumnType::Float8,
            Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(f64::NEG_INFINITY), None])),
            ["3:NaN", "16:fff0000000000000", "-"],
        ),
        (
            ColumnType::Numeric { precision: 12, scale: 2 },
            numeric(12, 2, vec![Some(50), Some(-50), None]),
            ["4:0.50", "5:-0.50", "-"],
        ),
        (
            ColumnType::Numeric { precision: 38, scale: 0 },
            numeric(38, 0, vec![Some(7), Some(-(10_i128.pow(37))), None]),
            ["1:7", "39:-10000000000000000000000000000000000000", "-"],
        ),
        (
            ColumnType::Numeric { precision: 6, scale: 6 },
            numeric(6, 6, vec![Some(1), Some(-999_999), None]),
            ["8:0.000001", "9:-0.999999", "-"],
        ),
        (ColumnType::Text, text(vec![Some("é"), Some(""), None]), ["2:é", "0:", "-"]),
        (
            ColumnType::Json,
            text(vec![Some("{\"a\": 1}"), Some("null"), None]),
            ["8:{\"a\": 1}", "4:null", "-"],
        ),
        (
            ColumnType::Uuid,
            text(vec![
                Some("123e4567-e89b-12d3-a456-426614174000"),
                Some("00000000-0000-0000-0000-000000000000"),
                None,
            ]),
            ["36:123e4567-e89b-12d3-a456-426614174000", "36:00000000-0000-0000-0000-000000000000", "-"],
        ),
        (
            ColumnType::Bytes,
            Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), Some(b""), None])),
            ["4:00ff", "0:", "-"],
        ),
        (
            ColumnType::Date,
            Arc::new(Date32Array::from(vec![Some(0), Some(-719_162), None])),
            ["1:0", "7:-719162", "-"],
        ),
        (
            ColumnType::Timestamp { zoned: true },
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(1), Some(-62_135_596_800_000_000), None])
                    .with_timezone("UTC"),
            ),
            ["1:1", "18:-62135596800000000", "-"],
        ),
    ]
}

#[tokio::test]
async fn every_type_has_its_canonical_text() {
    let lake = lake();
    let types = every_type();
    let column = |name: String, column_type| Column { name, column_type, source_type: "any".into() };
    let mut columns = vec![column("id".into(), ColumnType::Int8)];
    columns.extend(types.iter().enumerate().map(|(i, (t, ..))| column(format!("c{i}"), *t)));
    // The key's order is not the columns'.
    let schema = Arc::new(TableSchema {
        id: TableId::new("public", "all"),
        columns,
        key: vec![9, 0],
        origin: Default::default(),
    });
    let mut values: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![-1, 2]))];
    values.extend(types.iter().map(|(_, array, _)| array.slice(0, 2)));
    let whole = RecordBatch::try_new(schema.arrow(), values).unwrap();
    let mut values: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![3]))];
    values.extend(
        types
            .iter()
            .map(|(t, array, _)| if *t == ColumnType::Text { array.slice(0, 1) } else { array.slice(2, 1) }),
    );
    let nulls = RecordBatch::try_new(schema.arrow(), values).unwrap();

    let mut table = CapturedTable::open(&lake, &server(), Arc::clone(&schema)).await.unwrap();
    let rows = stream::iter([whole, nulls].map(Ok::<_, ArrowError>));
    table.copy(1, Lsn(5), TAKEN_AT, rows, &|_| {}).await.unwrap();

    let mut texts = Vec::new();
    let mut expected: BTreeMap<u16, Vec<(String, i64)>> = BTreeMap::new();
    for (row, id) in ["2:-1", "1:2", "1:3"].iter().enumerate() {
        let pick = |(t, _, texts): &(ColumnType, ArrayRef, [&'static str; 3])| {
            if row == 2 && *t == ColumnType::Text { texts[0] } else { texts[row] }
        };
        let text: String = std::iter::once(*id).chain(types.iter().map(pick)).collect();
        let key = format!("{}{id}", if row == 1 { "0:" } else { "2:é" });
        let hash = i64::from_be_bytes(Md5::digest(text.as_bytes())[..8].try_into().unwrap());
        let digest = Md5::digest(key.as_bytes());
        let bucket = (u16::from(digest[0]) << 8 | u16::from(digest[1])) % 16_384;
        texts.push((key.clone(), text));
        expected.entry(bucket).or_default().push((key, hash));
    }
    let version = table.versions().silver;
    let sums = lake.fingerprint(table.silver_path(), version, &schema).await.unwrap();
    let summed: Vec<(u16, u64, i128)> = expected
        .iter()
        .map(|(bucket, rows)| {
            (*bucket, rows.len() as u64, rows.iter().map(|(_, hash)| i128::from(*hash)).sum())
        })
        .collect();
    assert_eq!(sums.iter().map(|s| (s.bucket, s.rows, s.sum)).collect::<Vec<_>>(), summed);
    for (bucket, mut rows) in expected {
        rows.sort();
        assert_eq!(lake.bucket_rows(table.silver_path(), version, &schema, &[bucket]).await.unwrap(), rows);
    }
    let some = [texts[2].clone(), texts[0].clone()];
    let keys = some.clone().map(|(key, _)| key);
    let mut found = lake.row_texts(table.silver_path(), version, &schema, &keys).await.unwrap();
    found.sort_by_key(|(key, _)| *key != keys[0]);
    assert_eq!(found, some);
}
