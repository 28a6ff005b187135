//! What a table's columns are called in its events.

use std::collections::BTreeSet;

use super::Topic;

#[derive(Debug)]
pub(super) struct Names {
    columns: Vec<String>,
    /// Of columns that are not captured.
    left_out: BTreeSet<String>,
}

impl Names {
    /// As the source calls them.
    pub(super) fn plain(topic: &Topic) -> Self {
        Self::new(topic, str::to_owned)
    }

    /// As Avro can have them.
    ///
    /// # Errors
    /// A column that is called as another one then.
    pub(super) fn in_avro(topic: &Topic) -> Result<Self, usize> {
        let names = Self::new(topic, in_avro);
        match (1..names.columns.len()).find(|&at| names.columns[..at].contains(&names.columns[at])) {
            Some(column) => Err(column),
            None => Ok(names),
        }
    }

    fn new(topic: &Topic, called: impl Fn(&str) -> String) -> Self {
        let columns = 0..topic.table.columns.len();
        Self {
            columns: columns.map(|column| called(topic.table.source_name(column))).collect(),
            left_out: topic.left_out.iter().map(|name| called(name)).collect(),
        }
    }

    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    pub(super) fn is_left_out(&self, name: &str) -> bool {
        self.left_out.contains(name)
    }
}

/// `field.name.adjustment.mode=avro`: other characters than Avro's become `_`, of which there is one before a digit, too.
fn in_avro(name: &str) -> String {
    let mut adjusted = String::with_capacity(name.len() + 1);
    if name.starts_with(char::is_numeric) {
        adjusted.push('_');
    }
    for c in name.chars() {
        match c {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '_' => adjusted.push(c),
            // The connector counts in UTF-16.
            c => adjusted.extend(std::iter::repeat_n('_', c.len_utf16())),
        }
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::in_avro;

    #[test]
    fn names_are_adjusted_as_the_connector_does_it() {
        for (name, adjusted) in [
            ("user_id", "user_id"),
            ("weird-col. 1", "weird_col__1"),
            ("1st", "_1st"),
            ("näu", "n_u"),
            ("😀", "__"),
            ("", ""),
        ] {
            assert_eq!(in_avro(name), adjusted);
        }
    }
}
