//! Tables in files of anyone's: CSV or Parquet, by the name's ending.

use std::{fs::File, path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use arrow::{
    array::RecordBatch,
    csv::{ReaderBuilder, reader::Format},
    datatypes::{DataType, Field, Schema},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Reads the whole file. CSV needs a header line; its values come as text, so that an id like 007 stays itself.
pub fn read(path: &Path) -> Result<Vec<RecordBatch>> {
    let open = || File::open(path).with_context(|| format!("cannot open {}", path.display()));
    match path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("csv") => {
            let format = Format::default().with_header(true);
            let (guessed, _) = format
                .infer_schema(open()?, Some(1))
                .with_context(|| format!("{} has no header line of CSV", path.display()))?;
            let text = |field: &Arc<Field>| Field::new(field.name(), DataType::Utf8, true);
            let schema = Schema::new(guessed.fields().iter().map(text).collect::<Vec<_>>());
            ReaderBuilder::new(Arc::new(schema))
                .with_header(true)
                .build(open()?)?
                .collect::<Result<_, _>>()
                .with_context(|| format!("{} is no whole CSV file", path.display()))
        }
        Some("parquet") => ParquetRecordBatchReaderBuilder::try_new(open()?)
            .and_then(|builder| builder.with_batch_size(65_536).build())
            .with_context(|| format!("{} is no Parquet file", path.display()))?
            .collect::<Result<_, _>>()
            .with_context(|| format!("{} is damaged", path.display())),
        _ => bail!("{}: the name must end in .csv or .parquet", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn csv_values_stay_text() {
        let mut file = tempfile::Builder::new().suffix(".csv").tempfile().expect("a temporary file");
        file.write_all(b"user_id,item_id\n007,x\n8,\n").expect("it can be written");
        let batches = read(file.path()).expect("it is CSV");
        let users = batches[0].column(0).as_any().downcast_ref::<arrow::array::StringArray>().expect("text");
        assert_eq!(users.value(0), "007");
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    }

    #[test]
    fn errors_name_the_file() {
        for name in ["missing.csv", "missing.parquet", "missing.txt"] {
            let error = read(Path::new(name)).expect_err("there is no such file");
            assert!(format!("{error:#}").contains(name));
        }
    }
}
