//! `lakeward load events`

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::Int64Type,
};
use chrono::Utc;
use flate2::bufread::MultiGzDecoder;
use lakeward_change::{DeadLetter, TableId};
use lakeward_events::{Chunk, Contract, ContractFile, Rees46, Rejected};
use lakeward_lakehouse::{Lake, LoadedLetters, LoadedTable, Period, SourceRef, StoredLetter};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{FILES, SCHEMA, SOURCE, loaded_rows};
use crate::{
    config::Config,
    exit::{Interrupted, Outcome},
    output::Progress,
    session::{LakePlace, lake, shutdown_token},
};

const CHUNK_ROWS: usize = 500_000;
const READ_BYTES: usize = 1 << 20;

/// Into `bronze/events/tracking/files`, and `silver/events/tracking/events` where an event is once, however often it comes. Lines that do not
/// conform to the contract become dead letters. What was interrupted goes on where it stopped when the same file is loaded
/// again. docs/events.md has the rest.
#[derive(clap::Args)]
pub struct Events {
    #[command(flatten)]
    place: LakePlace,
    /// The contract, YAML in the Open Data Contract Standard [default: the one that is shipped]
    #[arg(long, value_name = "FILE")]
    contract: Option<PathBuf>,
    /// event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session, with this header
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    file: PathBuf,
    /// Lines, the header aside.
    lines: u64,
    rejected: u64,
    /// Lines that an earlier load had taken in already.
    passed_over: u64,
}

pub async fn run(arguments: Events, mut config: Config, json: bool) -> Result<Outcome> {
    let Events { place, contract, files } = arguments;
    place.apply(&mut config);
    let shutdown = shutdown_token()?;
    let contract = ContractFile::open(contract.or(config.events.contract.clone()).as_deref())?;
    let lake = lake(&config)?;
    let mut reports = Vec::new();
    for file in &files {
        let loaded = load(file, &lake, &contract, config.events.partition, &shutdown).await;
        let report = loaded.with_context(|| format!("cannot load {}", file.display()))?;
        if !json {
            let Report { lines, rejected, passed_over, .. } = &report;
            println!(
                "{}: {lines} lines, {rejected} of them dead letters, {passed_over} loaded before",
                file.display()
            );
        }
        reports.push(report);
    }
    if json {
        println!("{}", serde_json::to_string(&reports)?);
    }
    Ok(Outcome::Done)
}

async fn load(
    path: &Path,
    lake: &Lake,
    contract: &ContractFile,
    period: Period,
    shutdown: &CancellationToken,
) -> Result<Report> {
    let source = SourceRef { name: SOURCE.to_owned(), system_id: identity(path, shutdown).await? };
    let rows = loaded_rows(FILES, lakeward_events::schema(), period, None, "_line");
    let mut table = LoadedTable::open(lake, &source, rows).await?;
    let done = table.done([0]).await?.remove(&0);
    let mut events = Rees46::open(lines(path)?, Arc::clone(contract.contract()), CHUNK_ROWS)?;
    let whence = Whence::new(contract.contract(), events.header()?);
    // One chunk is read while another is written.
    let (sender, mut chunks) = tokio::sync::mpsc::channel(1);
    let reading = tokio::task::spawn_blocking(move || -> Result<()> {
        while let Some(chunk) = events.chunk()? {
            if sender.blocking_send(chunk).is_err() {
                break;
            }
        }
        Ok(())
    });
    let step = Progress::new().step(path.display().to_string(), "lines");
    let mut report = Report { file: path.to_owned(), lines: 0, rejected: 0, passed_over: 0 };
    while let Some(Chunk { end, rows, rejected }) = chunks.recv().await {
        if shutdown.is_cancelled() {
            return Err(Interrupted.into());
        }
        let lines = (rows.num_rows() + rejected.len()) as u64;
        report.lines += lines;
        report.rejected += rejected.len() as u64;
        if Some(end) <= done {
            report.passed_over += lines;
        } else {
            let letters: Vec<_> = rejected.into_iter().map(|line| whence.letter(line)).collect();
            table.load(&[(0, end)].into(), &rows, &letters, Utc::now().timestamp_micros()).await?;
        }
        step.set(report.lines, 0);
    }
    reading.await.context("the reader broke")??;
    Ok(report)
}

/// A file's lines; it may be compressed by gzip.
fn lines(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    let file = BufReader::with_capacity(READ_BYTES, File::open(path)?);
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => Ok(Box::new(BufReader::with_capacity(READ_BYTES, MultiGzDecoder::new(file)))),
        Some("zst" | "zip" | "bz2" | "xz") => bail!("it is compressed: unpack it, or compress it by gzip"),
        _ => Ok(Box::new(file)),
    }
}

/// The same for the same lines, wherever they lie.
async fn identity(path: &Path, shutdown: &CancellationToken) -> Result<String> {
    let (mut file, stopped) = (lines(path)?, shutdown.clone());
    let hash = tokio::task::spawn_blocking(move || -> Result<_> {
        let mut hash = Sha256::new();
        loop {
            let read = file.fill_buf()?;
            if read.is_empty() {
                return Ok(hash);
            }
            if stopped.is_cancelled() {
                return Err(Interrupted.into());
            }
            hash.update(read);
            let length = read.len();
            file.consume(length);
        }
    });
    Ok(hash
        .await
        .context("the reader broke")??
        .finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// What a letter's line cannot say, as JSON in [`DeadLetter::relation`].
#[derive(Serialize, Deserialize)]
struct Whence {
    contract: String,
    /// The file's columns.
    header: String,
}

impl Whence {
    fn new(contract: &Contract, header: String) -> Self {
        Self { contract: contract.name(), header }
    }

    fn letter(&self, rejected: Rejected) -> DeadLetter {
        let Rejected { line, reason, bytes } = rejected;
        let reason = format!("line {line}: {reason}");
        let line = i64::try_from(line).unwrap_or(i64::MAX);
        let relation = serde_json::to_vec(self).unwrap_or_default();
        LoadedLetters::letter(&TableId::new(SCHEMA, FILES), (0, line), reason, bytes, relation)
    }
}

/// All letters of a file under the contract as it is now: each with its event, or why it still is none. They are read
/// together, so that equal lines are as many events as they are in a file that is loaded.
pub fn reread<'l>(
    letters: &[&'l StoredLetter],
    contract: &Arc<Contract>,
) -> Result<Vec<(&'l StoredLetter, Result<RecordBatch, String>)>> {
    let Some(first) = letters.first() else { return Ok(Vec::new()) };
    let whence: Whence = serde_json::from_slice(&first.letter.relation)
        .with_context(|| format!("the dead letter {} does not tell its file's columns", first.id))?;
    let mut file = whence.header.into_bytes();
    let mut by_line = HashMap::new();
    let mut line = 1;
    for stored in letters {
        file.push(b'\n');
        line += 1;
        by_line.insert(line, *stored);
        line += stored.letter.message.iter().filter(|byte| **byte == b'\n').count() as u64;
        file.extend_from_slice(&stored.letter.message);
    }
    let mut events = Rees46::open(file.as_slice(), Arc::clone(contract), letters.len())?;
    let mut read = Vec::new();
    while let Some(Chunk { rows, rejected, .. }) = events.chunk()? {
        let lines = rows.column(rows.num_columns() - 1).as_primitive::<Int64Type>().clone();
        let rows = (0..rows.num_rows()).map(|row| (lines.value(row) as u64, Ok(rows.slice(row, 1))));
        let refused = rejected.into_iter().map(|rejected| (rejected.line, Err(rejected.reason)));
        let found = rows.chain(refused).filter_map(|(line, row)| Some((*by_line.get(&line)?, row)));
        read.extend(found);
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use flate2::{Compression, write::GzEncoder};
    use lakeward_simulator::{EventFileOptions, write_events};

    use super::*;

    #[tokio::test]
    async fn a_made_up_file_is_loaded_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.csv");
        let from = DateTime::from_timestamp(1_569_888_000, 0).expect("a time");
        let options = EventFileOptions { rows: 3_000, seed: 1, from };
        write_events(&mut File::create(&path).expect("a file"), &options).expect("it is written");
        let root = folder.path().join("lake");
        let lake = Lake::open(root.to_str().expect("plain letters"), std::collections::BTreeMap::new());
        let lake = lake.expect("a lake");
        let contract = ContractFile::open(None).expect("a contract");
        let shutdown = CancellationToken::new();
        let first = load(&path, &lake, &contract, Period::Day, &shutdown).await.expect("it is loaded");
        assert_eq!((first.lines, first.rejected, first.passed_over), (3_000, 0, 0));
        let again = load(&path, &lake, &contract, Period::Day, &shutdown).await.expect("it is there");
        assert_eq!((again.lines, again.passed_over), (3_000, 3_000));

        let compressed = folder.path().join("events.csv.gz");
        let mut gz = GzEncoder::new(File::create(&compressed).expect("a file"), Compression::fast());
        std::io::copy(&mut File::open(&path).expect("the file"), &mut gz).expect("it is compressed");
        gz.finish().expect("it is written");
        let same =
            load(&compressed, &lake, &contract, Period::Day, &shutdown).await.expect("it is there, too");
        assert_eq!(same.passed_over, 3_000);
        let longer = std::fs::read_to_string(&path).expect("the file") + "\n";
        std::fs::write(&path, longer).expect("it is written");
        let longer = load(&path, &lake, &contract, Period::Day, &shutdown)
            .await
            .expect("another file of the same events");
        assert_eq!((longer.lines, longer.passed_over), (3_000, 0));
        let other =
            load(&folder.path().join("events.csv.zst"), &lake, &contract, Period::Day, &shutdown).await;
        assert!(other.is_err());
    }

    /// Under a mended contract a file's letters are the events that a load of it makes then.
    #[tokio::test]
    async fn letters_are_the_events_that_their_lines_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, mended) = (folder.path().join("events.csv"), folder.path().join("mended.yaml"));
        let stare =
            "5,stare,2019-10-01 00:00:00 UTC,7,9,\"a\",35.79,1,72d76fde-8bb3-4e00-8c23-a032dfed738c\n";
        let header =
            "product_id,event_type,event_time,category_id,user_id,brand,price,category_code,user_session\n";
        let line = |brand: &str| stare.replace("\"a\"", brand).replace(",1,", ",a.b,");
        let text = [header, &line("\"a\nb\""), &line("c"), &line("c").replace("35.79", "-1"), &line("c")];
        std::fs::write(&path, text.concat()).expect("it is written");
        let contract = include_str!("../../../contracts/tracking.raw_user_behavior.yaml");
        std::fs::write(&mended, contract.replace("[view, cart,", "[stare, view, cart,")).expect("written");
        let mended = ContractFile::open(Some(&mended)).expect("a contract");
        let shutdown = CancellationToken::new();
        let root = folder.path().join("lake");
        let lake = Lake::open(root.to_str().expect("plain letters"), std::collections::BTreeMap::new());
        let lake = lake.expect("a lake");
        let contract = ContractFile::open(None).expect("a contract");
        let report = load(&path, &lake, &contract, Period::Day, &shutdown).await.expect("it is loaded");
        assert_eq!(report.rejected, 4);
        let letters = lake.dead_letters(None, true).await.expect("letters");
        let letters: Vec<_> = letters.iter().collect();
        let read = reread(&letters, mended.contract()).expect("they are read");
        let refused = read.iter().filter_map(|(_, row)| row.as_ref().err());
        assert_eq!(refused.collect::<Vec<_>>(), ["price breaks the rule minimum"]);
        let id = |row: &RecordBatch, index| row.column(0).as_string::<i32>().value(index).to_owned();
        let mut ids: Vec<_> = read.iter().filter_map(|(_, row)| Some(id(row.as_ref().ok()?, 0))).collect();

        let mut whole =
            Rees46::open(lines(&path).expect("a file"), Arc::clone(mended.contract()), 10).expect("a file");
        let rows = whole.chunk().expect("it is read").expect("lines").rows;
        let mut expected: Vec<_> = (0..rows.num_rows()).map(|row| id(&rows, row)).collect();
        ids.sort();
        expected.sort();
        assert_eq!((ids.len(), &ids), (3, &expected));
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
    }
}
