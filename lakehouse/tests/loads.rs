//! Files of events in the lake: each line once in bronze or among the dead letters, each event once in silver.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use arrow::{array::AsArray, datatypes::Int64Type};
use lakeward_change::TableId;
use lakeward_events::{ContractFile, FIELDS, Rees46, Rejected, schema};
use lakeward_lakehouse::{
    Lake, LakeError, LoadedLetters, LoadedRows, LoadedTable, Period, Progress, SourceRef,
};
use object_store::ObjectStore;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use url::Url;

use crate::faults::FaultyStore;

const NOW: i64 = 1_772_323_200_000_000;
const CHUNK: usize = 40;

/// Lines with the numbers of a range, some equal ones and some that cannot be taken in.
fn file(numbers: std::ops::Range<u32>) -> String {
    let mut lines = vec![FIELDS.join(",")];
    for number in numbers {
        let (minute, second) = (number / 60 % 60, number % 60);
        let line = format!(
            "2019-10-01 00:{minute:02}:{second:02} UTC,view,{},2053013555631882655,electronics.smartphone,,{}.5,{},26dd6e6e-4dac-4778-8d2c-92e149dab885",
            1000 + number,
            number % 90,
            520_000_000 + number,
        );
        match number % 25 {
            7 => lines.push(line.replace("view", "look")),
            9 => lines.extend([line.clone(), line]),
            11 => lines.push(format!("{line},one too many")),
            _ => lines.push(line),
        }
    }
    lines.join("\n") + "\n"
}

fn reader(text: &str, rows: usize) -> Rees46<&[u8]> {
    let file = ContractFile::open(None).expect("the shipped contract");
    Rees46::open(text.as_bytes(), Arc::clone(file.contract()), rows).expect("a header")
}

async fn open(lake: &Lake, file: &str) -> Result<LoadedTable, LakeError> {
    let source = SourceRef { name: "events".into(), system_id: file.into() };
    let rows = LoadedRows {
        bronze: TableId::new("tracking", "files"),
        silver: TableId::new("tracking", "events"),
        schema: schema(),
        columns: 10,
        key: &["event_time", "event_id"],
        period: Period::Hour,
        partition: None,
        number: "_line",
    };
    LoadedTable::open(lake, &source, rows).await
}

fn up_to(line: i64) -> Progress {
    [(0, line)].into()
}

/// All chunks, as one process would load them that begins where the lake is.
async fn load(lake: &Lake, name: &str, text: &str) -> Result<(), LakeError> {
    let mut table = open(lake, name).await?;
    let done = table.done([0]).await?.remove(&0);
    // Not always the same chunks: how much is read at a time is nobody's business.
    let mut events = reader(text, CHUNK + done.map_or(0, |done| done as usize % 7));
    while let Some(chunk) = events.chunk().expect("it is read") {
        if Some(chunk.end) <= done {
            continue;
        }
        let letter = |Rejected { line, reason, bytes }| {
            let table = TableId::new("tracking", "files");
            LoadedLetters::letter(&table, (0, line as i64), reason, bytes, Vec::new())
        };
        let letters: Vec<_> = chunk.rejected.into_iter().map(letter).collect();
        table.load(&up_to(chunk.end), &chunk.rows, &letters, NOW).await?;
    }
    Ok(())
}

fn lake(store: &Arc<FaultyStore>) -> Lake {
    let store = Arc::clone(store) as Arc<dyn ObjectStore>;
    Lake::with_store(Url::parse("memory:///lake").unwrap(), store, BTreeMap::new()).unwrap()
}

async fn number(lake: &Lake, path: &str, what: &str) -> i64 {
    let session = lake.session();
    // Another one may be registered from before.
    let _ = session.deregister_table("t");
    session.register_table("t", lake.read(path, None).await.unwrap()).unwrap();
    let found = session.sql(&format!("select {what} from t")).await.unwrap().collect().await.unwrap();
    found[0].column(0).as_primitive::<Int64Type>().value(0)
}

const BRONZE: &str = "bronze/events/tracking/files";
const SILVER: &str = "silver/events/tracking/events";
const LETTERS: &str = "ops/dead_letters";

/// Lines that are events, and lines that are none.
async fn check(lake: &Lake, lines: i64, events: i64, letters: i64) {
    assert_eq!(number(lake, BRONZE, "count(*)").await, lines);
    assert_eq!(number(lake, BRONZE, "count(distinct _source || ' ' || _line)").await, lines);
    assert_eq!(number(lake, SILVER, "count(*)").await, events);
    assert_eq!(number(lake, SILVER, "count(distinct event_id)").await, events);
    assert_eq!(number(lake, LETTERS, "count(*)").await, letters);
    assert_eq!(number(lake, LETTERS, "count(distinct id)").await, letters);
}

#[tokio::test]
async fn a_file_is_loaded_once_and_events_of_two_files_are_one() {
    let lake = lake(&FaultyStore::new());
    let (first, second) = (file(0..500), file(250..750));
    load(&lake, "first", &first).await.unwrap();
    // Of 25 lines two are none, and one stands there twice.
    check(&lake, 480, 480, 40).await;
    load(&lake, "first", &first).await.unwrap();
    check(&lake, 480, 480, 40).await;
    load(&lake, "second", &second).await.unwrap();
    check(&lake, 960, 720, 80).await;
    let texts = "count(*) filter (where reason = 'event_type breaks the rule invalidValues'
        or reason = '10 fields instead of 9')";
    assert_eq!(number(&lake, LETTERS, texts).await, 80);
    let whole = "count(*) filter (where price = 1.5 and brand is null and product_id = 1001
        and event_time = timestamp '2019-10-01T00:00:01Z' and event_type = 'view')";
    assert_eq!(number(&lake, SILVER, whole).await, 1);
}

#[tokio::test]
async fn storms_and_crashes_lose_and_double_nothing() {
    let mut struck = 0;
    for seed in 0..6 {
        let store = FaultyStore::new();
        let lake = lake(&store);
        let mut random = StdRng::seed_from_u64(seed);
        for (name, text) in [("first", file(0..500)), ("second", file(250..750))] {
            let mut tries = 0;
            loop {
                tries += 1;
                if tries < 40 {
                    store.storm(random.random());
                }
                let loaded = tokio::select! {
                    loaded = load(&lake, name, &text) => Some(loaded),
                    () = store.hung() => None,
                };
                struck += store.calm();
                match loaded {
                    Some(Ok(())) => break,
                    Some(Err(error)) => assert!(error.is_retryable(), "{error:?}"),
                    None => {}
                }
            }
        }
        check(&lake, 960, 720, 80).await;
    }
    assert!(struck > 100, "only {struck} requests were struck");
}

/// For `bench/events`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn speed() {
    let rows = 2_000_000;
    let line = |number: u32| {
        let (day, hour, minute, second) =
            (number / 200_000 + 1, number / 8_000 % 24, number / 60 % 60, number % 60);
        format!(
            "2019-10-{day:02} {hour:02}:{minute:02}:{second:02} UTC,view,{},2053013555631882655,electronics.smartphone,samsung,{}.57,{},26dd6e6e-4dac-4778-8d2c-{number:012}\n",
            1_000_000 + number % 40_000,
            number % 1_000,
            520_000_000 + number % 300_000,
        )
    };
    let text = FIELDS.join(",") + "\n" + &(0..rows).map(line).collect::<String>();
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(folder.path().to_str().unwrap(), BTreeMap::new()).unwrap();
    let mut table = open(&lake, "speed").await.unwrap();
    let began = Instant::now();
    let (sender, mut chunks) = tokio::sync::mpsc::channel(1);
    let reading = tokio::task::spawn_blocking(move || {
        let mut events = reader(&text, 500_000);
        while let Some(chunk) = events.chunk().expect("it is read") {
            sender.blocking_send(chunk).expect("somebody writes it");
        }
    });
    while let Some(chunk) = chunks.recv().await {
        table.load(&up_to(chunk.end), &chunk.rows, &[], NOW).await.unwrap();
    }
    reading.await.unwrap();
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(number(&lake, SILVER, "count(*)").await, i64::from(rows));
    println!(r#"{{"rows": {rows}, "rows_per_second": {:.0}}}"#, f64::from(rows) / seconds);
}
