//! Texts that stand for values which their columns cannot hold, through a fold.

use arrow::{
    array::{ArrayRef, MapArray},
    error::ArrowError,
};

use super::{Folded, Run, Source, State};
use crate::{ChangeBatch, RawBuilder, raw_entries, raw_of, raw_text};

impl Run<'_> {
    /// The texts of values that their columns cannot hold, from wherever in the run the values are.
    pub(super) fn raw(&self, batches: &[ChangeBatch]) -> Result<Option<ArrayRef>, ArrowError> {
        let raws: Vec<Option<&MapArray>> = batches.iter().map(|batch| raw_of(&batch.values)).collect();
        let mut texts = RawBuilder::default();
        if raws.iter().any(Option::is_some) {
            let names = batches[0].table.columns.iter().map(|column| column.name.as_str());
            for (row, slot) in self.slots.iter().enumerate() {
                match &slot.state {
                    State::Deleted => {}
                    State::Whole => {
                        for (name, text) in
                            raws[slot.last.0].iter().flat_map(|raw| raw_entries(raw, slot.last.1))
                        {
                            texts.push(row, name, text);
                        }
                    }
                    State::Pieced(sources) => {
                        for (name, source) in names.clone().zip(sources) {
                            if let Source::Run(batch, at) = *source
                                && let Some(text) = raw_text(raws[batch], at, name)
                            {
                                texts.push(row, name, text);
                            }
                        }
                    }
                }
            }
        }
        texts.finish(self.slots.len())
    }
}

impl Folded {
    /// Rows, columns' names and texts of the values that the run gives and their columns cannot hold.
    pub(super) fn texts(&self) -> Vec<(usize, String, String)> {
        let raw = raw_of(&self.values);
        let of_row =
            |row| raw.into_iter().flat_map(move |raw| raw_entries(raw, row)).map(move |entry| (row, entry));
        let all = (0..self.values.num_rows()).flat_map(of_row);
        all.map(|(row, (name, text))| (row, name.to_owned(), text.to_owned())).collect()
    }
}
