//! Kafka Connect's REST API, as far as connectors need it.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::ConnectError;

/// Connect validates a connector's connection before it answers.
const ANSWER: Duration = Duration::from_secs(90);
/// While its workers share out their work, Connect asks to come again.
const REBALANCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) struct Api {
    url: String,
    http: reqwest::Client,
}

/// What `/connectors/NAME/status` says.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Status {
    pub(crate) connector: State,
    pub(crate) tasks: Vec<TaskState>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct State {
    pub(crate) state: String,
    pub(crate) trace: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct TaskState {
    pub(crate) id: i64,
    pub(crate) state: String,
    pub(crate) trace: Option<String>,
}

impl Api {
    pub(crate) fn new(url: &str) -> Result<Self, ConnectError> {
        let url = url.trim_end_matches('/').to_owned();
        match reqwest::Client::builder().timeout(ANSWER).build() {
            Ok(http) => Ok(Self { url, http }),
            Err(source) => Err(ConnectError::Unreachable { url, source }),
        }
    }

    /// Makes the connector, or gives it these settings.
    pub(crate) async fn put_config(&self, connector: &str, config: &Value) -> Result<(), ConnectError> {
        let action = format!("take connector {connector}");
        self.call(Method::PUT, &format!("connectors/{connector}/config"), Some(config), &action).await?;
        Ok(())
    }

    /// `None` if there is no such connector, or not yet.
    pub(crate) async fn status(&self, connector: &str) -> Result<Option<Status>, ConnectError> {
        let action = format!("tell of connector {connector}");
        let path = format!("connectors/{connector}/status");
        let Some(answer) = self.call(Method::GET, &path, None, &action).await? else { return Ok(None) };
        serde_json::from_value(answer).map(Some).map_err(|error| self.strange(&error.to_string()))
    }

    /// Whether Connect remembers a place in the source for it.
    pub(crate) async fn has_offsets(&self, connector: &str) -> Result<bool, ConnectError> {
        let action = format!("tell the offsets of connector {connector}");
        let path = format!("connectors/{connector}/offsets");
        let answer = self.call(Method::GET, &path, None, &action).await?;
        let offsets = answer.as_ref().and_then(|answer| answer["offsets"].as_array());
        Ok(offsets.is_some_and(|offsets| offsets.iter().any(|offset| !offset["offset"].is_null())))
    }

    /// False if there is no such connector.
    pub(crate) async fn restart(&self, connector: &str) -> Result<bool, ConnectError> {
        let path = format!("connectors/{connector}/restart?includeTasks=true");
        self.change(Method::POST, &path, &format!("restart connector {connector}")).await
    }

    /// Ends its tasks. False if there is no such connector.
    pub(crate) async fn stop(&self, connector: &str) -> Result<bool, ConnectError> {
        let path = format!("connectors/{connector}/stop");
        self.change(Method::PUT, &path, &format!("stop connector {connector}")).await
    }

    /// Forgets where a stopped connector was: one of the same name begins anew.
    pub(crate) async fn delete_offsets(&self, connector: &str) -> Result<(), ConnectError> {
        let path = format!("connectors/{connector}/offsets");
        self.change(Method::DELETE, &path, &format!("forget the offsets of {connector}")).await?;
        Ok(())
    }

    pub(crate) async fn delete(&self, connector: &str) -> Result<(), ConnectError> {
        let path = format!("connectors/{connector}");
        self.change(Method::DELETE, &path, &format!("delete connector {connector}")).await?;
        Ok(())
    }

    async fn change(&self, method: Method, path: &str, action: &str) -> Result<bool, ConnectError> {
        Ok(self.call(method, path, None, action).await?.is_some())
    }

    /// The answer's JSON, null where it has none; `None` for what is not there.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        action: &str,
    ) -> Result<Option<Value>, ConnectError> {
        let began = Instant::now();
        loop {
            let mut request = self.http.request(method.clone(), format!("{}/{path}", self.url));
            if let Some(body) = body {
                request = request.json(body);
            }
            let unreachable = |source| ConnectError::Unreachable { url: self.url.clone(), source };
            let answer = request.send().await.map_err(unreachable)?;
            let status = answer.status();
            if status == StatusCode::CONFLICT && began.elapsed() < REBALANCE {
                sleep(PAUSE).await;
                continue;
            }
            let text = answer.bytes().await.map_err(unreachable)?;
            let json: Option<Value> =
                if text.is_empty() { Some(Value::Null) } else { serde_json::from_slice(&text).ok() };
            return match (status, json) {
                (_, None) => Err(self.strange(&format!("it answers {status} without JSON"))),
                (StatusCode::NOT_FOUND, _) => Ok(None),
                (status, Some(json)) if status.is_success() => Ok(Some(json)),
                (status, Some(json)) => Err(ConnectError::Refused {
                    action: action.to_owned(),
                    reason: json["message"].as_str().map_or_else(|| status.to_string(), one_line),
                }),
            };
        }
    }

    fn strange(&self, problem: &str) -> ConnectError {
        ConnectError::NotConnect { url: self.url.clone(), problem: problem.to_owned() }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
