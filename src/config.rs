//! The one configuration: documented defaults, then the file, then `LAKEWARD__SECTION__KEY` variables.
//!
//! `lakeward.example.toml` shows every key with its default; a test holds it equal to [`Config::default`].

mod kafka;
mod load;
mod problems;
mod secret;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use lakeward_cdc::SchemaPolicy;
use lakeward_change::TableId;
use lakeward_lakehouse::Period;
use serde::{Deserialize, Serialize};

#[cfg(feature = "kafka")]
pub use self::kafka::client_settings;
pub use self::{
    kafka::KafkaConfig,
    secret::{Secret, SecretUrl},
};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub lake: LakeConfig,
    pub source: SourceConfig,
    pub control: ControlConfig,
    pub connect: ConnectConfig,
    pub events: EventsConfig,
    pub ingest: IngestConfig,
    pub maintenance: MaintenanceConfig,
    pub shop: ShopConfig,
    pub recommender: RecommenderConfig,
    pub churn: ChurnConfig,
    pub serve: ServeConfig,
    pub online: OnlineConfig,
    pub streams: StreamsConfig,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LakeConfig {
    pub url: String,
    pub names: BTreeMap<String, String>,
    pub s3: S3Config,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<Secret>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceConfig {
    pub postgres_url: Option<SecretUrl>,
    pub name: Option<String>,
    pub slot: Option<String>,
    pub publication: Option<String>,
    pub tables: Vec<String>,
    pub exclude: Vec<String>,
    pub rules: Vec<RuleConfig>,
    pub hash_salt: Option<Secret>,
    pub numeric_scale: Option<u8>,
    pub kafka: KafkaConfig,
}

/// Behaviour events: where they come in, and where they go once they are checked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsConfig {
    pub brokers: Option<String>,
    pub settings: Vec<Secret>,
    pub contract: Option<PathBuf>,
    pub raw_topic: String,
    pub validated_topic: String,
    pub invalid_topic: String,
    pub changes_topic: String,
    pub changes_contract: Option<PathBuf>,
    pub most_letters: f64,
    pub partition: Period,
    pub group: String,
    pub instance: String,
    pub metrics_address: Option<SocketAddr>,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            brokers: None,
            settings: Vec::new(),
            contract: None,
            raw_topic: "tracking.raw_user_behavior".to_owned(),
            validated_topic: "tracking.user_behavior.validated".to_owned(),
            invalid_topic: "tracking.user_behavior.invalid".to_owned(),
            changes_topic: "tracking_postgres_cdc.public.events".to_owned(),
            changes_contract: None,
            most_letters: 0.5,
            partition: Period::Day,
            group: "lakeward-validate".to_owned(),
            instance: "0".to_owned(),
            metrics_address: None,
        }
    }
}

/// What holds for the tables that a pattern names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    pub pattern: String,
    pub schema_changes: Option<SchemaPolicy>,
    #[serde(default)]
    pub leave_out: Vec<String>,
    #[serde(default)]
    pub hash: Vec<String>,
    pub numeric_scale: Option<u8>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlConfig {
    pub url: Option<SecretUrl>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectConfig {
    pub url: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    pub flush_rows: usize,
    pub flush_mib: usize,
    pub flush_seconds: f64,
    pub memory_mib: usize,
    pub copy_parallel: usize,
    pub stopped_grace_minutes: u64,
    pub metrics_address: Option<SocketAddr>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaintenanceConfig {
    pub small_files: usize,
    pub keep_watermarks: usize,
    pub keep_hours: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShopConfig {
    pub users: String,
    pub products: String,
    pub orders: String,
    pub order_items: String,
    pub events: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecommenderConfig {
    pub factors: usize,
    pub iterations: usize,
    pub regularization: f64,
    pub seed: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChurnConfig {
    pub horizon_days: u32,
    pub windows: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeConfig {
    pub address: SocketAddr,
    pub poll_seconds: f64,
}

/// The online store in Redis, if a URL is given.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnlineConfig {
    pub url: Option<SecretUrl>,
    pub certificates: Option<PathBuf>,
    pub ttl_days: TtlConfig,
}

/// What an ingester computes beside capturing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamsConfig {
    pub revenue: bool,
    pub revenue_topic: String,
}

impl Default for StreamsConfig {
    fn default() -> Self {
        Self { revenue: true, revenue_topic: "realtime_revenue".to_owned() }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TtlConfig {
    pub user_rfm: f64,
    pub user_activity: f64,
    pub user_item_interactions: f64,
    pub product_popularity: f64,
}

impl TtlConfig {
    fn each(&self) -> [(&'static str, f64); 4] {
        [
            ("online.ttl_days.user_rfm", self.user_rfm),
            ("online.ttl_days.user_activity", self.user_activity),
            ("online.ttl_days.user_item_interactions", self.user_item_interactions),
            ("online.ttl_days.product_popularity", self.product_popularity),
        ]
    }
}

impl Default for TtlConfig {
    fn default() -> Self {
        let library = lakeward_online::TimesToLive::default();
        let days = |ttl: Duration| ttl.as_secs_f64() / 86_400.0;
        Self {
            user_rfm: days(library.user_rfm),
            user_activity: days(library.user_activity),
            user_item_interactions: days(library.user_item_interactions),
            product_popularity: days(library.product_popularity),
        }
    }
}

impl Default for LakeConfig {
    fn default() -> Self {
        Self { url: "lake".to_owned(), names: BTreeMap::new(), s3: S3Config::default() }
    }
}

impl Default for ConnectConfig {
    fn default() -> Self {
        Self { url: "http://127.0.0.1:8083".to_owned() }
    }
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            flush_rows: 100_000,
            flush_mib: 32,
            flush_seconds: 5.0,
            memory_mib: 96,
            copy_parallel: 2,
            stopped_grace_minutes: 10,
            metrics_address: None,
        }
    }
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        let library = lakeward_pipeline::Maintenance::default();
        Self {
            small_files: library.small_files,
            keep_watermarks: library.retention.watermarks,
            keep_hours: library.retention.hours,
        }
    }
}

impl Default for ShopConfig {
    fn default() -> Self {
        let public = |table: &str| format!("public.{table}");
        Self {
            users: public("users"),
            products: public("products"),
            orders: public("orders"),
            order_items: public("order_items"),
            events: public("events"),
        }
    }
}

impl Default for RecommenderConfig {
    fn default() -> Self {
        let library = lakeward_recommender::TrainOptions::default();
        Self {
            factors: library.factors,
            iterations: library.iterations,
            regularization: library.regularization,
            seed: library.seed,
        }
    }
}

impl Default for ChurnConfig {
    fn default() -> Self {
        let library = lakeward_propensity::Params::default();
        Self { horizon_days: library.horizon_days, windows: library.max_windows }
    }
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], 8080)), poll_seconds: 1.0 }
    }
}

impl Config {
    pub fn short_names(&self) -> BTreeMap<TableId, String> {
        let name = |(table, name): (&String, &String)| Some((table_id(table)?, name.clone()));
        self.lake.names.iter().filter_map(name).collect()
    }
}

/// `schema.table` taken apart at the first dot.
pub fn table_id(name: &str) -> Option<TableId> {
    let (schema, table) = name.split_once('.')?;
    (!schema.is_empty() && !table.is_empty()).then(|| TableId::new(schema, table))
}
