//! What the handlers share.

use std::{num::NonZeroUsize, sync::Arc, thread};

use lakeward_features::OnlineStore;
use lakeward_online::Online;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    catalogue::Catalogues, clock::Clock, events::EventDoor, problem::Problem, slot::ModelSlot,
    value::Timestamp,
};

/// What the server answers from: the live store, the models in use and the clock.
#[derive(Clone)]
pub struct AppState {
    pub store: Arc<dyn OnlineStore>,
    /// Where features are read that this process has not computed itself.
    pub online: Option<Online>,
    /// Whether another process writes the online store and is ahead of this one's rows: then lists take a customer's
    /// newest purchases from there.
    pub behind: bool,
    pub recommender: Arc<ModelSlot<lakeward_recommender::Model>>,
    pub churn: Arc<ModelSlot<lakeward_propensity::Model>>,
    pub clock: Clock,
    /// Where behaviour events go, if they are taken.
    pub events: Option<Arc<EventDoor>>,
}

impl AppState {
    /// State without models, Redis and a door for events; see [`ModelSlot::set`] and [`crate::watch`].
    pub fn new(store: Arc<dyn OnlineStore>, clock: Clock) -> Self {
        Self {
            store,
            online: None,
            behind: false,
            recommender: Arc::new(ModelSlot::empty("recommender")),
            churn: Arc::new(ModelSlot::empty("churn")),
            clock,
            events: None,
        }
    }

    /// Now, as every answer names it.
    pub(crate) fn as_of(&self) -> Timestamp {
        Timestamp(self.clock.now(self.store.status().as_of))
    }
}

/// [`AppState`] with what the server itself adds.
pub(crate) struct Context {
    pub app: AppState,
    pub catalogues: Catalogues,
    pub metrics: PrometheusHandle,
    pub shutdown: CancellationToken,
    scoring: Semaphore,
}

pub(crate) type Shared = axum::extract::State<Arc<Context>>;

impl Context {
    pub fn new(app: AppState, metrics: PrometheusHandle, shutdown: CancellationToken) -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self { app, catalogues: Catalogues::default(), metrics, shutdown, scoring: Semaphore::new(cores) }
    }

    /// Runs work that takes milliseconds of processor time apart from the threads that serve connections, as many
    /// pieces at once as there are cores. What a client has given up on before its turn is never begun.
    pub async fn score<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let _turn = self.scoring.acquire().await.map_err(|_| Problem::internal())?;
        let context = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&context)).await.map_err(|error| {
            tracing::error!(%error, "scoring failed");
            Problem::internal()
        })
    }
}
