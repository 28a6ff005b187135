//! Holds: the state of a watermark stays readable as long as somebody reads it.
//!
//! A hold is an object `ops/holds/{source}/{name}` with the watermark in it. It is written again and again, so one whose
//! reader was killed is told by its age. Whoever holds a watermark that was the newest within the grace of
//! [`Retention`](crate::Retention) finds everything: files go only where neither a kept watermark nor a held one needs
//! them.

use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use futures::{StreamExt, TryStreamExt};
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::{sync::oneshot, time::timeout};
use uuid::Uuid;

use crate::{Lake, LakeError, Layer, Watermark, layout::slug};

const RENEWED_EVERY: Duration = Duration::from_secs(60);
/// Its reader is gone. The clocks of store and vacuum may be apart by the difference.
const FORGOTTEN_AFTER: TimeDelta = TimeDelta::minutes(5);

/// A state in use; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct Hold {
    _reading: oneshot::Sender<()>,
}

impl Lake {
    /// Holds the state of a watermark. Who may not write to the lake may read it still: then a warning says that the
    /// state is there for no longer than the grace.
    pub async fn hold(&self, watermark: &Watermark) -> Hold {
        let name = format!("{}/{}", folder(&watermark.source), Uuid::new_v4().simple());
        let (reading, mut read) = oneshot::channel();
        self.write_hold(&name, watermark).await;
        let (lake, watermark) = (self.clone(), watermark.clone());
        tokio::spawn(async move {
            while timeout(RENEWED_EVERY, &mut read).await.is_err() {
                lake.write_hold(&name, &watermark).await;
            }
            if let Ok(path) = lake.object_path(&name) {
                // If it stays, it is forgotten soon.
                let _ = lake.store().delete(&path).await;
            }
        });
        Hold { _reading: reading }
    }

    async fn write_hold(&self, name: &str, watermark: &Watermark) {
        let written = async {
            let json = serde_json::to_vec(watermark)
                .map_err(|error| LakeError::Damaged { table: name.to_owned(), reason: error.to_string() })?;
            let path = self.object_path(name)?;
            self.store().put(&path, json.into()).await.map_err(failed(name, "written"))
        };
        if let Err(error) = written.await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "a state of the lake is read that may be removed meanwhile");
        }
    }

    /// The watermarks of a source that are held at `now` (microseconds UTC). Forgotten holds are removed.
    pub(crate) async fn held(&self, source: &str, now: i64) -> Result<Vec<Watermark>, LakeError> {
        let folder = folder(source);
        let place = self.object_path(&folder)?;
        let holds: Vec<ObjectMeta> =
            self.store().list(Some(&place)).try_collect().await.map_err(failed(&folder, "listed"))?;
        let now = DateTime::from_timestamp_micros(now).unwrap_or(DateTime::<chrono::Utc>::MAX_UTC);
        let (held, forgotten): (Vec<_>, Vec<_>) =
            holds.into_iter().partition(|hold| now - hold.last_modified < FORGOTTEN_AFTER);
        for hold in forgotten {
            there(self.store().delete(&hold.location).await).map_err(failed(&folder, "cleared"))?;
        }
        let read = async |hold: ObjectMeta| {
            let read = async { self.store().get(&hold.location).await?.bytes().await };
            let Some(json) = there(read.await).map_err(failed(&folder, "read"))? else { return Ok(None) };
            let damaged = |error: serde_json::Error| LakeError::Damaged {
                table: hold.location.to_string(),
                reason: error.to_string(),
            };
            serde_json::from_slice(&json).map(Some).map_err(damaged)
        };
        let held = futures::stream::iter(held).then(read).try_filter_map(async |hold| Ok(hold));
        held.try_collect().await
    }
}

/// Holds are given back at any time.
fn there<T>(done: object_store::Result<T>) -> object_store::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn folder(source: &str) -> String {
    format!("{}/holds/{}", Layer::Ops, slug(source))
}

fn failed(path: &str, doing: &'static str) -> impl Fn(Error) -> LakeError {
    let path = path.to_owned();
    move |source| LakeError::Store { path: path.clone(), doing, source }
}
