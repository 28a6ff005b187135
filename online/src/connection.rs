//! The way to Redis.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lakeward_features::{SESSION_GAP, View};
use redis::{
    Client, IntoConnectionInfo, TlsCertificates,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

use crate::{
    CUSTOMER_VIEWS, OnlineError, Result,
    keys::{Held, Keys},
};

/// Somebody waits for a read.
const READ_LIMIT: Duration = Duration::from_millis(300);
/// Nobody waits for a write, and a large one may find Redis busy.
const WRITE_LIMIT: Duration = Duration::from_secs(20);
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// So long after a failure readers are told at once, instead of each finding out anew.
const REST: Duration = Duration::from_secs(1);

/// Where the online store is, and what it is for.
#[derive(Clone)]
pub struct OnlineOptions {
    /// `redis://user:password@host:6379/0`, or `rediss://` for TLS.
    pub url: String,
    /// Certificates (PEM) of who vouches for the server; by default those that the machine trusts.
    pub certificates: Option<PathBuf>,
    /// The source whose features it holds, the first part of their keys.
    pub source: String,
    pub ttl: TimesToLive,
}

/// How old a view's values may become: older ones are not answered, and an entity is forgotten after the longest.
#[derive(Debug, Clone, Copy)]
pub struct TimesToLive {
    pub user_rfm: Duration,
    pub user_activity: Duration,
    pub user_item_interactions: Duration,
    pub product_popularity: Duration,
}

impl Default for TimesToLive {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        Self {
            user_rfm: days(7),
            user_activity: days(7),
            user_item_interactions: days(30),
            product_popularity: days(7),
        }
    }
}

impl TimesToLive {
    pub(crate) fn of(&self, view: View) -> Duration {
        match view {
            View::UserRfm => self.user_rfm,
            View::UserActivity => self.user_activity,
            View::UserItemInteractions => self.user_item_interactions,
            View::ProductPopularity => self.product_popularity,
            View::Session => Duration::from_micros(SESSION_GAP.unsigned_abs()),
            View::ChurnTraining => Duration::ZERO,
        }
    }

    /// Of the whole entity, in seconds, at least one: the longest of its views.
    pub(crate) fn of_entity(&self, held: Held) -> u64 {
        let longest = if held.of_product() {
            Some(self.product_popularity)
        } else {
            CUSTOMER_VIEWS.map(|view| self.of(view)).into_iter().max()
        };
        longest.map_or(1, |longest| longest.as_secs().max(1))
    }
}

/// The online store. Connections are made when they are needed, and again after they broke; clones share them.
#[derive(Clone)]
pub struct Online {
    pub(crate) keys: Keys,
    pub(crate) ttl: TimesToLive,
    client: Client,
    reader: ConnectionManager,
    pub(crate) writer: ConnectionManager,
    failed: Arc<Mutex<Option<Instant>>>,
}

impl Online {
    /// Reaches for nothing yet, and must be called where Tokio runs: a store that is away when a server starts is as one that goes away later.
    ///
    /// # Errors
    /// The URL is none of Redis, or the certificates cannot be read.
    pub fn open(options: &OnlineOptions) -> Result<Self> {
        let info = options.url.as_str().into_connection_info().map_err(OnlineError::Url)?;
        // The client takes the process's own provider, and there may be two to choose from.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Fails if another thread was faster.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = match &options.certificates {
            Some(path) => {
                let root_cert = std::fs::read(path).map_err(|source| OnlineError::Certificates {
                    path: path.display().to_string(),
                    source,
                })?;
                let certificates = TlsCertificates { client_tls: None, root_cert: Some(root_cert) };
                Client::build_with_tls(info, certificates)
            }
            None => Client::open(info),
        };
        let client = client.map_err(OnlineError::Url)?;
        let connect = |limit| ConnectionManager::new_lazy_with_config(client.clone(), config(limit));
        let (reader, writer) = (connect(READ_LIMIT)?, connect(WRITE_LIMIT)?);
        Ok(Self {
            keys: Keys::new(&options.source),
            ttl: options.ttl,
            client,
            reader,
            writer,
            failed: Arc::default(),
        })
    }

    /// One more connection for writes.
    pub(crate) fn another_writer(&self) -> Result<ConnectionManager> {
        Ok(ConnectionManager::new_lazy_with_config(self.client.clone(), config(WRITE_LIMIT))?)
    }

    /// Whether the last read, if it was moments ago, found the store away.
    pub fn is_away(&self) -> bool {
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.is_some_and(|at| at.elapsed() < REST)
    }

    /// Asks on behalf of a reader, who is answered in time one way or the other.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, commands: &redis::Pipeline) -> Result<T> {
        if self.is_away() {
            return Err(OnlineError::Unreachable);
        }
        let mut reader = self.reader.clone();
        let answered = match tokio::time::timeout(READ_LIMIT, commands.query_async(&mut reader)).await {
            Ok(answered) => answered.map_err(OnlineError::Redis),
            Err(_) => Err(OnlineError::Unreachable),
        };
        let failed = answered.as_ref().is_err().then(Instant::now);
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
        answered
    }

    /// Whether the store answers now.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<()> {
        let mut ping = redis::pipe();
        ping.cmd("PING").ignore();
        self.ask(&ping).await
    }
}

fn config(limit: Duration) -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_LIMIT))
        .set_response_timeout(Some(limit))
        // Whoever asks next tries again.
        .set_number_of_retries(1)
        .set_max_delay(Duration::from_millis(200))
}

impl std::fmt::Debug for Online {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Online").field("keys", &self.keys).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}
