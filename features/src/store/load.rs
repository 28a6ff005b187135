//! Loading the store from the lake.

use futures::TryStreamExt;
use lakeward_change::{ChangeBatch, Lsn, Position};
use lakeward_lakehouse::{Lake, Watermark};

use crate::{
    FeatureError, MemoryStore, Result, ShopNames, ShopTable,
    shop::{known_columns, open_silver},
    store::memory::State,
};

impl MemoryStore {
    /// The base as of a watermark and bronze's changes beyond it.
    ///
    /// # Errors
    /// The shop lacks what cannot be done without, a table was copied anew since the watermark, or the lake cannot be
    /// read.
    pub async fn load(lake: &Lake, watermark: &Watermark, names: &ShopNames) -> Result<Self> {
        let store = Self::of(State::default(), names.clone());
        store.reload(lake, watermark).await?;
        Ok(store)
    }

    /// Takes everything anew from the lake, as [`Self::load`]: after [`FeatureError::NewEpoch`], or when changes were
    /// missed. Readers see the old state until the new one is whole.
    ///
    /// # Errors
    /// As [`Self::load`]; the old state stays.
    pub async fn reload(&self, lake: &Lake, watermark: &Watermark) -> Result<()> {
        let state = read(lake, watermark, &self.names).await?;
        let changes = beyond(lake, watermark, None, &self.names).await?;
        self.replace(state);
        self.apply(&changes).map(drop)
    }

    /// Applies what bronze holds of the cuts after `from`, up to and with `to`: whole transactions. Returns how many
    /// changes counted.
    ///
    /// # Errors
    /// As [`Self::load`]; with [`FeatureError::NewEpoch`], load the store again.
    pub async fn follow(&self, lake: &Lake, from: &Watermark, to: &Watermark) -> Result<u64> {
        self.apply(&beyond(lake, from, Some(to.lsn), &self.names).await?)
    }
}

/// The base as of a watermark.
async fn read(lake: &Lake, watermark: &Watermark, names: &ShopNames) -> Result<State> {
    let _hold = lake.hold(watermark).await;
    let mut state = State { watermark: Some(watermark.lsn), ..State::default() };
    for (table, provider) in open_silver(lake, watermark, names).await? {
        let mut rows = known_columns(&lake.session(), table, provider).await?;
        while let Some(batch) =
            rows.try_next().await.map_err(|source| FeatureError::Read { table, source })?
        {
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
    Ok(state)
}

/// Bronze's changes beyond a watermark, of transactions that committed before an LSN if one is given.
async fn beyond(
    lake: &Lake,
    watermark: &Watermark,
    before: Option<Lsn>,
    names: &ShopNames,
) -> Result<Vec<ChangeBatch>> {
    let mut changes = Vec::new();
    for table in ShopTable::ALL {
        let id = names.id(table);
        if watermark.tables.contains_key(id) {
            changes.extend(lake.bronze_after(watermark, id, before).await?);
        }
    }
    Ok(changes)
}
