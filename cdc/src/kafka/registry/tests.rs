use std::sync::atomic::{AtomicUsize, Ordering};

use lakeward_change::{Column, ColumnType, Op, Origin, TableId, TableSchema};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;
use crate::{
    LetterReader, Salt,
    debezium::{Message, Modes, Taken, Topic, TopicDecoder},
    definition::Definition,
};

/// Answers with these in turn, and then with the last one; tells what it is asked.
async fn answering(answers: Vec<(u16, String)>) -> (String, Arc<Mutex<Vec<String>>>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("127.0.0.1:{}/apis", listener.local_addr().expect("an address").port());
    let (asked, turn) = (Arc::new(Mutex::new(Vec::new())), AtomicUsize::new(0));
    let heard = Arc::clone(&asked);
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.expect("a request");
            heard.lock().expect("no panic").push(String::from_utf8_lossy(&request[..length]).into_owned());
            let turn = turn.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
            let (status, body) = &answers[turn];
            let head =
                format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all((head + body).as_bytes()).await.expect("it is taken");
        }
    });
    (url, asked, server)
}

fn registered(schema: &str) -> (u16, String) {
    (200, json!({"schema": schema, "references": []}).to_string())
}

#[tokio::test]
async fn a_schema_is_asked_for_until_it_is_known() {
    let answers = vec![(503, String::new()), (404, "{}".to_owned()), registered("\"long\"")];
    let (address, asked, server) = answering(answers).await;
    let registry = Registry::new(&format!("http://lakeward:a-password@{address}/")).expect("a registry");
    assert_eq!(registry.schema(7).await.expect("an answer, the second time"), None);
    for _ in 0..2 {
        assert_eq!(registry.schema(7).await.expect("an answer").as_deref(), Some("\"long\""));
    }
    let asked = asked.lock().expect("no panic").clone();
    assert_eq!(asked.len(), 3, "{asked:?}");
    for request in asked {
        assert!(request.starts_with("GET /apis/schemas/ids/7 HTTP/1.1"), "{request}");
        assert!(request.to_lowercase().contains("authorization: basic"), "{request}");
    }
    let lacks = registry.lacks("shop.transaction", 7).to_string();
    assert!(lacks.contains("schema 7") && !lacks.contains("a-password"), "{lacks}");
    server.abort();
}

#[tokio::test]
async fn whoever_is_no_registry_is_told_at_once() {
    for answer in [(401, "no".to_owned()), (200, "<html>".to_owned())] {
        let (address, _, server) = answering(vec![answer]).await;
        let registry = Registry::new(&format!("http://lakeward:a-password@{address}")).expect("a registry");
        let error = registry.schema(1).await.expect_err("no registry");
        let text = error.to_string();
        assert!(!error.is_retryable() && text.contains("[source.kafka] registry"), "{text}");
        assert!(text.contains(":***@127.0.0.1") && !text.contains("a-password"), "{text}");
        server.abort();
    }
    let registry = Registry::new("nowhere").expect("a registry");
    assert!(!registry.schema(1).await.expect_err("no URL").is_retryable());
}

#[tokio::test]
async fn letters_in_avro_are_read_again() {
    let texts = ["connector", "db", "schema", "table", "sequence"]
        .map(|name| json!({"name": name, "type": "string"}));
    let numbers = ["ts_us", "lsn", "txId"].map(|name| json!({"name": name, "type": "long"}));
    let fields = [texts.to_vec(), numbers.to_vec()].concat();
    let schema = json!({"type": "record", "name": "Envelope", "fields": [
        {"name": "op", "type": "string"},
        {"name": "after", "type": {"type": "record", "name": "Value", "fields": [{"name": "id", "type": "long"}]}},
        {"name": "source", "type": {"type": "record", "name": "Source", "fields": fields}},
    ]})
    .to_string();
    let mut value = vec![0, 0, 0, 0, 3];
    let text = |text: &str| [&[text.len() as u8 * 2], text.as_bytes()].concat();
    value.extend(text("c"));
    value.push(5 * 2);
    for of_source in ["postgresql", "shop", "s", "t", "[\"40\",\"50\"]"] {
        value.extend(text(of_source));
    }
    value.extend([2, 50 * 2, 9 * 2]);

    let table = TableSchema {
        id: TableId::new("s", "t"),
        columns: vec![Column {
            name: "id".into(),
            column_type: ColumnType::Int8,
            source_type: "bigint".into(),
        }],
        key: vec![0],
        origin: Origin::default(),
    };
    let topic = Topic {
        table: Arc::new(table.clone()),
        epoch: 1,
        database: "shop".to_owned(),
        left_out: Default::default(),
        ignores_new: false,
        came: Default::default(),
        salt: Salt::default(),
        modes: Modes::default(),
        placed: false,
    };
    let mut decoder = TopicDecoder::new(topic.clone());
    let message = Message { partition: 0, offset: 1, key: Some(b"5"), value: Some(&value), old_key: None };
    assert_eq!(decoder.read(&message).expect("no error"), Taken::Lacks(3));
    decoder.refuse(&message, "is in Avro");
    let letter = decoder.take_letters().remove(0).of_topic("shop.s.t");

    let (address, _, server) = answering(vec![(404, String::new()), registered(&schema)]).await;
    let registry = Arc::new(Registry::new(&format!("http://{address}")).expect("a registry"));
    let reader = LetterReader::new(Definition::plain(table, 1, vec![20]), Some(topic));
    let told = reader.read(&letter).await.expect_err("nobody to ask").to_string();
    assert!(told.contains("[source.kafka] registry is not given"), "{told}");
    let reader = reader.with_registry(Some(registry));
    let told = reader.read(&letter).await.expect_err("not there").to_string();
    assert!(told.contains("does not have schema 3"), "{told}");
    let change = reader.read(&letter).await.expect("a change");
    assert_eq!((change.num_rows(), change.ops[0]), (1, Op::Insert));
    server.abort();
}
