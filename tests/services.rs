//! A stand on the real services: changes come by Debezium and Kafka, the lake is where one wants it.

use std::{path::PathBuf, process::Command};

use lakeward_lakehouse::S3Options;
use lakeward_stack::{ACCESS_KEY, BUCKET, DATABASE, KafkaAccess, Ports, SECRET_KEY, Service, Stack};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::AdminClient,
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    producer::FutureProducer,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::stand::{PATIENCE, Stand, free_port, succeed, text};

/// Of Kafka's one user.
pub const PASSWORD: &str = "a-password-of-kafka";

pub struct Services {
    pub kafka: Service,
    pub connect: Service,
    pub minio: Service,
    pub redis: Service,
    pub registry: Option<Service>,
    /// Where everybody on this machine reaches Kafka.
    pub brokers: String,
    minio_url: String,
    connect_url: String,
}

/// A lake in the bucket of a store of ours.
pub fn lake_url() -> String {
    format!("s3://{BUCKET}/lake")
}

pub fn s3_options(endpoint: String) -> S3Options {
    S3Options {
        endpoint: Some(endpoint),
        region: Some("us-east-1".to_owned()),
        access_key: Some((ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())),
    }
}

impl Services {
    /// All of them, and a stand whose commands read the topics of the connector `ecommerce`.
    pub async fn start() -> (Self, Stand) {
        Self::start_in(tempfile::tempdir().expect("a folder"), None).await
    }

    /// The same with a schema registry, which the commands know; and where Connect's converters find it.
    pub async fn with_registry() -> (Self, Stand, String) {
        let ports = Ports::free().and_then(Ports::with_registry).expect("free ports");
        let registry = format!("http://127.0.0.1:{}/apis", ports.registry.expect("a port"));
        let (services, stand) = Self::start_on(ports, tempfile::tempdir().expect("a folder"), None).await;
        let known = [("LAKEWARD__SOURCE__KAFKA__REGISTRY", format!("{registry}/ccompat/v7"))];
        (services, stand.with(known), format!("{registry}/registry/v2"))
    }

    /// Without one; the commands reach Kafka by TLS, as its one user.
    pub async fn secured() -> (Self, Stand) {
        let folder = tempfile::tempdir().expect("a folder");
        let (authority, key) = (authority(), KeyPair::generate().expect("a key"));
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &authority).expect("a certificate");
        let file = |name: &str, pem: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, pem).expect("it is written");
            path
        };
        let access = KafkaAccess {
            port: free_port(),
            key_and_certificate: file("kafka.pem", key.serialize_pem() + &certificate.pem()),
            user: "lakeward".to_owned(),
            password: PASSWORD.to_owned(),
        };
        let trusted = file("trusted.pem", authority.pem()).display().to_string();
        let (services, stand) = Self::start_in(folder, Some(&access)).await;
        let stand = stand.with([
            ("LAKEWARD__SOURCE__KAFKA__BROKERS", format!("127.0.0.1:{}", access.port)),
            ("LAKEWARD__SOURCE__KAFKA__SECURITY_PROTOCOL", "SASL_SSL".to_owned()),
            ("LAKEWARD__SOURCE__KAFKA__SASL_USERNAME", access.user),
            ("LAKEWARD__SOURCE__KAFKA__SASL_PASSWORD", access.password),
            ("LAKEWARD__SOURCE__KAFKA__CERTIFICATES", trusted),
        ]);
        (services, stand)
    }

    /// In a folder that may have been prepared.
    pub async fn start_in(folder: TempDir, access: Option<&KafkaAccess>) -> (Self, Stand) {
        Self::start_on(Ports::free().expect("free ports"), folder, access).await
    }

    async fn start_on(ports: Ports, folder: TempDir, access: Option<&KafkaAccess>) -> (Self, Stand) {
        let say = |doing: &str| eprintln!("{doing}");
        let stack = Stack::start_with(folder.path(), ports, access, &say).await.expect("a stack");
        let Stack { postgres, kafka, connect, minio, redis, registry, ports, .. } = stack;
        assert_eq!(DATABASE, "shop", "the stand's own");
        let stand = Stand::on(postgres, folder).await.with([
            ("LAKEWARD__CONNECT__URL", format!("http://127.0.0.1:{}", ports.connect)),
            ("LAKEWARD__SOURCE__KAFKA__PREFIX", "ecommerce".to_owned()),
            ("LAKEWARD__SOURCE__KAFKA__BROKERS", format!("127.0.0.1:{}", ports.kafka)),
            ("LAKEWARD__INGEST__FLUSH_SECONDS", "0.5".to_owned()),
        ]);
        let minio_url = format!("http://127.0.0.1:{}", ports.minio);
        let connect_url = format!("http://127.0.0.1:{}", ports.connect);
        let brokers = format!("127.0.0.1:{}", ports.kafka);
        (Self { kafka, connect, minio, redis, registry, brokers, minio_url, connect_url }, stand)
    }

    /// Where the first partition of a topic ends.
    pub fn end(&self, topic: &str) -> i64 {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().expect("a consumer");
        consumer.fetch_watermarks(topic, 0, PATIENCE).map_or(0, |(_, end)| end)
    }

    /// Where Connect tells of a connector.
    pub fn connector_url(&self, name: &str) -> String {
        format!("{}/connectors/{name}", self.connect_url)
    }

    /// Of messages as long as any broker takes.
    pub fn producer(&self) -> FutureProducer {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.brokers).set("message.max.bytes", "67108864");
        client.create().expect("a producer")
    }

    /// Who may change topics.
    pub fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.brokers).create().expect("a client")
    }

    /// The first event of a topic's first partition.
    pub fn first_event(&self, topic: &str) -> String {
        text(&self.first_bytes(topic))
    }

    /// The same as it is.
    pub fn first_bytes(&self, topic: &str) -> Vec<u8> {
        let consumer = self.reader(topic, false);
        let message = consumer.poll(PATIENCE).expect("in time").expect("a message");
        message.payload().expect("a value").to_vec()
    }

    /// The messages of a topic's first partition that have a text in them, with their offsets.
    pub fn search(&self, topic: &str, wanted: &str) -> Vec<(i64, String)> {
        let consumer = self.reader(topic, true);
        let mut found = Vec::new();
        while let Some(Ok(message)) = consumer.poll(PATIENCE) {
            let value = text(message.payload().unwrap_or_default());
            if value.contains(wanted) {
                found.push((message.offset(), value));
            }
        }
        found
    }

    /// Reads a topic's first partition; where it ends is told as an error, or waited at.
    fn reader(&self, topic: &str, tells_end: bool) -> BaseConsumer {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", "a-test")
            .set("enable.partition.eof", tells_end.to_string())
            .create()
            .expect("a consumer");
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_offset(topic, 0, Offset::Beginning).expect("an offset");
        consumer.assign(&partitions).expect("a partition");
        consumer
    }

    /// What Kafka keeps of a partition.
    pub fn segment(&self, partition: &str) -> PathBuf {
        let data = self.kafka.log().with_extension("").join("data");
        data.join(partition).join("00000000000000000000.log")
    }

    /// How the object store is reached.
    pub fn s3(&self) -> S3Options {
        s3_options(self.minio_url.clone())
    }

    /// Ends them in order, who uses others first.
    pub async fn stop(mut self) {
        let others = [&mut self.kafka, &mut self.minio, &mut self.redis];
        for service in [&mut self.connect].into_iter().chain(&mut self.registry).chain(others) {
            service.stop().await.expect("it stops");
        }
    }
}

/// Who signs certificates.
pub fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    // OpenSSL takes a certificate whose issuer has its own name for one that nobody has signed.
    params.distinguished_name.push(DnType::CommonName, "an authority of tests");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

/// Makes the shipped connector `ecommerce` with some settings changed; those that are null go. What was said of it.
pub fn apply_connector(stand: &Stand, changed: &Value) -> String {
    apply_template(stand, include_str!("../deploy/debezium/ecommerce-connector.json"), changed)
}

/// The same by another template.
pub fn apply_template(stand: &Stand, template: &str, changed: &Value) -> String {
    let mut template: Value = serde_json::from_str(template).expect("it is JSON");
    let settings = template["config"].as_object_mut().expect("its settings");
    for (name, value) in changed.as_object().expect("settings") {
        settings.insert(name.clone(), value.clone());
    }
    settings.retain(|_, value| !value.is_null());
    let said = succeed(connector(stand, "apply", &template));
    text(&said.stdout) + &text(&said.stderr)
}

/// `lakeward connector` with a template; its heartbeats, which an end is seen by, come sooner than a shop's.
pub fn connector(stand: &Stand, verb: &str, template: &Value) -> Command {
    let mut template = template.clone();
    template["config"]["heartbeat.interval.ms"] = "500".into();
    let path = stand.lake.path().join("connector.json");
    std::fs::write(&path, template.to_string()).expect("it is written");
    let path = path.to_str().expect("a path of plain letters");
    stand.lakeward(&["connector", verb, "--template", path, "--postgres-url", &stand.url])
}
