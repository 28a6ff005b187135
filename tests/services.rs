//! A stand on the real services: changes come by Debezium and Kafka, the lake is where one wants it.

use lakeward_lakehouse::S3Options;
use lakeward_stack::{ACCESS_KEY, BUCKET, DATABASE, SECRET_KEY, Service, Stack};

use crate::stand::Stand;

pub struct Services {
    pub kafka: Service,
    pub connect: Service,
    pub minio: Service,
    pub redis: Service,
    minio_url: String,
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
        let folder = tempfile::tempdir().expect("a folder");
        let ports = lakeward_stack::Ports::free().expect("free ports");
        let stack = Stack::start(folder.path(), ports, &|doing| eprintln!("{doing}")).await.expect("a stack");
        let Stack { postgres, kafka, connect, minio, redis, ports, .. } = stack;
        assert_eq!(DATABASE, "shop", "the stand's own");
        let stand = Stand::on(postgres, folder).await.with([
            ("LAKEWARD__CONNECT__URL", format!("http://127.0.0.1:{}", ports.connect)),
            ("LAKEWARD__SOURCE__KAFKA__PREFIX", "ecommerce".to_owned()),
            ("LAKEWARD__SOURCE__KAFKA__BROKERS", format!("127.0.0.1:{}", ports.kafka)),
            ("LAKEWARD__INGEST__FLUSH_SECONDS", "0.5".to_owned()),
        ]);
        let minio_url = format!("http://127.0.0.1:{}", ports.minio);
        (Self { kafka, connect, minio, redis, minio_url }, stand)
    }

    /// How the object store is reached.
    pub fn s3(&self) -> S3Options {
        s3_options(self.minio_url.clone())
    }

    /// Ends them in order, who uses others first.
    pub async fn stop(mut self) {
        for service in [&mut self.connect, &mut self.kafka, &mut self.minio, &mut self.redis] {
            service.stop().await.expect("it stops");
        }
    }
}
