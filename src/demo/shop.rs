//! Which shop the demo shows: real baskets where they are at hand, else the made-up one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use lakeward_simulator::{
    LoadReport, ReplayOptions, RunOptions, SeedOptions, ShopEvent, complete_journey_period,
    import_complete_journey, replay, run, seed,
};
use tokio_util::sync::CancellationToken;

use crate::output::Progress;

/// What is left out of the history, to be placed live.
const HELD_BACK: TimeDelta = TimeDelta::weeks(4);
/// The made-up shop places an order this often, in a second.
const SYNTHETIC_RATE: f64 = 10.0;

#[derive(Clone)]
pub enum Shop {
    CompleteJourney { wheel: PathBuf, until: DateTime<Utc> },
    Synthetic { until: DateTime<Utc> },
}

impl Shop {
    pub fn choose(wheel: Option<&Path>, progress: &Progress) -> Result<Self> {
        match wheel {
            Some(wheel) if wheel.exists() => {
                let (_, last) = complete_journey_period(wheel)
                    .with_context(|| format!("{} is not the Complete Journey wheel", wheel.display()))?;
                Ok(Self::CompleteJourney { wheel: wheel.to_owned(), until: last - HELD_BACK })
            }
            Some(wheel) => {
                progress.say(format!("{} is not there: the made-up shop is shown instead", wheel.display()));
                Ok(Self::Synthetic { until: super::synthetic_end() })
            }
            None => Ok(Self::Synthetic { until: super::synthetic_end() }),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::CompleteJourney { .. } => "a real grocer's year (Complete Journey)",
            Self::Synthetic { .. } => "a made-up shop's year",
        }
    }

    pub async fn load(
        &self,
        url: &str,
        progress: &(dyn Fn(u64, u64) + Send + Sync),
        cancel: &CancellationToken,
    ) -> Result<LoadReport> {
        let loaded = match self {
            Self::CompleteJourney { wheel, until } => {
                import_complete_journey(url, wheel, Some(*until), progress, cancel).await
            }
            Self::Synthetic { until } => seed(url, &SeedOptions::standard(*until), progress, cancel).await,
        };
        Ok(loaded?)
    }

    /// Places orders until `cancel`, or until there are no more; `speed` is that of the replayed clock.
    pub async fn place_orders(
        &self,
        url: &str,
        speed: f64,
        on_event: &(dyn Fn(&ShopEvent) + Send + Sync),
        cancel: &CancellationToken,
    ) -> Result<()> {
        match self {
            Self::CompleteJourney { wheel, until } => {
                let options = ReplayOptions { from: *until, speed, orders: None };
                replay(url, wheel, &options, on_event, cancel).await?;
            }
            Self::Synthetic { .. } => {
                let options = RunOptions { rate: SYNTHETIC_RATE, start: Utc::now(), seed: 42, orders: None };
                run(url, &options, on_event, cancel).await?;
            }
        }
        Ok(())
    }
}

/// The demo's tables are called what the shop calls them.
pub fn short_names() -> BTreeMap<String, String> {
    ["users", "products", "orders", "order_items", "events"]
        .map(|table| (format!("public.{table}"), table.to_owned()))
        .into()
}
