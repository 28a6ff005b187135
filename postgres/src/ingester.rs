//! What an ingester says of itself to other processes.

use std::time::Duration;

use serde_json::Value;

use crate::control::Control;
use crate::error::{Error, Result};

impl Control {
    /// Ingester: how it stands now.
    pub async fn report_ingester(&self, source: &str, state: &Value) -> Result<()> {
        let statement = "INSERT INTO ingesters (source, state) VALUES ($1, $2)
             ON CONFLICT (source) DO UPDATE SET state = excluded.state, updated_at = now()";
        self.client()
            .await?
            .execute(statement, &[&source, state])
            .await
            .map_err(Error::query(format!("report the ingester of `{source}`")))?;
        Ok(())
    }

    /// What the source's ingester said last, and how long ago; `None` if there never was one.
    pub async fn ingester(&self, source: &str) -> Result<Option<(Value, Duration)>> {
        let statement =
            "SELECT state, extract(epoch FROM now() - updated_at)::float8 FROM ingesters WHERE source = $1";
        let row = self
            .client()
            .await?
            .query_opt(statement, &[&source])
            .await
            .map_err(Error::query(format!("read how the ingester of `{source}` stands")))?;
        Ok(row.map(|row| (row.get(0), Duration::from_secs_f64(row.get::<_, f64>(1).max(0.0)))))
    }
}
