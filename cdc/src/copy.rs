//! Rows of `COPY … TO STDOUT` in text format to Arrow batches.

use std::{borrow::Cow, sync::Arc};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use lakeward_change::{RawBuilder, TableSchema, with_raw};

use crate::{CdcError, hash::Salt, protocol::Datum, table_builder::append, values::ColumnBuilder};

/// A batch of wide rows ends early at this size, far below what Arrow's 32-bit offsets can hold.
const MAX_BATCH_BYTES: usize = 64 << 20;

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
}

impl CopyDecoder {
    pub(crate) fn new(table: Arc<TableSchema>, salt: &Salt, batch_rows: usize) -> Self {
        Self {
            schema: table.arrow(),
            columns: table.columns.iter().map(|c| ColumnBuilder::salted(c.column_type, salt)).collect(),
            table,
            rows: 0,
            bytes: 0,
            batch_rows,
            partial: Vec::new(),
            raw: RawBuilder::default(),
            nulled: 0,
        }
    }

    /// Takes in a piece of the output, which may end anywhere.
    pub(crate) fn push(&mut self, data: &[u8]) -> Result<(), CdcError> {
        let mut lines = data.split_inclusive(|&byte| byte == b'\n');
        if !self.partial.is_empty() {
            self.partial.extend(lines.next().unwrap_or_default());
            if self.partial.ends_with(b"\n") {
                let line = std::mem::take(&mut self.partial);
                self.line(&line[..line.len() - 1])?;
            }
        }
        for line in lines {
            match line.strip_suffix(b"\n") {
                Some(line) => self.line(line)?,
                None => self.partial.extend(line),
            }
        }
        Ok(())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows >= self.batch_rows || self.bytes >= MAX_BATCH_BYTES
    }

    /// How many values their types could not hold.
    pub(crate) fn nulled(&self) -> u64 {
        self.nulled
    }

    /// The rows so far, if any.
    pub(crate) fn finish(&mut self) -> Result<Option<RecordBatch>, CdcError> {
        if self.rows == 0 {
            return Ok(None);
        }
        let columns = self.columns.iter_mut().map(ColumnBuilder::finish).collect();
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .and_then(|batch| with_raw(batch, self.raw.finish(self.rows)?));
        self.rows = 0;
        self.bytes = 0;
        batch.map(Some).map_err(|source| CdcError::Batch { table: self.table.id.clone(), source })
    }

    fn line(&mut self, line: &[u8]) -> Result<(), CdcError> {
        let mut count = 0;
        for field in line.split(|&byte| byte == b'\t') {
            let Some(column) = self.columns.get_mut(count) else {
                return Err(self.wrong_width());
            };
            let field = (field != b"\\N").then(|| unescape(field));
            let datum = field.as_deref().map_or(Datum::Null, Datum::Text);
            if let Some(text) = append(column, datum, &self.table, count)? {
                self.raw.push(self.rows, &self.table.columns[count].name, text);
                self.nulled += 1;
            }
            count += 1;
        }
        if count != self.columns.len() {
            return Err(self.wrong_width());
        }
        self.rows += 1;
        self.bytes += line.len();
        Ok(())
    }

    fn wrong_width(&self) -> CdcError {
        CdcError::Sequence(format!(
            "a copied row of table {} has another number of columns than the table",
            self.table.id
        ))
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
    use lakeward_change::{Column, ColumnType, TableId};
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
                decoder.push(&text.as_bytes()[start..end]).expect("valid");
                start = end;
            }
            let batch = decoder.finish().expect("valid").expect("rows");
            let ids = batch.column(0).as_primitive::<Int32Type>();
            let notes = batch.column(1).as_string::<i32>();
            let read: Vec<_> = ids.values().iter().copied().zip(notes.iter().map(|n| n.map(str::to_owned))).collect();
            prop_assert_eq!(read, rows);
        }
    }

    #[test]
    fn damage_is_an_error() {
        for text in ["1\n", "1\ta\tb\n", "x\ta\n"] {
            assert!(
                CopyDecoder::new(table(), &Salt::default(), 10).push(text.as_bytes()).is_err(),
                "{text:?}"
            );
        }
    }
}
