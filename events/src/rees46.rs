//! Behaviour events in a file, as the public "eCommerce behavior data" of REES46 has them: CSV with a header, one event a
//! line, `event_time` like `2019-10-01 00:00:00 UTC`.
//!
//! The file names no events, so an event's identifier is made of what it is: a UUID of version 5 (RFC 9562) over the nine
//! fields and its number among equal rows. Reading the file again gives the same ones.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, Int64Builder, RecordBatch},
    datatypes::{DataType, SchemaRef},
    error::ArrowError,
};
use csv::ByteRecord;
use sha1::{Digest, Sha1};
use uuid::Uuid;

use crate::{
    Contract,
    behaviour::{self, EVENT_ID, FIELDS, TIME, Texts, Values},
    broken,
    contract::Columns,
};

/// The line of the file that a row was, from 1; the header is the first.
const LINE: &str = "_line";
/// What names are made in: ours alone.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f0b_5a52_8c3e_4c52_9f04_3d52_1f2f_a7c1);
/// Rows whose equals are known: an equal row comes with the same time, so in a file in order of time soon after.
const KNOWN_ROWS: usize = 2_000_000;

/// The file cannot be read as events.
#[derive(Debug, thiserror::Error)]
pub enum Rees46Error {
    #[error("the file cannot be read")]
    Read(#[source] csv::Error),
    #[error("the header must name {}: {problem}", FIELDS.join(", "))]
    Header { problem: String },
    #[error("the rows do not make columns")]
    Columns(#[source] ArrowError),
}

impl Rees46Error {
    fn header(problem: String) -> Self {
        Self::Header { problem }
    }
}

/// A line that does not conform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    pub line: u64,
    /// Fields and rules; never a value.
    pub reason: String,
    /// The line's fields, as CSV.
    pub bytes: Vec<u8>,
}

/// Some lines of the file.
#[derive(Debug)]
pub struct Chunk {
    /// The line after its last one.
    pub end: i64,
    /// In [`schema`].
    pub rows: RecordBatch,
    pub rejected: Vec<Rejected>,
}

/// Reads a file's events in chunks.
pub struct Rees46<R> {
    lines: csv::Reader<R>,
    /// Where in a line our fields are.
    places: [usize; FIELDS.len()],
    contract: Arc<Contract>,
    columns: Columns,
    known: Known,
    chunk_rows: usize,
}

/// The columns of events that were read: `event_id`, the file's nine, and the line.
pub fn schema() -> SchemaRef {
    behaviour::schema([(LINE, DataType::Int64)])
}

impl<R: Read> Rees46<R> {
    /// Reads the header. Chunks are of `chunk_rows` lines.
    ///
    /// # Errors
    /// The file cannot be read, has other columns, or lacks some that the contract requires.
    pub fn open(file: R, contract: Arc<Contract>, chunk_rows: usize) -> Result<Self, Rees46Error> {
        let mut lines = csv::ReaderBuilder::new().flexible(true).from_reader(file);
        let header = lines.byte_headers().map_err(Rees46Error::Read)?.clone();
        let mut places = [0; FIELDS.len()];
        for (place, field) in places.iter_mut().zip(FIELDS) {
            let found = header.iter().position(|name| name == field.as_bytes());
            *place = found.ok_or_else(|| Rees46Error::header(format!("there is no {field}")))?;
        }
        if header.len() != FIELDS.len() {
            return Err(Rees46Error::header(format!("there are {} columns", header.len())));
        }
        let columns = contract.columns(&FIELDS, EVENT_ID).map_err(|missing| {
            Rees46Error::header(format!("the contract requires {missing}, which such a file has not"))
        })?;
        Ok(Self { lines, places, contract, columns, known: Known::default(), chunk_rows })
    }

    /// The names of the file's columns in their order, with commas between.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn header(&mut self) -> Result<String, Rees46Error> {
        let header = self.lines.headers().map_err(Rees46Error::Read)?;
        Ok(header.iter().collect::<Vec<_>>().join(","))
    }

    /// The next lines; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn chunk(&mut self) -> Result<Option<Chunk>, Rees46Error> {
        let (mut events, mut numbers) = (behaviour::Columns::default(), Int64Builder::new());
        let (mut rejected, mut lines, mut last) = (Vec::new(), 0, 0);
        let mut record = ByteRecord::new();
        while lines < self.chunk_rows
            && self.lines.read_byte_record(&mut record).map_err(Rees46Error::Read)?
        {
            lines += 1;
            let line = record.position().map_or(0, csv::Position::line);
            last = line;
            match self.row(&record, &mut events) {
                Ok(()) => numbers.append_value(i64::try_from(line).unwrap_or(i64::MAX)),
                Err(reason) => rejected.push(Rejected { line, reason, bytes: record_bytes(&record) }),
            }
        }
        if lines == 0 {
            return Ok(None);
        }
        let columns = events.finish().and_then(|mut columns| {
            columns.push(Arc::new(numbers.finish()) as ArrayRef);
            RecordBatch::try_new(schema(), columns)
        });
        let rows = columns.map_err(Rees46Error::Columns)?;
        Ok(Some(Chunk { end: i64::try_from(last + 1).unwrap_or(i64::MAX), rows, rejected }))
    }

    fn row(&mut self, record: &ByteRecord, events: &mut behaviour::Columns) -> Result<(), String> {
        if record.len() != FIELDS.len() {
            return Err(format!("{} fields instead of {}", record.len(), FIELDS.len()));
        }
        let mut values = [None; FIELDS.len()];
        for (value, (place, field)) in values.iter_mut().zip(self.places.iter().zip(FIELDS)) {
            let bytes = record.get(*place).unwrap_or_default();
            let text = std::str::from_utf8(bytes).map_err(|_| broken(field, "utf8"))?;
            *value = Some(text).filter(|text| !text.is_empty());
        }
        let reasons = self.contract.check_texts(&self.columns, &values);
        if let Some(first) = reasons.first() {
            let more = reasons[1..].iter().map(|reason| format!("; {} {}", reason.field, reason.rule));
            return Err(broken(&first.field, first.rule) + &more.collect::<String>());
        }
        let time = self.contract.micros(&[FIELDS[TIME]], values[TIME].unwrap_or_default());
        let time = time.ok_or_else(|| broken("event_time", "format"))?;
        let typed = Values::of(&values).map_err(|(field, rule)| broken(field, rule))?;
        let id = self.known.id(time, &values);
        events.append(id, time, &typed);
        Ok(())
    }
}

/// A line's fields as CSV, as they were but for quotes.
fn record_bytes(record: &ByteRecord) -> Vec<u8> {
    let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
    // Memory takes it.
    let _ = writer.write_byte_record(record);
    let mut bytes = writer.into_inner().unwrap_or_default();
    bytes.pop_if(|last| *last == b'\n');
    bytes
}

/// How often each row has come, of those that came lately.
#[derive(Default)]
struct Known {
    by_time: BTreeMap<i64, HashMap<[u8; 16], u32>>,
    rows: usize,
}

impl Known {
    fn id(&mut self, time: i64, values: &Texts<'_>) -> Uuid {
        let mut name = Sha1::new_with_prefix(NAMESPACE.as_bytes());
        for value in values {
            // With its length, so that no two rows are one text.
            let value = value.unwrap_or_default();
            name.update(u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
            name.update(value);
        }
        let row = first_half(name.clone());
        let seen = self.by_time.entry(time).or_default();
        let count = seen.entry(row).or_default();
        if *count == 0 {
            self.rows += 1;
        }
        let ordinal = *count;
        *count += 1;
        if self.rows > KNOWN_ROWS
            && let Some((_, oldest)) = self.by_time.pop_first()
        {
            self.rows -= oldest.len();
        }
        name.update(ordinal.to_be_bytes());
        uuid::Builder::from_sha1_bytes(first_half(name)).into_uuid()
    }
}

fn first_half(hash: Sha1) -> [u8; 16] {
    let digest = hash.finalize();
    std::array::from_fn(|index| digest[index])
}
