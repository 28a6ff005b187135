//! `lakeward load events`

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use flate2::bufread::MultiGzDecoder;
use lakeward_change::{DeadLetter, TableId};
use lakeward_events::{Chunk, ContractFile, FIELDS, Rees46, Rejected};
use lakeward_lakehouse::{Lake, LoadedLetters, LoadedTable, SourceRef};
use serde::Serialize;
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
        let loaded = load(file, &lake, &contract, &shutdown).await;
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
    shutdown: &CancellationToken,
) -> Result<Report> {
    let source = SourceRef { name: SOURCE.to_owned(), system_id: identity(path, shutdown).await? };
    let rows = loaded_rows(FILES, lakeward_events::schema(), None, "_line");
    let mut table = LoadedTable::open(lake, &source, rows).await?;
    let done = table.done([0]).await?.remove(&0);
    let mut events = Rees46::open(lines(path)?, Arc::clone(contract.contract()), CHUNK_ROWS)?;
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
            let letters: Vec<_> = rejected.into_iter().map(letter).collect();
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

fn letter(rejected: Rejected) -> DeadLetter {
    let Rejected { line, reason, bytes } = rejected;
    let line = i64::try_from(line).unwrap_or(i64::MAX);
    LoadedLetters::letter(
        &TableId::new(SCHEMA, FILES),
        (0, line),
        reason,
        bytes,
        FIELDS.join(",").into_bytes(),
    )
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
        let first = load(&path, &lake, &contract, &shutdown).await.expect("it is loaded");
        assert_eq!((first.lines, first.rejected, first.passed_over), (3_000, 0, 0));
        let again = load(&path, &lake, &contract, &shutdown).await.expect("it is there");
        assert_eq!((again.lines, again.passed_over), (3_000, 3_000));

        let compressed = folder.path().join("events.csv.gz");
        let mut gz = GzEncoder::new(File::create(&compressed).expect("a file"), Compression::fast());
        std::io::copy(&mut File::open(&path).expect("the file"), &mut gz).expect("it is compressed");
        gz.finish().expect("it is written");
        let same = load(&compressed, &lake, &contract, &shutdown).await.expect("it is there, too");
        assert_eq!(same.passed_over, 3_000);
        let longer = std::fs::read_to_string(&path).expect("the file") + "\n";
        std::fs::write(&path, longer).expect("it is written");
        let longer = load(&path, &lake, &contract, &shutdown).await.expect("another file of the same events");
        assert_eq!((longer.lines, longer.passed_over), (3_000, 0));
        let other = load(&folder.path().join("events.csv.zst"), &lake, &contract, &shutdown).await;
        assert!(other.is_err());
    }
}
