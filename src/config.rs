//! The one configuration: documented defaults, then the file, then `LAKEWARD__SECTION__KEY` variables.
//!
//! `lakeward.example.toml` shows every key with its default; a test holds it equal to [`Config::default`].

mod kafka;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
    value::{Dict, Value},
};
use lakeward_cdc::SchemaPolicy;
use lakeward_change::TableId;
use lakeward_lakehouse::Period;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

pub use self::kafka::KafkaConfig;
#[cfg(feature = "kafka")]
pub use self::kafka::client_settings;

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

#[cfg(feature = "kafka")]
impl EventsConfig {
    /// Whether a Kafka is configured for events.
    pub fn has_kafka(&self) -> bool {
        self.brokers.as_ref().is_some_and(|brokers| !brokers.is_empty())
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
            memory_mib: 128,
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

/// A URL whose password is shown masked.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(SecretString);

impl SecretUrl {
    pub fn new(url: impl Into<String>) -> Self {
        Self(SecretString::from(url.into()))
    }

    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&lakeward_postgres::mask(self.expose()))
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&lakeward_postgres::mask(self.expose()))
    }
}

/// A text that is never shown.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(SecretString);

impl Secret {
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// Everything that is wrong with the configuration, at once.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is wrong in {} place(s):\n{}", problems.len(), problems.iter().map(|p| format!("  - {p}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError {
    pub problems: Vec<String>,
}

impl Config {
    /// Reads the defaults, then `file` (or `lakeward.toml` if there is one), then the environment.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut given = Figment::new();
        match file {
            Some(path) => given = given.merge(Toml::file_exact(path)),
            None => given = given.merge(Toml::file("lakeward.toml")),
        }
        Self::from_given(given.merge(Env::prefixed("LAKEWARD__").split("__").ignore(&["config"])))
    }

    fn from_given(given: Figment) -> Result<Self, ConfigError> {
        let dict = match given.extract::<Dict>() {
            Ok(dict) => dict,
            Err(error) => return Err(ConfigError { problems: vec![unreadable(&error)] }),
        };
        let mut problems = Vec::new();
        let mut good = Figment::from(Serialized::defaults(Self::default()));
        for (path, value) in leaves("", dict) {
            match problem_of(&path, &value) {
                Some(problem) => problems.push(problem),
                None => good = good.merge(Serialized::default(&path, value)),
            }
        }
        let config: Self =
            good.extract().map_err(|error| ConfigError { problems: vec![error.to_string()] })?;
        problems.extend(config.out_of_range());
        if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
    }

    fn out_of_range(&self) -> Vec<String> {
        let positive = [
            ("ingest.flush_rows", self.ingest.flush_rows as f64),
            ("ingest.flush_mib", self.ingest.flush_mib as f64),
            ("ingest.copy_parallel", self.ingest.copy_parallel as f64),
            ("maintenance.keep_watermarks", self.maintenance.keep_watermarks as f64),
            ("recommender.factors", self.recommender.factors as f64),
            ("recommender.iterations", self.recommender.iterations as f64),
            ("churn.windows", self.churn.windows as f64),
        ];
        let mut problems: Vec<String> = positive
            .into_iter()
            .filter(|(_, value)| !(*value > 0.0 && value.is_finite()))
            .map(|(key, value)| format!("{key} is {value}: it must be greater than zero"))
            .collect();
        let seconds = [
            ("ingest.flush_seconds", self.ingest.flush_seconds),
            ("serve.poll_seconds", self.serve.poll_seconds),
        ];
        problems.extend(
            seconds
                .into_iter()
                .filter(|(_, value)| !(0.01..=86_400.0).contains(value))
                .map(|(key, value)| format!("{key} is {value}: it must be from 0.01 to 86400")),
        );
        let share = self.events.most_letters;
        if !(0.0..=1.0).contains(&share) {
            problems.push(format!("events.most_letters is {share}: it must be from 0 to 1"));
        }
        problems.extend(
            (self.online.ttl_days.each().into_iter())
                .filter(|(_, value)| !(0.001..=3650.0).contains(value))
                .map(|(key, value)| format!("{key} is {value}: it must be from 0.001 to 3650")),
        );
        if let Some(url) = &self.online.url
            && !["redis://", "rediss://"].iter().any(|scheme| url.expose().starts_with(scheme))
        {
            problems.push("online.url is not one of Redis: write redis://… or rediss://…".to_owned());
        }
        let online = &self.online;
        if online.certificates.is_some()
            && !online.url.as_ref().is_some_and(|url| url.expose().starts_with("rediss://"))
        {
            problems.push("online.certificates are given, and online.url is not a rediss:// one".to_owned());
        }
        if !(1..=3650).contains(&self.churn.horizon_days) {
            problems.push(format!(
                "churn.horizon_days is {}: it must be from 1 to 3650",
                self.churn.horizon_days
            ));
        }
        if self.maintenance.small_files < 2 {
            let given = self.maintenance.small_files;
            problems.push(format!("maintenance.small_files is {given}: it must be at least 2"));
        }
        if self.ingest.memory_mib < 16 {
            problems.push(format!("ingest.memory_mib is {}: at least 16 are needed", self.ingest.memory_mib));
        }
        let scales =
            self.source.rules.iter().map(|rule| rule.numeric_scale).chain([self.source.numeric_scale]);
        for scale in scales.flatten().filter(|scale| *scale > 38) {
            problems.push(format!("a numeric_scale of source is {scale}: it must be from 0 to 38"));
        }
        let salted = self.source.hash_salt.as_ref().is_some_and(|salt| !salt.expose().is_empty());
        problems.extend(self.source.kafka.problems().into_iter().map(str::to_owned));
        let nameless = |setting: &Secret| !setting.expose().contains('=');
        if self.source.kafka.settings.iter().any(nameless) {
            problems.push("source.kafka.settings has one without a name: write name=value".to_owned());
        }
        if self.events.settings.iter().any(nameless) {
            problems.push("events.settings has one without a name: write name=value".to_owned());
        }
        let topics = [&self.events.raw_topic, &self.events.validated_topic, &self.events.invalid_topic];
        if topics[0] == topics[1] || topics[0] == topics[2] || topics[1] == topics[2] {
            problems
                .push("events: raw_topic, validated_topic and invalid_topic must be three topics".to_owned());
        }
        if cfg!(not(feature = "kafka")) && self.events.brokers.is_some() {
            problems.push("events.brokers is given, and this build is without Kafka".to_owned());
        }
        if cfg!(not(feature = "kafka")) && self.source.kafka.prefix.is_some() {
            problems.push("source.kafka.prefix is given, and this build is without Kafka".to_owned());
        }
        if !salted && self.source.rules.iter().any(|rule| !rule.hash.is_empty()) {
            problems.push("source.rules have columns hashed: source.hash_salt must be given".to_owned());
        }
        let s3 = &self.lake.s3;
        if s3.access_key_id.is_some() != s3.secret_access_key.is_some() {
            problems
                .push("lake.s3 has one of access_key_id and secret_access_key: both are needed".to_owned());
        }
        if s3.endpoint.as_ref().is_some_and(|endpoint| Url::parse(endpoint).is_err()) {
            problems.push("lake.s3.endpoint is not a URL".to_owned());
        }
        let shop = &self.shop;
        let tables = [&shop.users, &shop.products, &shop.orders, &shop.order_items, &shop.events];
        for name in tables.into_iter().chain(self.lake.names.keys()) {
            if table_id(name).is_none() {
                problems.push(format!("{name:?} names no table: write schema.table"));
            }
        }
        problems
    }

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

/// What is wrong with a file as a whole, without the line that a parser would quote: it may hold a password.
fn unreadable(error: &figment::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with(|c: char| c == '|' || c.is_ascii_digit()))
        .collect();
    lines.join(" ")
}

/// Every value with its path; a map of names is one value.
fn leaves(prefix: &str, dict: Dict) -> Vec<(String, Value)> {
    dict.into_iter()
        .flat_map(|(key, value)| {
            let path = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            match value {
                Value::Dict(_, inner) if path != "lake.names" => leaves(&path, inner),
                value => vec![(path, value)],
            }
        })
        .collect()
}

/// What is wrong with one value, judged alone over the defaults.
fn problem_of(path: &str, value: &Value) -> Option<String> {
    let secret = path.ends_with("url");
    let error = Figment::from(Serialized::defaults(Config::default()))
        .merge(Serialized::default(path, value))
        .extract::<Config>()
        .err()?;
    let what = match error.kind {
        figment::error::Kind::UnknownField(field, known) => {
            format!("unknown key `{field}`; known here: {}", known.join(", "))
        }
        _ if secret => "not a URL".to_owned(),
        _ if path == "source.hash_salt"
            || path == "source.kafka.settings"
            || path == "source.kafka.sasl_password"
            || path == "events.settings"
            || path == "lake.s3.secret_access_key" =>
        {
            "not a text: put it in quotes".to_owned()
        }
        kind => kind.to_string(),
    };
    Some(format!("{path}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_toml(text: &str) -> Result<Config, ConfigError> {
        Config::from_given(Figment::new().merge(Toml::string(text)))
    }

    #[test]
    fn the_example_file_shows_the_defaults() {
        let example = from_toml(include_str!("../lakeward.example.toml")).expect("the example is right");
        let text = |config: &Config| toml::to_string(config).expect("a configuration is TOML");
        assert_eq!(text(&example), text(&Config::default()));
    }

    #[test]
    fn all_errors_are_told_at_once() {
        let error = from_toml(
            "[lake]\nurl = 7\nnope = 1\n[ingest]\nflush_rows = \"many\"\n[nonsense]\na = 1\n[serve]\naddress = \"x\"",
        )
        .expect_err("five things are wrong");
        assert_eq!(error.problems.len(), 5, "{error}");
        let text = error.to_string();
        for key in ["lake.url", "lake.nope", "ingest.flush_rows", "nonsense", "serve.address"] {
            assert!(text.contains(key), "{key} is not in: {text}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_is_not_quoted() {
        let error =
            from_toml("[source]\npostgres_url = postgres://me:hunter2@db/shop").expect_err("no quotes");
        let text = error.to_string();
        assert!(text.contains("line 2") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn values_out_of_range_are_told_at_once() {
        let error = from_toml(
            "[ingest]\nflush_rows = 0\nmemory_mib = 1\nflush_mib = \"x\"\n[shop]\nusers = \"users\"\n\
             [serve]\npoll_seconds = 1e-10\n[churn]\nhorizon_days = 200000000",
        )
        .expect_err("six things are wrong");
        assert_eq!(error.problems.len(), 6, "{error}");
    }

    #[test]
    fn passwords_are_masked() {
        let config =
            from_toml("[source]\npostgres_url = \"postgres://me:hunter2@db/shop\"").expect("it is right");
        let shown = toml::to_string(&config).expect("a configuration is TOML");
        assert!(!shown.contains("hunter2") && shown.contains("db/shop"), "{shown}");
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn the_online_stores_password_is_masked_and_its_url_is_one_of_redis() {
        let given =
            "[online]\nurl = \"rediss://features:hunter2@redis:6379/1\"\nttl_days = { user_rfm = 1.5 }";
        let config = from_toml(given).expect("it is right");
        assert_eq!((config.online.ttl_days.user_rfm, config.online.ttl_days.user_activity), (1.5, 7.0));
        let shown = toml::to_string(&config).expect("a configuration is TOML");
        assert!(!shown.contains("hunter2") && shown.contains("redis:6379/1"), "{shown}");
        let wrong = "[online]\nurl = \"http://hunter2\"\nttl_days = { user_rfm = 0 }";
        let error = from_toml(wrong).expect_err("two things are wrong");
        assert!(error.problems.len() == 2 && !error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn the_salt_is_needed_and_never_shown() {
        let rules =
            "[source]\nrules = [{ pattern = \"public.users\", hash = [\"email\"], numeric_scale = 39 }]\n";
        let error = from_toml(rules).expect_err("no salt, and too large a scale");
        assert_eq!(error.problems.len(), 2, "{error}");
        let text = rules.replace("39", "2");
        let config = from_toml(&format!("{text}hash_salt = \"pepper\"")).expect("it is right");
        let shown = toml::to_string(&config).expect("a configuration is TOML");
        assert!(shown.contains("***") && !shown.contains("pepper"), "{shown}");
        assert!(!format!("{config:?}").contains("pepper"));
        let error = from_toml(&format!("{text}hash_salt = 90210")).expect_err("a number").to_string();
        assert!(error.contains("quotes") && !error.contains("90210"), "{error}");
    }
}
