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
    array::{
        ArrayRef, Decimal128Builder, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
    },
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
    error::ArrowError,
};
use csv::ByteRecord;
use sha1::{Digest, Sha1};
use uuid::Uuid;

use crate::{Contract, contract::Columns};

/// The columns of the file, in our order; they may stand in any.
pub const FIELDS: [&str; 9] = [
    "event_time",
    "event_type",
    "product_id",
    "category_id",
    "category_code",
    "brand",
    "price",
    "user_id",
    "user_session",
];
const EVENT_ID: &str = "event_id";
/// The line of the file that a row was, from 1; the header is the first.
const LINE: &str = "_line";
const TIME: usize = 0;
const PRICE: usize = 6;
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
    /// From 1; the same lines whenever the file is read.
    pub number: i64,
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
    number: i64,
}

/// The columns of events that were read: `event_id`, the file's nine, and the line.
pub fn schema() -> SchemaRef {
    let data_type = |name: &str| match name {
        "event_time" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "product_id" | "category_id" | "user_id" => DataType::Int64,
        "price" => DataType::Decimal128(12, 2),
        _ => DataType::Utf8,
    };
    let fields = FIELDS.iter().map(|name| Field::new(*name, data_type(name), true));
    let id = Field::new(EVENT_ID, DataType::Utf8, true);
    let line = Field::new(LINE, DataType::Int64, true);
    Arc::new(Schema::new(std::iter::once(id).chain(fields).chain([line]).collect::<Vec<_>>()))
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
        Ok(Self { lines, places, contract, columns, known: Known::default(), chunk_rows, number: 0 })
    }

    /// The next lines; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn chunk(&mut self) -> Result<Option<Chunk>, Rees46Error> {
        let mut builders = Builders::default();
        let (mut rejected, mut lines) = (Vec::new(), 0);
        let mut record = ByteRecord::new();
        while lines < self.chunk_rows
            && self.lines.read_byte_record(&mut record).map_err(Rees46Error::Read)?
        {
            lines += 1;
            let line = record.position().map_or(0, csv::Position::line);
            if let Err(reason) = self.row(&record, line, &mut builders) {
                rejected.push(Rejected { line, reason, bytes: record_bytes(&record) });
            }
        }
        if lines == 0 {
            return Ok(None);
        }
        self.number += 1;
        let rows = builders.finish().map_err(Rees46Error::Columns)?;
        Ok(Some(Chunk { number: self.number, rows, rejected }))
    }

    fn row(&mut self, record: &ByteRecord, line: u64, builders: &mut Builders) -> Result<(), String> {
        if record.len() != FIELDS.len() {
            return Err(format!("line {line} has {} fields instead of {}", record.len(), FIELDS.len()));
        }
        let mut values = [None; FIELDS.len()];
        for (value, (place, field)) in values.iter_mut().zip(self.places.iter().zip(FIELDS)) {
            let bytes = record.get(*place).unwrap_or_default();
            let text = std::str::from_utf8(bytes)
                .map_err(|_| format!("line {line}: {field} breaks the rule utf8"))?;
            *value = Some(text).filter(|text| !text.is_empty());
        }
        let reasons = self.contract.check_texts(&self.columns, &values);
        let told = |field: &str, rule: &str| format!("line {line}: {field} breaks the rule {rule}");
        if let Some(first) = reasons.first() {
            let more = reasons[1..].iter().map(|reason| format!("; {} {}", reason.field, reason.rule));
            return Err(told(&first.field, first.rule) + &more.collect::<String>());
        }
        let time = self.columns.micros(TIME, values[TIME].unwrap_or_default(), &self.contract);
        let time = time.ok_or_else(|| told("event_time", "format"))?;
        let price = values[PRICE].map(cents).transpose().map_err(|()| told("price", "physicalType"))?;
        let integer = |index: usize| {
            let text: Option<&str> = values[index];
            text.map(str::parse::<i64>).transpose().map_err(|_| told(FIELDS[index], "logicalType"))
        };
        let integers = [integer(2)?, integer(3)?, integer(7)?];
        let id = self.known.id(time, &values);
        builders.append(id, time, price, integers, &values, line);
        Ok(())
    }
}

/// Text of at most two decimals as hundredths, if decimal(12,2) holds it.
fn cents(text: &str) -> Result<i128, ()> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (fraction, rest) = fraction.split_at_checked(2.min(fraction.len())).ok_or(())?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty()
        || whole.len() > 10
        || !digits(whole)
        || !digits(fraction)
        || rest.bytes().any(|byte| byte != b'0')
    {
        return Err(());
    }
    format!("{whole}{fraction:0<2}").parse().map_err(|_| ())
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
    fn id(&mut self, time: i64, values: &[Option<&str>; FIELDS.len()]) -> Uuid {
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

#[derive(Default)]
struct Builders {
    ids: StringBuilder,
    times: TimestampMicrosecondBuilder,
    /// Type, category code, brand, session.
    texts: [StringBuilder; 4],
    /// Product, category, customer.
    integers: [Int64Builder; 3],
    prices: Decimal128Builder,
    lines: Int64Builder,
}

impl Builders {
    fn append(
        &mut self,
        id: Uuid,
        time: i64,
        price: Option<i128>,
        integers: [Option<i64>; 3],
        values: &[Option<&str>; FIELDS.len()],
        line: u64,
    ) {
        self.ids.append_value(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        self.times.append_value(time);
        for (builder, index) in self.texts.iter_mut().zip([1, 4, 5, 8]) {
            builder.append_option(values[index]);
        }
        for (builder, value) in self.integers.iter_mut().zip(integers) {
            builder.append_option(value);
        }
        self.prices.append_option(price);
        self.lines.append_value(i64::try_from(line).unwrap_or(i64::MAX));
    }

    fn finish(mut self) -> Result<RecordBatch, ArrowError> {
        let [kind, code, brand, session] =
            self.texts.each_mut().map(|texts| Arc::new(texts.finish()) as ArrayRef);
        let [product, category, user] =
            self.integers.each_mut().map(|integers| Arc::new(integers.finish()) as ArrayRef);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.ids.finish()),
            Arc::new(self.times.finish().with_timezone("UTC")),
            kind,
            product,
            category,
            code,
            brand,
            Arc::new(self.prices.finish().with_precision_and_scale(12, 2)?),
            user,
            session,
            Arc::new(self.lines.finish()),
        ];
        RecordBatch::try_new(schema(), columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_exact() {
        for (text, expected) in
            [("35.79", 3579), ("0", 0), ("7.5", 750), ("1.500", 150), ("9999999999.99", 999_999_999_999)]
        {
            assert_eq!(cents(text), Ok(expected), "{text}");
        }
        for text in ["", ".5", "1.005", "-1", "1e3", "10000000000", "1,5", "+1", "1.2é"] {
            assert_eq!(cents(text), Err(()), "{text}");
        }
    }
}
