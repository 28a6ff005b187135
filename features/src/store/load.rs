//! Loading the store from the lake.

use deltalake::datafusion::prelude::ident;
use futures::TryStreamExt;
use lakeward_change::Position;
use lakeward_lakehouse::{Lake, Watermark};

use crate::{
    FeatureError, MemoryStore, OnlineStore, Result, ShopNames, ShopTable, shop::open_silver,
    store::memory::State,
};

impl MemoryStore {
    /// The base as of a watermark and bronze's changes beyond it.
    ///
    /// # Errors
    /// The shop lacks what cannot be done without, a table was copied anew since the watermark, or the lake cannot be
    /// read.
    pub async fn load(lake: &Lake, watermark: &Watermark, names: &ShopNames) -> Result<Self> {
        let mut state = State { watermark: Some(watermark.lsn), ..State::default() };
        for (table, provider) in open_silver(lake, watermark, names).await? {
            let read = |source| FeatureError::Read { table, source };
            let located = table.locate(&provider.schema())?;
            let wanted = table.columns().iter().zip(located).filter(|(_, index)| index.is_some());
            let columns: Vec<_> = wanted.map(|(column, _)| ident(column.name)).collect();
            let frame =
                lake.session().read_table(provider).and_then(|frame| frame.select(columns)).map_err(read)?;
            let mut rows = frame.execute_stream().await.map_err(read)?;
            while let Some(batch) = rows.try_next().await.map_err(read)? {
                state.load(table, &batch)?;
            }
        }
        for table in ShopTable::ALL {
            // All that committed before the watermark's LSN is in the base, and of what commits there only copied rows,
            // whose order is at most 0.
            state.positions[table as usize] = watermark.tables.get(names.id(table)).map(|entry| Position {
                epoch: entry.epoch,
                commit: watermark.lsn.as_i64(),
                order: 0,
            });
        }
        let store = Self::loaded(state, names.clone());
        store.catch_up(lake, watermark).await?;
        if let Some(as_of) = store.status().as_of {
            store.refresh_scores(as_of);
        }
        Ok(store)
    }

    /// Applies bronze's changes beyond a watermark that the store does not have yet. Returns how many counted.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn catch_up(&self, lake: &Lake, watermark: &Watermark) -> Result<u64> {
        let mut changes = Vec::new();
        for table in ShopTable::ALL {
            let id = self.names.id(table);
            if watermark.tables.contains_key(id) {
                changes.extend(lake.bronze_after(watermark, id).await?);
            }
        }
        self.apply(&changes)
    }
}
