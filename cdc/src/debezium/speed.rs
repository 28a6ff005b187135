//! How fast events become columns, on one core and without a broker: a measurement for `bench/capture`.

use std::time::Instant;

use serde_json::Value as Json;

use super::{
    Message, Taken, TopicDecoder,
    tests::{
        self,
        avro::{Writer, envelope},
    },
};
use crate::assembler::allocations;

const ROWS: usize = 1_000_000;
const IN_BATCH: usize = 65_536;

/// Updates of about 620 bytes, as the recorded connector writes them without schemas.
fn events() -> impl Iterator<Item = (String, String)> {
    let event = |i: usize| {
        let lsn = 26_520_032 + i;
        let row = format!(
            r#"{{"id":{},"user_id":{},"total":"{}.{:02}","note":"hello ☃ {i}","created_at":"2026-02-03T00:{:02}:{:02}.{:06}Z"}}"#,
            i * 7919 % ROWS,
            i % 100_000,
            i % 9973,
            i % 100,
            i % 60,
            i % 59,
            i % 1_000_000,
        );
        let value = format!(
            r#"{{"before":null,"after":{row},"source":{{"version":"3.7.0.Final","connector":"postgresql","name":"ecommerce","ts_ms":1795260496725,"snapshot":"false","db":"shop","sequence":"[\"{lsn}\",\"{lsn}\"]","ts_us":1795260496725936,"ts_ns":1795260496725936000,"schema":"public","table":"orders","txId":767,"lsn":{lsn},"xmin":null,"origin":null,"origin_lsn":null}},"transaction":{{"id":"767:{lsn}","total_order":1,"data_collection_order":1}},"op":"u","ts_ms":1795260496920,"ts_us":1795260496920138,"ts_ns":1795260496920138235}}"#
        );
        (format!(r#"{{"id":{}}}"#, i * 7919 % ROWS), value)
    };
    (0..ROWS).map(event)
}

#[test]
#[ignore = "a measurement"]
fn decoding() {
    let decoder = TopicDecoder::new(tests::topic(tests::orders(false), tests::strings()));
    measure(decoder, events().map(|(key, value)| (key, value.into_bytes())).collect());
}

/// The same events in Avro.
#[test]
#[ignore = "a measurement"]
fn decoding_avro() {
    let field = |(name, kind)| format!(r#"{{"type":"{kind}","optional":true,"field":"{name}"}}"#);
    let fields = [("id", "int64"), ("user_id", "int64"), ("total", "string"), ("note", "string")].map(field);
    let zoned = "io.debezium.time.ZonedTimestamp";
    let at = format!(r#"{{"type":"string","name":"{zoned}","optional":true,"field":"created_at"}}"#);
    let schema = envelope(&format!("{},{at}", fields.join(",")));
    let writer = Writer::new(7, &serde_json::from_str(&schema).expect("it is JSON"));
    let mut decoder = TopicDecoder::new(tests::topic(tests::orders(false), tests::strings()));
    decoder.tell(7, &writer.registered).expect("settings that fit");
    let avro = |value: String| writer.write(&serde_json::from_str::<Json>(&value).expect("it is JSON"));
    measure(decoder, events().map(|(key, value)| (key, avro(value))).collect());
}

fn measure(mut decoder: TopicDecoder, events: Vec<(String, Vec<u8>)>) {
    let (mut rows, began, before) = (0, Instant::now(), allocations());
    for (offset, (key, value)) in events.iter().enumerate() {
        let message = Message {
            partition: 0,
            offset: offset as i64,
            key: Some(key.as_bytes()),
            value: Some(value),
            old_key: None,
        };
        assert_eq!(decoder.read(&message).expect("settings that fit"), Taken::Change);
        if decoder.rows() == IN_BATCH || offset + 1 == ROWS {
            rows += decoder.take().expect("a batch").map_or(0, |batch| batch.changes.num_rows());
        }
    }
    let (seconds, allocations) = (began.elapsed().as_secs_f64(), allocations() - before);
    assert_eq!(rows, ROWS);
    println!(
        r#"{{"rows": {rows}, "rows_per_second": {:.0}, "bytes_per_message": {}, "allocations_per_row": {:.2}}}"#,
        rows as f64 / seconds,
        events.iter().map(|(_, value)| value.len()).sum::<usize>() / events.len(),
        allocations as f64 / rows as f64,
    );
}
