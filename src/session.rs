//! What most commands open first: the lake, the control database, a token that Ctrl-C cancels.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
#[cfg(feature = "kafka")]
use lakeward_cdc::{KafkaOptions, debezium::Modes};
use lakeward_cdc::{PostgresOptions, Salt, TableRule};
use lakeward_change::TableId;
use lakeward_features::ShopNames;
use lakeward_lakehouse::{Lake, Retention, S3Options, Watermark};
use lakeward_online::{Online, OnlineOptions, TimesToLive};
use lakeward_pipeline::{Maintenance, Options};
use lakeward_postgres::{Control, EmbeddedPostgres};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, RuleConfig, S3Config, SecretUrl, table_id};

/// The two places every capture command knows; they override the configuration.
#[derive(clap::Args, Clone)]
pub struct Places {
    /// The shop's Postgres: postgres://user:password@host:5432/database?sslmode=require
    #[arg(long, value_name = "URL", env = "LAKEWARD_POSTGRES_URL", hide_env_values = true)]
    pub postgres_url: Option<String>,
    /// The lake: a folder, or the URL of one
    #[arg(long, value_name = "URL")]
    pub lake: Option<String>,
}

#[derive(clap::Args, Clone)]
pub struct LakePlace {
    /// The lake: a folder, or the URL of one
    #[arg(long, value_name = "URL")]
    pub lake: Option<String>,
}

impl Places {
    pub fn apply(self, config: &mut Config) {
        if let Some(url) = self.postgres_url {
            config.source.postgres_url = Some(SecretUrl::new(url));
        }
        LakePlace { lake: self.lake }.apply(config);
    }
}

impl LakePlace {
    pub fn apply(self, config: &mut Config) {
        if let Some(url) = self.lake {
            config.lake.url = url;
        }
    }
}

/// Serves `/metrics` beside the command's work, where an address is given.
pub async fn serve_metrics(address: Option<SocketAddr>, shutdown: &CancellationToken) -> Result<()> {
    let Some(address) = address else { return Ok(()) };
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    // What the metrics mean is told to a recorder that is there.
    lakeward_server::install_metrics()?;
    tokio::spawn(lakeward_server::serve_metrics(listener, shutdown.clone()));
    Ok(())
}

/// Cancelled by Ctrl-C or SIGTERM.
pub fn shutdown_token() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::spawn({
        let token = token.clone();
        async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(token)
}

pub fn lake(config: &Config) -> Result<Arc<Lake>> {
    let S3Config { endpoint, region, access_key_id, secret_access_key } = &config.lake.s3;
    let key = access_key_id.clone().zip(secret_access_key.as_ref().map(|key| key.expose().to_owned()));
    let s3 = S3Options { endpoint: endpoint.clone(), region: region.clone(), access_key: key };
    let lake = Lake::open_with(&config.lake.url, config.short_names(), &s3)
        .with_context(|| format!("cannot open the lake {:?}", config.lake.url))?;
    Ok(Arc::new(lake))
}

/// The control database, with the private server that holds it unless a URL is configured.
pub struct ControlSession {
    pub control: Arc<Control>,
    server: Option<EmbeddedPostgres>,
}

impl ControlSession {
    pub async fn open(config: &Config, lake: &Lake) -> Result<Self> {
        if let Some(url) = &config.control.url {
            let control = Control::open(url.expose()).await.context("cannot open the control database")?;
            return Ok(Self { control: Arc::new(control), server: None });
        }
        let server = lakeward_postgres::private_server(lake.url().as_str())
            .await
            .context("cannot start the lake's private Postgres, which holds Lakeward's own state")?;
        let control =
            Control::open(&server.url("control")).await.context("cannot open the control database")?;
        Ok(Self { control: Arc::new(control), server: Some(server) })
    }

    /// Gives the private server back; the last one that does stops it.
    pub async fn close(self) -> Result<()> {
        drop(self.control);
        if let Some(server) = self.server {
            server.stop().await?;
        }
        Ok(())
    }
}

/// The shop's Postgres.
pub fn postgres_url(config: &Config) -> Result<&str> {
    let url = config.source.postgres_url.as_ref().map(SecretUrl::expose);
    url.context("which Postgres? Give --postgres-url, or [source] postgres_url in lakeward.toml")
}

pub fn postgres_options(config: &Config) -> Result<PostgresOptions> {
    let mut options = PostgresOptions::new(postgres_url(config)?);
    options.source_name = config.source.name.clone();
    options.slot = config.source.slot.clone();
    options.publication = config.source.publication.clone();
    options.include = config.source.tables.clone();
    options.exclude = config.source.exclude.clone();
    let rule = |rule: &RuleConfig| TableRule {
        pattern: rule.pattern.clone(),
        schema_changes: rule.schema_changes,
        leave_out: rule.leave_out.clone(),
        hash: rule.hash.clone(),
        numeric_scale: rule.numeric_scale,
    };
    options.rules = config.source.rules.iter().map(rule).collect();
    options.salt = config.source.hash_salt.as_ref().map(|salt| Salt::new(salt.expose())).unwrap_or_default();
    options.numeric_scale = config.source.numeric_scale;
    #[cfg(feature = "kafka")]
    {
        options.kafka = kafka_options(config);
    }
    Ok(options)
}

#[cfg(feature = "kafka")]
fn kafka_options(config: &Config) -> Option<KafkaOptions> {
    let kafka = &config.source.kafka;
    let modes = Modes {
        decimal: Some(kafka.decimal),
        time: Some(kafka.time),
        binary: Some(kafka.binary),
        ..Modes::default()
    };
    Some(KafkaOptions {
        brokers: kafka.brokers.clone(),
        prefix: kafka.prefix.clone()?,
        publication: kafka.publication.clone(),
        modes,
        registry: kafka.registry.as_ref().map(|url| url.expose().to_owned()),
        settings: kafka.client_settings(),
    })
}

pub fn pipeline_options(config: &Config) -> Result<Options> {
    let ingest = &config.ingest;
    let mut postgres = postgres_options(config)?;
    // A chunk is taken in whole, also beyond the budget.
    postgres.max_chunk_bytes = postgres.max_chunk_bytes.min((ingest.memory_mib << 20) / 4);
    Ok(Options {
        postgres,
        flush_rows: ingest.flush_rows,
        flush_bytes: ingest.flush_mib << 20,
        flush_age: Duration::from_secs_f64(ingest.flush_seconds),
        memory_bytes: ingest.memory_mib << 20,
        copy_parallel: ingest.copy_parallel,
        stopped_grace: Duration::from_secs(ingest.stopped_grace_minutes * 60),
        maintenance: maintenance(config),
        until_idle: false,
    })
}

fn maintenance(config: &Config) -> Maintenance {
    let given = &config.maintenance;
    let retention =
        Retention { watermarks: given.keep_watermarks, hours: given.keep_hours, ..Retention::default() };
    Maintenance { small_files: given.small_files, retention }
}

/// The online store in Redis for the features of a source, if one is configured.
pub fn online(config: &Config, source: &str) -> Result<Option<Online>> {
    let Some(url) = &config.online.url else { return Ok(None) };
    let days = |days: f64| Duration::from_secs_f64(days * 86_400.0);
    let ttl = &config.online.ttl_days;
    let options = OnlineOptions {
        url: url.expose().to_owned(),
        certificates: config.online.certificates.clone(),
        source: source.to_owned(),
        ttl: TimesToLive {
            user_rfm: days(ttl.user_rfm),
            user_activity: days(ttl.user_activity),
            user_item_interactions: days(ttl.user_item_interactions),
            product_popularity: days(ttl.product_popularity),
        },
    };
    Ok(Some(Online::open(&options)?))
}

/// The lake's newest watermark: of the configured source, else of any.
pub async fn newest_watermark(config: &Config, lake: &Lake) -> Result<Watermark> {
    lake.latest_watermark(config.source.name.as_deref()).await?.with_context(|| {
        format!("the lake {:?} holds nothing yet: run `lakeward ingest` first", config.lake.url)
    })
}

pub fn shop_names(config: &Config) -> ShopNames {
    let defaults = ShopNames::default();
    let table = |name: &str, default: TableId| table_id(name).unwrap_or(default);
    ShopNames {
        users: table(&config.shop.users, defaults.users),
        products: table(&config.shop.products, defaults.products),
        orders: table(&config.shop.orders, defaults.orders),
        order_items: table(&config.shop.order_items, defaults.order_items),
        events: table(&config.shop.events, defaults.events),
    }
}
