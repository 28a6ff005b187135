//! Requests that concern one table, from any process to the one that ingests its source.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_postgres::Row;

use crate::control::Control;
use crate::error::{Error, Result};

const POLL: Duration = Duration::from_millis(100);

/// One request as the control database has it.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRequest {
    pub id: i64,
    /// The table's schema and name in the source.
    pub table: (String, String),
    /// What is to be done; its words are the ingester's.
    pub action: String,
    pub argument: Option<Value>,
}

impl TableRequest {
    fn read(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            table: (row.get("table_schema"), row.get("table_name")),
            action: row.get("action"),
            argument: row.get("argument"),
        }
    }
}

impl Control {
    /// Files a request and gives its id. It stays open until an ingester of the source has answered it, also over
    /// restarts of either.
    pub async fn request_table(
        &self,
        source: &str,
        table: (&str, &str),
        action: &str,
        argument: Option<&Value>,
    ) -> Result<i64> {
        let client = self.client().await?;
        client
            .execute(
                "DELETE FROM table_requests WHERE state <> 'open' AND updated_at < now() - interval '1 day'",
                &[],
            )
            .await
            .map_err(Error::query("forget old table requests"))?;
        let row = client
            .query_one(
                "INSERT INTO table_requests (source, table_schema, table_name, action, argument)
                 VALUES ($1, $2, $3, $4, $5) RETURNING id",
                &[&source, &table.0, &table.1, &action, &argument],
            )
            .await
            .map_err(Error::query(format!("file a request for table {}.{}", table.0, table.1)))?;
        Ok(row.get(0))
    }

    /// The open requests of a source, oldest first.
    pub async fn open_table_requests(&self, source: &str) -> Result<Vec<TableRequest>> {
        let rows = self
            .client()
            .await?
            .query(
                "SELECT id, table_schema, table_name, action, argument FROM table_requests
                 WHERE source = $1 AND state = 'open' ORDER BY id",
                &[&source],
            )
            .await
            .map_err(Error::query(format!("read the table requests of `{source}`")))?;
        Ok(rows.iter().map(TableRequest::read).collect())
    }

    /// Answers a request: with a value, or with the reason why it cannot be done, which is shown to the asker. A
    /// request that is over stays as it is.
    pub async fn answer_table_request(&self, id: i64, answer: Result<&Value, &str>) -> Result<()> {
        let (state, answer, reason) = match answer {
            Ok(value) => ("done", Some(value), None),
            Err(reason) => ("failed", None, Some(reason)),
        };
        self.client()
            .await?
            .execute(
                "UPDATE table_requests SET state = $2, answer = $3, reason = $4, updated_at = now()
                 WHERE id = $1 AND state = 'open'",
                &[&id, &state, &answer, &reason],
            )
            .await
            .map_err(Error::query(format!("answer table request {id}")))?;
        Ok(())
    }

    /// Waits for a request's answer.
    ///
    /// # Errors
    /// [`Error::RequestFailed`] with the ingester's reason, [`Error::RequestTimeout`] when `timeout` passed first: the
    /// request is still open then.
    pub async fn wait_table_request(&self, id: i64, timeout: Duration) -> Result<Value> {
        let began = Instant::now();
        loop {
            let row = self
                .client()
                .await?
                .query_one("SELECT state, answer, reason FROM table_requests WHERE id = $1", &[&id])
                .await
                .map_err(Error::query(format!("read table request {id}")))?;
            match row.get::<_, &str>("state") {
                "done" => return Ok(row.get::<_, Option<Value>>("answer").unwrap_or_default()),
                "failed" => {
                    let reason: Option<String> = row.get("reason");
                    return Err(Error::RequestFailed { id, reason: reason.unwrap_or_default() });
                }
                _ if began.elapsed() >= timeout => return Err(Error::RequestTimeout { id, waited: timeout }),
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }
}
