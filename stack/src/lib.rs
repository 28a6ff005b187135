//! The services around Lakeward, started natively, for people without containers and for the tests: Postgres, Kafka,
//! Kafka Connect with Debezium, MinIO, Redis and, where it is asked for, a schema registry. The settings are those that
//! `docker-compose.yml` mounts.

mod address;
mod recipes;
mod service;
mod software;

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use lakeward_postgres::{EmbeddedOptions, EmbeddedPostgres};

use crate::software::Software;

pub use address::{Address, Ports};
pub use recipes::{ACCESS_KEY, KafkaAccess, RedisAccess, SECRET_KEY};
pub use service::Service;

/// The bucket that the lake is in.
pub const BUCKET: &str = "lakehouse";
/// The database that the shop is in.
pub const DATABASE: &str = "shop";

/// All services, running. They end with this value, and with the process that holds it.
#[derive(Debug)]
pub struct Stack {
    pub postgres: EmbeddedPostgres,
    pub kafka: Service,
    pub connect: Service,
    pub minio: Service,
    pub redis: Service,
    /// If it has a port.
    pub registry: Option<Service>,
    pub ports: Ports,
    folder: PathBuf,
    _lock: File,
}

impl Stack {
    /// Starts the services with their data in `folder`, which may hold that of an earlier time; `say` hears what is
    /// fetched or built first.
    ///
    /// # Errors
    /// Tools that the machine lacks; taken ports; a service that does not become ready, with the end of its log.
    pub async fn start(folder: &Path, ports: Ports, say: &(dyn Fn(&str) + Sync)) -> Result<Self> {
        Self::start_with(folder, ports, None, say).await
    }

    /// The same, with one more listener of Kafka.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        folder: &Path,
        ports: Ports,
        access: Option<&KafkaAccess>,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<Self> {
        let software = Software::provide(say)?;
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let folder = fs::canonicalize(folder)?;
        // Of root's services one runs as somebody else: Postgres.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o711))?;
        let lock = address::take(&folder, &ports).await?;
        let mut address = Address { pid: std::process::id(), ports: ports.clone(), postgres: None };
        address.write(&folder)?;
        // A folder of the store's is a bucket.
        fs::create_dir_all(folder.join("minio/data").join(BUCKET))?;

        let kafka = async {
            let kafka = Service::start(recipes::kafka(&software, &ports, &folder, access)?).await?;
            let connect = Service::start(recipes::connect(&software, &ports, &folder)?).await?;
            Ok((kafka, connect))
        };
        let postgres = async {
            let settings = [
                ("max_slot_wal_keep_size", "4GB"),
                ("max_replication_slots", "32"),
                ("max_wal_senders", "32"),
            ];
            let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
            let port = Some(ports.postgres);
            let options = EmbeddedOptions { settings, port, ..EmbeddedOptions::new(folder.join("postgres")) };
            let postgres = EmbeddedPostgres::start(options).await?;
            postgres.create_database(DATABASE).await?;
            Ok(postgres)
        };
        let minio = Service::start(recipes::minio(&software, &ports, &folder));
        let redis = Service::start(recipes::redis(software.redis.clone(), ports.redis, &folder, None));
        let registry = async {
            let Some(port) = ports.registry else { return Ok(None) };
            let program = software.registry(say)?;
            Service::start(recipes::registry(&software, &program, port, &folder)?).await.map(Some)
        };
        let ((kafka, connect), postgres, minio, redis, registry) =
            tokio::try_join!(kafka, postgres, minio, redis, registry)?;
        address.postgres = Some(postgres.url(DATABASE));
        address.write(&folder)?;
        Ok(Self { postgres, kafka, connect, minio, redis, registry, ports, folder, _lock: lock })
    }

    /// Ends all of them in order, who uses others first.
    pub async fn stop(mut self) -> Result<()> {
        self.connect.stop().await?;
        if let Some(registry) = &mut self.registry {
            registry.stop().await?;
        }
        let (kafka, minio, redis) = tokio::join!(self.kafka.stop(), self.minio.stop(), self.redis.stop());
        kafka.and(minio).and(redis)?;
        self.postgres.stop().await?;
        Address::remove(&self.folder)
    }

    /// The services but Postgres, for whoever wants to hurt them.
    pub fn services(&mut self) -> [&mut Service; 4] {
        [&mut self.kafka, &mut self.connect, &mut self.minio, &mut self.redis]
    }
}

/// The object store alone, with its data in `folder`; and its URL.
///
/// # Errors
/// As [`Stack::start`].
pub async fn object_store(folder: &Path, say: &(dyn Fn(&str) + Sync)) -> Result<(Service, String)> {
    let (software, ports) = (Software::provide(say)?, Ports::free()?);
    fs::create_dir_all(folder.join("minio/data").join(BUCKET))?;
    let store = Service::start(recipes::minio(&software, &ports, folder)).await?;
    Ok((store, format!("http://127.0.0.1:{}", ports.minio)))
}

/// Kafka alone, with its data in `folder`; and its `host:port`.
///
/// # Errors
/// As [`Stack::start`].
pub async fn kafka(folder: &Path, say: &(dyn Fn(&str) + Sync)) -> Result<(Service, String)> {
    let (software, ports) = (Software::provide(say)?, Ports::free()?);
    let kafka = Service::start(recipes::kafka(&software, &ports, folder, None)?).await?;
    Ok((kafka, format!("127.0.0.1:{}", ports.kafka)))
}

/// Redis alone, with its data in `folder`, for everybody or behind TLS for one user; and its address, `host:port`.
///
/// # Errors
/// As [`Stack::start`].
pub async fn redis(folder: &Path, access: Option<&RedisAccess>) -> Result<(Service, String)> {
    let program = software::find("redis-server");
    let program = program.context("this machine lacks redis-server (Debian: apt install redis-server)")?;
    let port = Ports::free()?.redis;
    let redis = Service::start(recipes::redis(program, port, folder, access)).await?;
    Ok((redis, format!("127.0.0.1:{port}")))
}

/// Whether tests are to do without the services (`LAKEWARD_SKIP_STACK=1`), for machines without Java or Go. Says so.
pub fn is_skipped() -> bool {
    let skipped = std::env::var_os("LAKEWARD_SKIP_STACK").is_some_and(|value| value == "1");
    if skipped {
        eprintln!("skipped: LAKEWARD_SKIP_STACK=1, so nothing is tested on Kafka, Connect, MinIO and Redis");
    }
    skipped
}
