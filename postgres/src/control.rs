use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_postgres::Client;

use crate::connection::connect;
use crate::error::{Error, Result};
use crate::migration::migrate;

/// The control database: what Lakeward's processes tell each other. One connection, opened anew after it was lost.
///
/// The requests for a consistent cut are documented at [`announce_cut`](Self::announce_cut).
pub struct Control {
    url: String,
    client: Mutex<Option<Arc<Client>>>,
}

impl Control {
    /// Connects and applies the migrations that are missing.
    ///
    /// # Errors
    /// No connection, or a database whose migrations are not this program's.
    pub async fn open(url: &str) -> Result<Self> {
        let mut client = open_session(url).await?;
        migrate(&mut client).await?;
        Ok(Self { url: url.to_owned(), client: Mutex::new(Some(Arc::new(client))) })
    }

    /// The connection.
    ///
    /// # Errors
    /// The connection was lost and cannot be opened anew.
    pub(crate) async fn client(&self) -> Result<Arc<Client>> {
        let mut kept = self.client.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(open_session(&self.url).await?);
        *kept = Some(Arc::clone(&client));
        Ok(client)
    }

    /// Gives up a connection over which no answer comes: the next call opens another one.
    pub async fn hang_up(&self) {
        *self.client.lock().await = None;
    }
}

async fn open_session(url: &str) -> Result<Client> {
    let client = connect(url).await?;
    // A session's locks say that its process lives: the server must notice a dead machine in seconds.
    client
        .batch_execute(
            "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3",
        )
        .await
        .map_err(Error::query("set up the control connection"))?;
    Ok(client)
}
