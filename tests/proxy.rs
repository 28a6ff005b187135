//! A way to Postgres that can fall silent: connections stay open, and nothing passes any more.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Connections are numbered; those up to a number are silent.
pub struct Proxy {
    pub port: u16,
    silence: Arc<watch::Sender<Silence>>,
    accepting: JoinHandle<()>,
}

#[derive(Default, Clone, Copy)]
struct Silence {
    opened: u64,
    /// Of all connections, and of replication's.
    all: u64,
    replication: u64,
}

impl Proxy {
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let silence = Arc::new(watch::Sender::new(Silence::default()));
        let accepting = tokio::spawn({
            let silence = Arc::clone(&silence);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    silence.send_modify(|silence| silence.opened += 1);
                    let number = silence.borrow().opened;
                    tokio::spawn(forward(client, to, number, silence.subscribe()));
                }
            }
        });
        Self { port, silence, accepting }
    }

    /// From now on nothing passes on the connections that are open; new ones are as good as before.
    pub fn silence_all(&self) {
        self.silence.send_modify(|silence| silence.all = silence.opened);
    }

    /// The same, for connections that stream the log alone.
    pub fn silence_replication(&self) {
        self.silence.send_modify(|silence| silence.replication = silence.opened);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(mut client: TcpStream, to: u16, number: u64, mut silence: watch::Receiver<Silence>) {
    let mut begin = [0; 512];
    let Ok(length) = client.peek(&mut begin).await else { return };
    let replicates = begin[..length].windows(11).any(|part| part == b"replication");
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let silent =
        silence.wait_for(|silence| number <= silence.all || replicates && number <= silence.replication);
    let silenced = tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => false,
        silent = silent => silent.is_ok(),
    };
    if silenced {
        // Longer than any test: both ends believe in their connection.
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
}
