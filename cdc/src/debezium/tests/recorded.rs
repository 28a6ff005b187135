//! Every recorded event of a real connector (3.7.0) against one table's changes.

use super::*;
use crate::debezium::{Heartbeat, Ignored, Marks, Snapshot, Transaction, TransactionEnd};

/// Name, topic, partition, offset, old key, key and value a line; `-` where there is none. Long texts were cut.
const EVENTS: &str = include_str!("../events.tsv");

struct Recorded {
    name: &'static str,
    topic: &'static str,
    message: Message<'static>,
}

fn recorded(topic: &str) -> Vec<Recorded> {
    let parse = |line: &'static str| {
        let fields: Vec<&str> = line.split('\t').collect();
        let bytes = |index: usize| Some(fields[index]).filter(|text| *text != "-").map(str::as_bytes);
        let number = |index: usize| fields[index].parse::<i32>().expect("a number");
        Recorded {
            name: fields[0],
            topic: fields[1],
            message: Message {
                partition: number(2),
                offset: number(3).into(),
                old_key: bytes(4),
                key: bytes(5),
                value: bytes(6),
            },
        }
    };
    EVENTS.lines().map(parse).filter(|recorded| recorded.topic == topic).collect()
}

/// Reads a topic the way its consumer would: with the new definition where one is told.
fn changes(name: &str, modes: &Modes) -> (Vec<String>, Vec<i64>, Ignored, Vec<String>) {
    let (mut lines_of_all, mut offsets, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    let mut decoder = TopicDecoder::new(topic(orders(false), modes.clone()));
    let mut ignored = Ignored::default();
    for event in recorded(name) {
        let mut taken = decoder.read(&event.message).expect("settings that fit");
        if let Taken::Changed(difference) = &taken {
            changed.push(difference.clone());
            let batch = decoder.take().expect("a batch").expect("changes before");
            lines_of_all.extend(lines(&batch));
            offsets.extend(batch.offsets.values());
            ignored = decoder.ignored();
            decoder = TopicDecoder::new(topic(orders(true), modes.clone()));
            taken = decoder.read(&event.message).expect("settings that fit");
        }
        let is_tombstone = event.message.value.is_none();
        assert_eq!(taken, if is_tombstone { Taken::Nothing } else { Taken::Change }, "{}", event.name);
    }
    let batch = decoder.take().expect("a batch").expect("changes");
    assert!(decoder.take().expect("a batch").is_none() && decoder.take_letters().is_empty());
    lines_of_all.extend(lines(&batch));
    offsets.extend(batch.offsets.values());
    ignored.tombstones += decoder.ignored().tombstones;
    (lines_of_all, offsets, ignored, changed)
}

#[test]
fn a_recorded_topic_becomes_the_table_s_changes() {
    let (plain, offsets, ignored, changed) = changes("ecommerce.public.orders", &strings());
    let cut = |start: &str| format!("{start}...<12800 chars>");
    let toasted = cut("7378683df1ec82adc0217462e86c61a9");
    let full = cut("cb06e32da0edb60d19c66f1d0c13db53");
    let expected = [
        "r 0.0 1|7|19.99|snap|2026-01-02T03:04:05.678901Z".to_owned(),
        "c 26519824.26519824 2|8|100.00|hello ☃|2026-02-03T00:00:00Z".to_owned(),
        "u 26520032.26520032 2|8|101.50|hello ☃|2026-02-03T00:00:00Z".to_owned(),
        format!("c 26520200.26534072 3|9|5.00|{toasted}|2026-02-04T00:00:00Z"),
        "u 26534288.26534344 3|9|6.25|?|2026-02-04T00:00:00Z".to_owned(),
        "c 26534520.26534520 4|10|-0.01|-|2026-02-05T00:00:00Z".to_owned(),
        "u 26534520.26534672 1|7|19.99|in-txn|2026-01-02T03:04:05.678901Z".to_owned(),
        "d 26534832.26534832 2|-|-|-|-".to_owned(),
        "c 26534832.26534832 20|8|101.50|hello ☃|2026-02-03T00:00:00Z".to_owned(),
        "d 26535072.26535128 3|-|-|-|-".to_owned(),
        "c 26535072.26535128 30|9|6.25|?|2026-02-04T00:00:00Z was 3".to_owned(),
        "d 26535376.26535376 4|-|-|-|-".to_owned(),
        "t 26535608.26538512 -|-|-|-|-".to_owned(),
        "c 26539064.26541416 5|11|9999999999.99|after-alter|2026-02-06T00:00:00Z|none".to_owned(),
        format!("c 26541736.26556048 6|12|5.00|{full}|2026-02-04T00:00:00Z|none"),
        format!("u 26556272.26556328 6|12|7.77|{full}|2026-02-04T00:00:00Z|none"),
        "d 26569408.26569408 5|-|-|-|-|-".to_owned(),
        "c 26649528.26649528 100|1|-|nan|2026-01-01T00:00:00Z|none|{total: NaN}".to_owned(),
        "c 26649736.26649736 101|1|1.00|inf|-|none|{created_at: infinity}".to_owned(),
        "c 26649952.26649952 102|1|1.00|after|2025-12-31T23:30:00Z|none|-".to_owned(),
    ];
    // The last batch has a value that did not fit, so all its rows have the column beside.
    let last = changed.len() + 12;
    for (index, (line, expected)) in plain.iter().zip(&expected).enumerate() {
        let beside = if (last..17).contains(&index) { format!("{expected}|-") } else { expected.clone() };
        assert_eq!(*line, beside);
    }
    assert_eq!(plain.len(), expected.len());
    assert_eq!(changed, ["column coupon was added"]);
    assert_eq!(offsets, [0, 2, 4, 6, 7, 9, 10, 12, 14, 16, 18, 20, 23, 25, 27, 29, 30, 33, 35, 37]);
    assert_eq!(ignored, Ignored { tombstones: 4, messages: 0 });

    // With schemas and decimals in bytes, nothing needs to be stated, and the same changes result.
    let (framed, ..) = changes("ecommerce_s.public.orders", &Modes::default());
    let without_beside = |line: &String| line.trim_end_matches("|-").to_owned();
    let same: Vec<_> = plain[..framed.len()].iter().map(without_beside).collect();
    assert_eq!(framed.iter().map(without_beside).collect::<Vec<_>>(), same);
    assert_eq!(framed.len(), 17);
}

#[test]
fn recorded_marks_and_messages() {
    let values = |topic| recorded(topic).into_iter().map(|recorded| recorded.message);
    let beat = values("__debezium-heartbeat.ecommerce").next().and_then(|m| m.value).expect("a heartbeat");
    let reader = Marks::default();
    assert_eq!(reader.heartbeat(beat), Ok(Heartbeat { written_at: 1_795_260_437_903_000 }));
    let marks: Vec<_> =
        values("ecommerce.transaction").map(|m| reader.transaction(m.value.expect("a mark"))).collect();
    let at = 1_795_260_497_705_000;
    let end = TransactionEnd { events: 2, tables: vec![("public.orders".to_owned(), 2)] };
    let empty = TransactionEnd { events: 0, tables: Vec::new() };
    assert_eq!(
        marks,
        [
            Ok(Transaction { xid: 770, lsn: 26_534_520, at, end: None }),
            Ok(Transaction { xid: 770, lsn: 26_534_832, at, end: Some(end) }),
            Ok(Transaction { xid: 746, lsn: 26_517_008, at: 1_795_260_437_912_000, end: Some(empty) }),
        ]
    );
    assert!(reader.transaction(beat).is_err());
    assert!(reader.heartbeat(b"{}").is_err() && reader.heartbeat(b"\xff").is_err());

    let mut decoder = TopicDecoder::new(topic(orders(false), strings()));
    for message in values("ecommerce.message") {
        assert_eq!(decoder.read(&message).expect("settings that fit"), Taken::Nothing);
    }
    assert_eq!(decoder.ignored(), Ignored { tombstones: 0, messages: 1 });
}

#[test]
fn snapshots_are_told_apart() {
    let mut decoder = TopicDecoder::new(topic(orders(false), strings()));
    let row = r#"{"id":1,"user_id":7,"total":"1.00","note":null,"created_at":"2026-01-02T03:04:05Z"}"#;
    for snapshot in ["first", "true", "last", "incremental"] {
        let value =
            event("r", "null", row).replace(r#""snapshot":"false""#, &format!(r#""snapshot":"{snapshot}""#));
        assert_eq!(decoder.read(&message("{}", &value)).expect("settings that fit"), Taken::Change);
    }
    let batch = decoder.take().expect("a batch").expect("changes");
    assert_eq!(batch.snapshots, [Snapshot::Row, Snapshot::Row, Snapshot::Last, Snapshot::Incremental]);
    let positions: Vec<_> = (0..4).map(|row| batch.changes.position(row).order).collect();
    assert_eq!(positions, [0, 0, 0, 50]);
}
