//! A place for a model that requests read without waiting while another model takes its place.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::telemetry;

/// A model in use and the version that answers name.
#[derive(Debug)]
pub struct Served<M> {
    pub version: String,
    pub model: M,
}

/// Holds the model in use. A request that has begun keeps the model it began with; the next one sees the new model.
#[derive(Debug)]
pub struct ModelSlot<M> {
    kind: &'static str,
    current: ArcSwapOption<Served<M>>,
    availability: ArcSwap<Availability>,
}

/// Why there is, or is not, a model in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// Nobody has looked for a model yet.
    Pending,
    /// There is none to load: none has been trained.
    Absent,
    /// The newest model is in use.
    Loaded,
    /// The newest model could not be taken into use, for this reason; an older one, if any, goes on.
    Refused(String),
}

impl Availability {
    /// The state in words.
    pub fn reason(&self) -> String {
        match self {
            Self::Pending => "nobody has looked for a model yet".to_owned(),
            Self::Absent => "no model has been trained yet".to_owned(),
            Self::Loaded => "it is the newest".to_owned(),
            Self::Refused(reason) => format!("the newest was refused: {reason}"),
        }
    }
}

impl<M> ModelSlot<M> {
    /// An empty slot; `kind` names it in logs, metrics and readiness.
    pub fn empty(kind: &'static str) -> Self {
        for outcome in ["loaded", "refused"] {
            // What is not there before the first one shows no increase by it.
            metrics::counter!(telemetry::MODEL_LOADS, "kind" => kind, "outcome" => outcome).increment(0);
        }
        Self {
            kind,
            current: ArcSwapOption::empty(),
            availability: ArcSwap::from_pointee(Availability::Pending),
        }
    }

    pub fn kind(&self) -> &'static str {
        self.kind
    }

    pub fn load(&self) -> Option<Arc<Served<M>>> {
        self.current.load_full()
    }

    pub fn availability(&self) -> Arc<Availability> {
        self.availability.load_full()
    }

    /// Takes a model into use.
    pub fn set(&self, version: impl Into<String>, model: M) {
        let version = version.into();
        tracing::info!(kind = self.kind, version, "model in use");
        self.current.store(Some(Arc::new(Served { version, model })));
        self.availability.store(Arc::new(Availability::Loaded));
        metrics::counter!(telemetry::MODEL_LOADS, "kind" => self.kind, "outcome" => "loaded").increment(1);
    }

    /// Records that the model in use is the newest after all, once what was refused has gone.
    pub(crate) fn confirm(&self) {
        if *self.availability() != Availability::Loaded {
            self.availability.store(Arc::new(Availability::Loaded));
        }
    }

    /// Records that there is no model to load. A model in use stays in use.
    pub fn mark_absent(&self) {
        self.availability.store(Arc::new(Availability::Absent));
    }

    /// Records that the newest model could not be taken into use. A model in use stays in use. Says so in the log once
    /// for each reason, however often it is found again.
    pub fn refuse(&self, reason: impl Into<String>) {
        let refused = Availability::Refused(reason.into());
        let before = self.availability.swap(Arc::new(refused.clone()));
        if *before == refused {
            return;
        }
        if let Availability::Refused(reason) = &refused {
            let in_use = self.load().map_or_else(|| "none".to_owned(), |served| served.version.clone());
            tracing::warn!(kind = self.kind, reason, in_use, "model refused");
        }
        metrics::counter!(telemetry::MODEL_LOADS, "kind" => self.kind, "outcome" => "refused").increment(1);
    }
}
