//! What the services say to those who use them.

use std::time::Duration;

use lakeward_stack::{ACCESS_KEY, Address, BUCKET, Ports, SECRET_KEY};
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutPayload,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Whether a service answers what it is asked, and not only takes the connection.
pub async fn answers(service: &str, ports: &Ports) -> bool {
    let asking = async {
        match service {
            // ApiVersions, version 0, of nobody.
            "kafka" => talk(ports.kafka, &[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff]).await.is_some(),
            "redis" => {
                talk(ports.redis, b"PING\r\n").await.is_some_and(|answer| answer.starts_with(b"+PONG"))
            }
            "connect" => is_good(format!("http://127.0.0.1:{}/connectors", ports.connect)).await,
            "minio" => is_good(format!("http://127.0.0.1:{}/minio/health/live", ports.minio)).await,
            other => panic!("nobody knows how to ask {other}"),
        }
    };
    timeout(Duration::from_secs(3), asking).await.unwrap_or(false)
}

/// A row, an object, a key, and a connector, which Connect keeps in Kafka.
pub async fn leave_data(address: &Address) {
    let url = address.postgres.as_ref().unwrap();
    let client = lakeward_postgres::connect(url).await.unwrap();
    client
        .batch_execute("create table kept (id int primary key); insert into kept values (7)")
        .await
        .unwrap();

    let store = store(&address.ports);
    store.put(&Path::from("kept"), PutPayload::from_static(b"7")).await.unwrap();
    let again =
        store.put_opts(&Path::from("kept"), PutPayload::from_static(b"8"), PutMode::Create.into()).await;
    assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })), "puts are conditional");

    assert_eq!(talk(address.ports.redis, b"SET kept 7\r\n").await.unwrap(), b"+OK\r\n");

    let url = url::Url::parse(url).unwrap();
    let connector = json!({
        "name": "kept",
        "initial_state": "STOPPED",
        "config": {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "database.hostname": url.host_str(),
            "database.port": url.port().unwrap().to_string(),
            "database.user": url.username(),
            "database.password": url.password(),
            "database.dbname": url.path().trim_start_matches('/'),
            "plugin.name": "pgoutput",
            "topic.prefix": "kept",
        },
    });
    let request = reqwest::Client::new().post(connectors(&address.ports)).json(&connector);
    let answer = request.send().await.unwrap();
    let status = answer.status();
    assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap());
}

/// All that [`leave_data`] left.
pub async fn find_data(address: &Address) {
    let client = lakeward_postgres::connect(address.postgres.as_ref().unwrap()).await.unwrap();
    assert_eq!(client.query_one("select id from kept", &[]).await.unwrap().get::<_, i32>(0), 7);
    let object = store(&address.ports).get(&Path::from("kept")).await.unwrap();
    assert_eq!(object.bytes().await.unwrap().as_ref(), b"7");
    assert_eq!(talk(address.ports.redis, b"GET kept\r\n").await.unwrap(), b"$1\r\n7\r\n");
    let names: Vec<String> = reqwest::get(connectors(&address.ports)).await.unwrap().json().await.unwrap();
    assert_eq!(names, ["kept"]);
}

fn connectors(ports: &Ports) -> String {
    format!("http://127.0.0.1:{}/connectors", ports.connect)
}

fn store(ports: &Ports) -> AmazonS3 {
    AmazonS3Builder::new()
        .with_endpoint(format!("http://127.0.0.1:{}", ports.minio))
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name(BUCKET)
        .with_access_key_id(ACCESS_KEY)
        .with_secret_access_key(SECRET_KEY)
        .build()
        .unwrap()
}

/// The beginning of the answer.
async fn talk(port: u16, question: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(question).await.ok()?;
    let mut answer = vec![0; 256];
    let read = stream.read(&mut answer).await.ok().filter(|read| *read > 0)?;
    answer.truncate(read);
    Some(answer)
}

async fn is_good(url: String) -> bool {
    reqwest::get(url).await.is_ok_and(|answer| answer.status().is_success())
}
