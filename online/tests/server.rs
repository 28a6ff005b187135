//! A Redis of a test's own, and looks into it that ask no code of ours.

use std::time::{Duration, Instant};

use lakeward_change::Position;
use lakeward_online::{Online, OnlineOptions, Row, Stamp, TimesToLive};
use lakeward_stack::Service;
use redis::{FromRedisValue, aio::MultiplexedConnection};

pub const DAY: i64 = 86_400_000_000;
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Server {
    pub redis: Service,
    pub url: String,
    _folder: tempfile::TempDir,
}

impl Server {
    /// `None` where the services are to be done without.
    pub async fn start() -> Option<Self> {
        if lakeward_stack::is_skipped() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let (redis, address) = lakeward_stack::redis(folder.path(), None).await.unwrap();
        Some(Self { redis, url: format!("redis://{address}/0"), _folder: folder })
    }

    pub fn online(&self) -> Online {
        self.online_with(TimesToLive::default())
    }

    pub fn online_with(&self, ttl: TimesToLive) -> Online {
        let options =
            OnlineOptions { url: self.url.clone(), certificates: None, source: "shop".to_owned(), ttl };
        Online::open(&options).unwrap()
    }

    pub async fn ask<T: FromRedisValue>(&self, command: &str, arguments: &[&str]) -> T {
        let mut command = redis::cmd(command);
        command.arg(arguments);
        command.query_async(&mut self.connect().await).await.unwrap()
    }

    pub async fn connect(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url.as_str()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }
}

pub fn at(epoch: i64, commit: i64, order: i64, event_time: i64) -> Stamp {
    Stamp { position: Position { epoch, commit, order }, event_time }
}

pub fn row(entity: i64, texts: &[&str]) -> Row {
    Row { entity, texts: texts.iter().map(|text| (*text).to_owned()).collect() }
}

pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
