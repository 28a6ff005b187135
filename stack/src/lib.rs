//! The services around Lakeward, started natively, for people without containers and for the tests: Postgres, Kafka,
//! Kafka Connect with Debezium, MinIO and Redis. The settings are those that `docker-compose.yml` mounts.

mod recipes;
mod service;
mod software;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use lakeward_postgres::{EmbeddedOptions, EmbeddedPostgres};
use serde::{Deserialize, Serialize};

use crate::software::Software;

pub use recipes::{ACCESS_KEY, SECRET_KEY};
pub use service::Service;

/// The bucket that the lake is in.
pub const BUCKET: &str = "lakehouse";

/// Where the services listen, on 127.0.0.1. Postgres chooses its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ports {
    pub kafka: u16,
    pub controller: u16,
    pub connect: u16,
    pub minio: u16,
    pub redis: u16,
}

impl Ports {
    /// The ports that people expect.
    pub const USUAL: Self = Self { kafka: 9092, controller: 9093, connect: 8083, minio: 9000, redis: 6379 };

    /// Ports that nobody listens at now.
    pub fn free() -> Result<Self> {
        let held: Vec<TcpListener> = (0..5)
            .map(|_| TcpListener::bind(("127.0.0.1", 0)))
            .collect::<Result<_, _>>()
            .context("find free ports")?;
        let port = |index: usize| held[index].local_addr().map(|address| address.port());
        Ok(Self {
            kafka: port(0)?,
            controller: port(1)?,
            connect: port(2)?,
            minio: port(3)?,
            redis: port(4)?,
        })
    }
}

/// All services, running. They end with this value, and with the process that holds it.
#[derive(Debug)]
pub struct Stack {
    pub postgres: EmbeddedPostgres,
    pub kafka: Service,
    pub connect: Service,
    pub minio: Service,
    pub redis: Service,
    pub ports: Ports,
}

impl Stack {
    /// Starts the services with their data in `folder`, which may hold that of an earlier time; `say` hears what is
    /// fetched or built first.
    ///
    /// # Errors
    /// Tools that the machine lacks; a service that does not become ready, with the end of its log.
    pub async fn start(folder: &Path, ports: Ports, say: &dyn Fn(&str)) -> Result<Self> {
        let software = Software::provide(say)?;
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let folder = fs::canonicalize(folder)?;
        // A folder of the store's is a bucket.
        fs::create_dir_all(folder.join("minio/data").join(BUCKET))?;
        let kafka = async {
            let kafka = Service::start(recipes::kafka(&software, &ports, &folder)?).await?;
            let connect = Service::start(recipes::connect(&software, &ports, &folder)?).await?;
            Ok((kafka, connect))
        };
        let settings =
            [("max_slot_wal_keep_size", "4GB"), ("max_replication_slots", "32"), ("max_wal_senders", "32")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let postgres =
            EmbeddedOptions { settings: settings.to_vec(), ..EmbeddedOptions::new(folder.join("postgres")) };
        let postgres = async { EmbeddedPostgres::start(postgres).await.map_err(anyhow::Error::from) };
        let minio = Service::start(recipes::minio(&software, &ports, &folder));
        let redis = Service::start(recipes::redis(&software, &ports, &folder));
        let ((kafka, connect), postgres, minio, redis) = tokio::try_join!(kafka, postgres, minio, redis)?;
        Ok(Self { postgres, kafka, connect, minio, redis, ports })
    }

    /// Ends all of them in order, who uses others first.
    pub async fn stop(mut self) -> Result<()> {
        self.connect.stop().await?;
        let (kafka, minio, redis) = tokio::join!(self.kafka.stop(), self.minio.stop(), self.redis.stop());
        kafka.and(minio).and(redis)?;
        Ok(self.postgres.stop().await?)
    }

    /// The services but Postgres, for whoever wants to hurt them.
    pub fn services(&mut self) -> [&mut Service; 4] {
        [&mut self.kafka, &mut self.connect, &mut self.minio, &mut self.redis]
    }
}

/// Where a stack is to be found, for other processes: written as JSON beside its data.
#[derive(Debug, Serialize, Deserialize)]
pub struct Address {
    pub pid: u32,
    pub postgres: String,
    pub ports: Ports,
}

impl Address {
    pub fn path(folder: &Path) -> PathBuf {
        folder.join("stack.json")
    }
}
