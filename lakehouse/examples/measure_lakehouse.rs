//! Measures the lakehouse on this machine: copy, flush, fingerprint, peak memory. Prints one line each.
//!
//! `cargo run --example measure_lakehouse -- [ROWS]` (default 1,470,000 rows of ten columns).

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use arrow::{
    array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
        RecordBatch, StringArray, TimestampMicrosecondArray,
    },
    error::ArrowError,
};
use futures::stream;
use lakeward_change::{ChangeBatch, Column, ColumnType, Lsn, Op, TableId, TableSchema};
use lakeward_lakehouse::{CapturedTable, Lake, SourceRef};

const START: i64 = 1_767_225_600_000_000;

fn table() -> Arc<TableSchema> {
    let columns = [
        ("order_item_id", ColumnType::Int8),
        ("order_id", ColumnType::Int8),
        ("product_id", ColumnType::Int8),
        ("quantity", ColumnType::Int4),
        ("price_per_unit", ColumnType::Numeric { precision: 12, scale: 2 }),
        ("created_at", ColumnType::Timestamp { zoned: true }),
        ("day", ColumnType::Date),
        ("note", ColumnType::Text),
        ("gift", ColumnType::Bool),
        ("weight", ColumnType::Float8),
    ];
    let columns = columns
        .map(|(name, column_type)| Column { name: name.into(), column_type, source_type: "any".into() })
        .to_vec();
    Arc::new(TableSchema { id: TableId::new("public", "order_items"), columns, key: vec![0] })
}

fn mix(value: i64) -> i64 {
    (value.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64) >> 20) & 0xF_FFFF
}

fn rows(ids: &[i64], version: i64) -> RecordBatch {
    let each = |f: fn(i64) -> i64| ids.iter().map(|id| f(*id)).collect::<Int64Array>();
    let prices: Decimal128Array = ids.iter().map(|id| Some(i128::from(mix(*id) % 5000 + version))).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(each(|id| id)),
        Arc::new(each(|id| id / 9)),
        Arc::new(each(|id| mix(id) % 90_000)),
        Arc::new(ids.iter().map(|id| (mix(*id) % 5) as i32).collect::<Int32Array>()),
        Arc::new(prices.with_precision_and_scale(12, 2).expect("12 digits hold them")),
        Arc::new(
            ids.iter()
                .map(|id| START + id * 1_000_003)
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
        Arc::new(ids.iter().map(|id| 20_000 + (id / 4000) as i32).collect::<Date32Array>()),
        Arc::new(
            ids.iter().map(|id| (id % 3 > 0).then(|| format!("note {}", mix(*id)))).collect::<StringArray>(),
        ),
        Arc::new(ids.iter().map(|id| Some(id % 7 == 0)).collect::<BooleanArray>()),
        Arc::new(ids.iter().map(|id| mix(*id) as f64 / 7.0).collect::<Float64Array>()),
    ];
    RecordBatch::try_new(table().arrow(), columns).expect("the columns fit the schema")
}

fn changes(ids: &[i64], op: Op, commit: i64) -> ChangeBatch {
    let number = |value| Int64Array::from_value(value, ids.len());
    ChangeBatch {
        table: table(),
        epoch: 1,
        ops: vec![op; ids.len()],
        commits: number(commit),
        orders: (1..=ids.len() as i64).collect(),
        lsns: number(commit),
        xids: number(commit),
        committed_at: TimestampMicrosecondArray::from_value(START, ids.len()).with_timezone("UTC"),
        values: rows(ids, commit),
        old_keys: None,
        unavailable: vec![None; 10],
    }
}

fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field =
        |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    format!("{} {}", field("VmHWM"), field("VmRSS")).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: i64 = std::env::args().nth(1).map_or(Ok(1_470_000), |n| n.parse())?;
    let folder = tempfile::tempdir()?;
    let lake = Lake::open(&folder.path().to_string_lossy(), BTreeMap::new())?;
    let source = SourceRef { name: "shop".into(), system_id: "1".into() };
    let mut captured = CapturedTable::open(&lake, &source, table()).await?;
    let start = Instant::now();
    let batches = (0..count).step_by(32 * 1024).map(move |first| {
        let ids: Vec<i64> = (first..count.min(first + 32 * 1024)).collect();
        Ok::<_, ArrowError>(rows(&ids, 0))
    });
    captured.copy(1, Lsn(100), START, stream::iter(batches), &|_| {}).await?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "copy: {count} rows in {seconds:.2} s, {:.0} rows/s into bronze and silver; {}",
        count as f64 / seconds,
        memory()
    );

    let random = |n: i64| -> Vec<i64> {
        let mut ids: Vec<i64> = (0..n).map(|i| mix(i * 7919 + 13) * 1_470_001 % count).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    let cases: Vec<(&str, Vec<i64>, Op)> = vec![
        ("1,000 updates of random keys", random(1000), Op::Update),
        ("1,000 updates of recent keys", (count - 1000..count).collect(), Op::Update),
        ("1,000 inserts", (count..count + 1000).collect(), Op::Insert),
        ("10,000 updates of random keys", random(10_000), Op::Update),
        ("1,000 deletes of random keys", random(1000), Op::Delete),
    ];
    for (commit, (what, ids, op)) in (1000..).step_by(10).zip(cases) {
        let start = Instant::now();
        captured.flush(&[changes(&ids, op, commit)], true, START).await?;
        println!("flush of {what}: {:.2} s; {}", start.elapsed().as_secs_f64(), memory());
    }
    let start = Instant::now();
    let sums = lake.fingerprint(captured.silver_path(), captured.versions().silver, &table()).await?;
    let rows: u64 = sums.iter().map(|sum| sum.rows).sum();
    println!("fingerprint of {rows} rows: {:.2} s; {}", start.elapsed().as_secs_f64(), memory());
    let start = Instant::now();
    let again = CapturedTable::open(&lake, &source, table()).await?;
    println!("open: {:.3} s at {:?}", start.elapsed().as_secs_f64(), again.versions());
    Ok(())
}
