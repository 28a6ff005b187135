//! Follows the registry's champion and takes each new one into use.

use std::{fmt::Display, future::Future, time::Duration};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::slot::ModelSlot;

/// A champion as the registry gave it out.
#[derive(Debug)]
pub struct Champion<M> {
    /// Changes whenever the registry names another model.
    pub etag: String,
    pub version: String,
    pub model: M,
}

/// Keeps `slot` at the registry's champion until `shutdown`.
///
/// Asks for the champion's ETag at once and then every `every`; on a new one `load` fetches and decodes the champion.
/// What fails is logged once, tried again at the next turn, and leaves the model in use as it is: a damaged model, one
/// of a newer format and a registry out of reach never interrupt serving.
pub async fn watch<M, E, Asking, Loading>(
    slot: &ModelSlot<M>,
    every: Duration,
    shutdown: CancellationToken,
    etag: impl Fn() -> Asking,
    load: impl Fn() -> Loading,
) where
    E: Display,
    Asking: Future<Output = Result<Option<String>, E>>,
    Loading: Future<Output = Result<Option<Champion<M>>, E>>,
{
    let mut turns = tokio::time::interval(every);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut in_use: Option<String> = None;
    loop {
        let turn = async {
            turns.tick().await;
            match etag().await {
                Err(error) => slot.refuse(format!("cannot ask the registry for its champion: {error}")),
                Ok(None) => slot.mark_absent(),
                Ok(named) if named == in_use => slot.confirm(),
                Ok(Some(_)) => match load().await {
                    Ok(Some(Champion { etag, version, model })) => {
                        slot.set(version, model);
                        in_use = Some(etag);
                    }
                    Ok(None) => slot.mark_absent(),
                    Err(error) => slot.refuse(error.to_string()),
                },
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = turn => {}
        }
    }
}
