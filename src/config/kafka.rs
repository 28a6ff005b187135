//! `[source.kafka]`

#[cfg(feature = "kafka")]
use std::collections::BTreeMap;
use std::path::PathBuf;

use lakeward_cdc::debezium::{BinaryMode, DecimalMode, TimeMode};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{Secret, SecretUrl};

/// Debezium's topics, which changes are read from if a prefix is given.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    pub prefix: Option<String>,
    pub brokers: String,
    pub publication: String,
    pub decimal: DecimalMode,
    pub time: TimeMode,
    pub binary: BinaryMode,
    pub registry: Option<SecretUrl>,
    pub security_protocol: SecurityProtocol,
    pub sasl_mechanism: SaslMechanism,
    pub sasl_username: Option<String>,
    pub sasl_password: Option<Secret>,
    pub certificates: Option<PathBuf>,
    /// `name=value`; secrets may be among them.
    pub settings: Vec<Secret>,
}

/// What Kafka's listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SecurityProtocol {
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

/// How Kafka learns who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaslMechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SecurityProtocol {
    fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }

    fn has_user(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            prefix: None,
            brokers: "127.0.0.1:9092".to_owned(),
            publication: "debezium_ecommerce".to_owned(),
            decimal: DecimalMode::String,
            time: TimeMode::Microseconds,
            binary: BinaryMode::Bytes,
            registry: None,
            security_protocol: SecurityProtocol::Plaintext,
            sasl_mechanism: SaslMechanism::ScramSha512,
            sasl_username: None,
            sasl_password: None,
            certificates: None,
            settings: Vec::new(),
        }
    }
}

impl KafkaConfig {
    /// All settings of the client by librdkafka's names.
    #[cfg(feature = "kafka")]
    pub fn client_settings(&self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        let mut set = |name: &str, value: &str| drop(settings.insert(name.to_owned(), value.to_owned()));
        set(
            "security.protocol",
            match self.security_protocol {
                SecurityProtocol::Plaintext => "plaintext",
                SecurityProtocol::Ssl => "ssl",
                SecurityProtocol::SaslPlaintext => "sasl_plaintext",
                SecurityProtocol::SaslSsl => "sasl_ssl",
            },
        );
        if let (Some(user), Some(password)) = (&self.sasl_username, &self.sasl_password) {
            set(
                "sasl.mechanism",
                match self.sasl_mechanism {
                    SaslMechanism::Plain => "PLAIN",
                    SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
                    SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
                },
            );
            set("sasl.username", user);
            set("sasl.password", password.expose());
        }
        if let Some(certificates) = &self.certificates {
            set("ssl.ca.location", &certificates.display().to_string());
        }
        settings.extend(client_settings(&self.settings));
        settings
    }

    pub(super) fn problems(&self) -> Vec<&'static str> {
        let has_user = self.sasl_username.is_some() && self.sasl_password.is_some();
        let has_some = self.sasl_username.is_some() || self.sasl_password.is_some();
        // Whoever writes them among the settings knows what they do.
        let is_set = self.settings.iter().any(|setting| setting.expose().starts_with("sasl."));
        let mut problems = Vec::new();
        let is_http = |url: &SecretUrl| {
            Url::parse(url.expose()).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
        };
        if !self.registry.as_ref().is_none_or(is_http) {
            problems.push("source.kafka.registry is no URL that begins with http:// or https://");
        }
        if self.security_protocol.has_user() && !has_user && !is_set {
            problems.push(
                "source.kafka.security_protocol asks for a user: sasl_username and sasl_password must be given",
            );
        }
        if !self.security_protocol.has_user() && has_some {
            problems.push(
                "source.kafka has a user, and its security_protocol none: SASL_SSL or SASL_PLAINTEXT has",
            );
        }
        if !self.security_protocol.has_tls() && self.certificates.is_some() {
            problems.push(
                "source.kafka.certificates are given, and its security_protocol has no TLS: SSL or SASL_SSL has",
            );
        }
        problems
    }
}

/// Settings of Kafka's client by their names.
#[cfg(feature = "kafka")]
pub fn client_settings(settings: &[Secret]) -> BTreeMap<String, String> {
    let setting = |setting: &Secret| {
        setting.expose().split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    settings.iter().filter_map(setting).collect()
}
