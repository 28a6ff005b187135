//! Rows of `COPY … TO STDOUT` in text format to Arrow batches.

use std::{borrow::Cow, sync::Arc};

use arrow::{array::RecordBatch, compute::filter_record_batch, datatypes::SchemaRef};
use lakeward_change::{CopiedRows, DeadLetter, Op, Position, RawBuilder, TableSchema, all_but, with_raw};

use crate::{CdcError, hash::Salt, protocol::Datum, table_builder::append, values::ColumnBuilder};

/// A batch of wide rows ends early at this size, far below what Arrow's 32-bit offsets can hold.
const MAX_BATCH_BYTES: usize = 16 << 20;

#[derive(Debug)]
pub(crate) struct CopyDecoder {
    table: Arc<TableSchema>,
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    rows: usize,
    bytes: usize,
    batch_rows: usize,
    /// A line that the data so far has not ended.
    partial: Vec<u8>,
    raw: RawBuilder,
    nulled: u64,
    /// Rows of the batch that cannot be taken in: they hold places, and are left out in the end.
    dead: Vec<usize>,
    letters: Vec<DeadLetter>,
}

impl CopyDecoder {
    pub(crate) fn new(table: Arc<TableSchema>, salt: &Salt, batch_rows: usize) -> Self {
        Self {
            schema: table.arrow(),
            columns: table.columns.iter().map(|c| ColumnBuilder::new(c.column_type, salt)).collect(),
            table,
            rows: 0,
            bytes: 0,
            batch_rows,
            partial: Vec::new(),
            raw: RawBuilder::default(),
            nulled: 0,
            dead: Vec::new(),
            letters: Vec::new(),
        }
    }

    /// Takes in a piece of the output, which may end anywhere.
    pub(crate) fn push(&mut self, data: &[u8]) {
        let mut lines = data.split_inclusive(|&byte| byte == b'\n');
        if !self.partial.is_empty() {
            self.partial.extend(lines.next().unwrap_or_default());
            if self.partial.ends_with(b"\n") {
                let line = std::mem::take(&mut self.partial);
                self.line(&line[..line.len() - 1]);
            }
        }
        for line in lines {
            match line.strip_suffix(b"\n") {
                Some(line) => self.line(line),
                None => self.partial.extend(line),
            }
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows >= self.batch_rows || self.bytes >= MAX_BATCH_BYTES
    }

    /// How many values their types could not hold since this was asked.
    pub(crate) fn take_nulled(&mut self) -> u64 {
        std::mem::take(&mut self.nulled)
    }

    /// The rows so far, if any.
    pub(crate) fn finish(&mut self) -> Result<Option<CopiedRows>, CdcError> {
        if self.rows == 0 {
            return Ok(None);
        }
        let raw = self.raw.finish(self.rows);
        let all = std::mem::take(&mut self.rows);
        let dead = std::mem::take(&mut self.dead);
        self.bytes = 0;
        let columns = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        let letters = std::mem::take(&mut self.letters);
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns).and_then(|rows| {
            let rows = with_raw(rows, raw?)?;
            if dead.is_empty() { Ok(rows) } else { filter_record_batch(&rows, &all_but(all, &dead)) }
        });
        let rows = rows.map_err(|source| CdcError::Batch { table: self.table.id.clone(), source })?;
        Ok(Some(CopiedRows { rows, letters }))
    }

    /// Takes a row in; one that cannot be is a letter.
    fn line(&mut self, line: &[u8]) {
        let (mut count, mut texts, mut taken) = (0, Vec::new(), Ok(()));
        for field in line.split(|&byte| byte == b'\t') {
            let Some(column) = self.columns.get_mut(count) else {
                taken = taken.and(Err(self.wrong_width()));
                break;
            };
            let field = (field != b"\\N").then(|| unescape(field));
            let datum = field.as_deref().map_or(Datum::Null, Datum::Text);
            match append(column, datum, &self.table, count) {
                Ok(text) => texts.extend(text.map(|text| (count, text))),
                Err(error) => taken = taken.and(Err(error)),
            }
            count += 1;
        }
        if count < self.columns.len() {
            taken = taken.and(Err(self.wrong_width()));
            self.columns[count..].iter_mut().for_each(ColumnBuilder::append_null);
        }
        match taken {
            Ok(()) => {
                self.nulled += texts.len() as u64;
                for (column, text) in texts {
                    self.raw.push(self.rows, &self.table.columns[column].name, text);
                }
            }
            Err(error) => self.set_aside(line, &error),
        }
        self.rows += 1;
        self.bytes += line.len();
    }

    fn set_aside(&mut self, line: &[u8], error: &CdcError) {
        self.dead.push(self.rows);
        self.letters.push(DeadLetter {
            table: self.table.id.clone(),
            position: Position::default(),
            op: Op::Read,
            lsn: 0,
            xid: None,
            committed_at: None,
            reason: error.with_causes(),
            message: if self.table.has_hashes() { Vec::new() } else { line.to_vec() },
            relation: Vec::new(),
        });
    }

    fn wrong_width(&self) -> CdcError {
        let problem = "has another number of columns than the table";
        CdcError::Row { table: self.table.id.clone(), problem }
    }
}

/// Undoes COPY's backslash escapes.
fn unescape(field: &[u8]) -> Cow<'_, [u8]> {
    if !field.contains(&b'\\') {
        return Cow::Borrowed(field);
    }
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.extend(bytes.next().map(|&escaped| match escaped {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            other => other,
        }));
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use arrow::{array::AsArray, datatypes::Int32Type};
    use lakeward_change::{Column, ColumnType, TableId, raw_of, raw_text};
    use proptest::prelude::*;

    use super::*;

    fn table() -> Arc<TableSchema> {
        let column =
            |name: &str, column_type| Column { name: name.into(), column_type, source_type: String::new() };
        Arc::new(TableSchema {
            id: TableId::new("s", "t"),
            columns: vec![column("id", ColumnType::Int4), column("note", ColumnType::Text)],
            key: vec![0],
            origin: Default::default(),
        })
    }

    fn escape(text: &str) -> String {
        text.replace('\\', "\\\\")
            .replace('\t', "\\t")
            .replace('\n', "\\n")
            .replace('\r', "\\r")
            .replace('\u{8}', "\\b")
    }

    proptest! {
        #[test]
        fn rows_survive_any_cut(
            rows in prop::collection::vec((any::<i32>(), prop::option::of("[a-z\\\\N\t\n\r\u{8}é]{0,8}")), 1..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let text: String = rows
                .iter()
                .map(|(id, note)| format!("{id}\t{}\n", note.as_deref().map_or("\\N".into(), escape)))
                .collect();
            let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            ends.sort_unstable();
            ends.push(text.len());
            let mut decoder = CopyDecoder::new(table(), &Salt::default(), 1000);
            let mut start = 0;
            for end in ends {
                decoder.push(&text.as_bytes()[start..end]);
                start = end;
            }
            let batch = decoder.finish().expect("valid").expect("rows").rows;
            let ids = batch.column(0).as_primitive::<Int32Type>();
            let notes = batch.column(1).as_string::<i32>();
            let read: Vec<_> = ids.values().iter().copied().zip(notes.iter().map(|n| n.map(str::to_owned))).collect();
            prop_assert_eq!(read, rows);
        }
    }

    #[test]
    fn a_damaged_row_is_a_letter_and_the_others_stay() {
        let mut decoder = CopyDecoder::new(table(), &Salt::default(), 10);
        decoder.push(b"1\ta\n2\n3\tc\td\nx\te\n5\t\xff\n6\tf\n");
        let copied = decoder.finish().expect("valid").expect("rows");
        assert_eq!(copied.rows.column(0).as_primitive::<Int32Type>().values(), &[1, 6]);
        let letters: Vec<_> = copied.letters.iter().map(|letter| letter.message.as_slice()).collect();
        assert_eq!(letters, [&b"2"[..], b"3\tc\td", b"x\te", b"5\t\xff"]);
        assert!(copied.letters[3].reason.ends_with("not UTF-8"), "{}", copied.letters[3].reason);
        decoder.push(b"7\tg\n");
        let copied = decoder.finish().expect("valid").expect("rows");
        assert_eq!((copied.rows.num_rows(), copied.letters.len()), (1, 0));
    }

    #[test]
    fn a_letter_of_a_table_with_hashes_keeps_no_bytes() {
        let mut table = table();
        Arc::make_mut(&mut table).columns[1].column_type = ColumnType::Hashed { salt: 1 };
        let mut decoder = CopyDecoder::new(table, &Salt::new("salt"), 10);
        decoder.push(b"1\ta\nx\tsecret\n");
        let copied = decoder.finish().expect("valid").expect("rows");
        assert_eq!((copied.rows.num_rows(), copied.letters.len()), (1, 1));
        assert!(copied.letters[0].message.is_empty());
    }

    #[test]
    fn texts_beside_columns_stay_with_their_rows() {
        let mut table = table();
        Arc::make_mut(&mut table).columns[1].column_type = ColumnType::Date;
        let mut decoder = CopyDecoder::new(table, &Salt::default(), 10);
        decoder.push(b"1\tinfinity\nx\tinfinity\n2\t2020-01-01\n3\t-infinity\n");
        let copied = decoder.finish().expect("valid").expect("rows");
        let texts = (0..3).map(|row| raw_text(raw_of(&copied.rows), row, "note"));
        assert_eq!(texts.collect::<Vec<_>>(), [Some("infinity"), None, Some("-infinity")]);
        assert_eq!((copied.letters.len(), decoder.take_nulled()), (1, 2));
    }
}
