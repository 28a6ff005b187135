//! The schema registry that says how messages in Avro are read.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::time::timeout;

use crate::{CdcError, debezium::TopicDecoder};

const ANSWER: Duration = Duration::from_secs(10);
/// Less than transactions wait for events that Kafka does not have.
const PATIENCE: Duration = Duration::from_secs(30);

/// A registry with the API of Confluent's.
pub(crate) struct Registry {
    url: String,
    http: reqwest::Client,
    /// A number's schema never changes.
    known: Mutex<BTreeMap<u32, Arc<str>>>,
}

#[derive(Deserialize)]
struct Registered {
    schema: String,
}

/// Why there is no answer, and whether one may come.
struct Trouble {
    problem: String,
    is_passing: bool,
}

impl Registry {
    pub(super) fn new(url: &str) -> Result<Self, CdcError> {
        let url = url.trim_end_matches('/').to_owned();
        match reqwest::Client::builder().timeout(ANSWER).build() {
            Ok(http) => Ok(Self { url, http, known: Mutex::default() }),
            Err(error) => Err(failed(&url, Trouble::of(error))),
        }
    }

    /// Tells a decoder the schema of this number, and whether there is one.
    ///
    /// # Errors
    /// As [`Self::schema`]; what the registry has is no schema.
    pub(crate) async fn tell(&self, decoder: &mut TopicDecoder, number: u32) -> Result<bool, CdcError> {
        let Some(schema) = self.schema(number).await? else { return Ok(false) };
        decoder.tell(number, &schema)?;
        Ok(true)
    }

    /// The schema of this number; `None` if there is none.
    ///
    /// # Errors
    /// The registry gives no answer for half a minute, or another one than a registry's.
    pub(crate) async fn schema(&self, number: u32) -> Result<Option<Arc<str>>, CdcError> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(schema) = known().get(&number) {
            return Ok(Some(Arc::clone(schema)));
        }
        let delays = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(3))
            .without_max_times();
        let asked =
            (|| self.ask(number)).retry(delays).when(|trouble| trouble.is_passing).notify(|trouble, _| {
                tracing::warn!(problem = trouble.problem, "the schema registry does not answer");
            });
        let silent = || Trouble { problem: format!("did not answer for {PATIENCE:?}"), is_passing: true };
        let answer = timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(silent()));
        let schema = answer.map_err(|trouble| failed(&self.url, trouble))?.map(Arc::<str>::from);
        if let Some(schema) = &schema {
            known().insert(number, Arc::clone(schema));
        }
        Ok(schema)
    }

    /// That the schema is needed and not there.
    pub(super) fn lacks(&self, topic: &str, number: u32) -> CdcError {
        CdcError::NoSchema { topic: topic.to_owned(), number, registry: lakeward_postgres::mask(&self.url) }
    }

    async fn ask(&self, number: u32) -> Result<Option<String>, Trouble> {
        let url = format!("{}/schemas/ids/{number}", self.url);
        let response = self.http.get(url).send().await.map_err(Trouble::of)?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let registered: Registered = response.json().await.map_err(Trouble::of)?;
                Ok(Some(registered.schema))
            }
            status => Err(Trouble {
                problem: format!("answered {status}"),
                is_passing: status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS,
            }),
        }
    }
}

impl Trouble {
    fn of(error: reqwest::Error) -> Self {
        let is_passing = error.is_connect() || error.is_timeout() || error.is_body();
        // The URL may have a password.
        let error = error.without_url();
        let causes = std::iter::successors(std::error::Error::source(&error), |cause| cause.source());
        let problem =
            causes.fold(format!("gave no answer: {error}"), |text, cause| format!("{text}: {cause}"));
        Self { problem, is_passing }
    }
}

fn failed(url: &str, Trouble { problem, is_passing }: Trouble) -> CdcError {
    CdcError::Registry { url: lakeward_postgres::mask(url), problem, is_passing }
}
