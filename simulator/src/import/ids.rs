//! Keys of a file as bigint: whole numbers as they are, text numbered by first appearance with the original kept.

use std::collections::HashMap;

use super::sheet::Sheet;
use crate::error::Error;

pub(crate) struct Ids {
    /// One a row.
    pub(crate) values: Vec<i64>,
    /// The text of number n at n − 1, if the column is not numeric.
    names: Option<Vec<String>>,
}

impl Ids {
    pub(crate) fn read(sheet: &Sheet, column: &str) -> Result<Self, Error> {
        if sheet.is_integer(column)? {
            return Ok(Self { values: sheet.integers(column)?, names: None });
        }
        let texts = sheet.texts(column)?;
        if let Some(row) = texts.iter().position(|text| text.is_none()) {
            return Err(sheet.cell_error(row, column, "is empty"));
        }
        // Only texts that a number gives back unchanged: «007» and «7» are two keys.
        let numbers: Option<Vec<i64>> = texts
            .iter()
            .flatten()
            .map(|text| text.parse().ok().filter(|number: &i64| number.to_string() == text))
            .collect();
        if let Some(values) = numbers {
            return Ok(Self { values, names: None });
        }
        let mut numbers: HashMap<&str, i64> = HashMap::new();
        let mut names = Vec::new();
        let values = texts
            .iter()
            .flatten()
            .map(|text| {
                *numbers.entry(text).or_insert_with(|| {
                    names.push(text.to_owned());
                    names.len() as i64
                })
            })
            .collect();
        Ok(Self { values, names: Some(names) })
    }

    /// The file's own text for a number, where it is not the number itself.
    pub(crate) fn external(&self, value: i64) -> Option<&str> {
        let index = usize::try_from(value - 1).ok()?;
        self.names.as_ref()?.get(index).map(String::as_str)
    }

    /// How the key reads for people.
    pub(crate) fn label(&self, value: i64) -> String {
        self.external(value).map_or_else(|| value.to_string(), str::to_owned)
    }
}
