//! Messages of topics as rows.

use std::sync::Arc;

use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType},
};
use lakeward_events::{ContractFile, Form, Refused, TopicRows, topic_schema};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::message::{bytes, event};

const FORMS: [Form; 3] = [Form::Checked, Form::Raw, Form::Change];

fn read(form: Form, messages: &[Vec<u8>]) -> (RecordBatch, Vec<Refused>) {
    let file = match form {
        Form::Change => ContractFile::of_changes(None),
        Form::Checked | Form::Raw => ContractFile::open(None),
    };
    let mut rows = TopicRows::new(form, Arc::clone(file.expect("a shipped contract").contract()));
    for (offset, message) in (0..).zip(messages) {
        rows.push(3, offset, message);
    }
    rows.finish().expect("columns")
}

/// As Debezium's connector writes it: decimals as text.
fn change(op: &str, mut event: Map<String, Value>) -> Vec<u8> {
    event["price"] = event["price"].to_string().into();
    let after = if op == "d" { Value::Null } else { event.clone().into() };
    let before = if op == "d" { json!({ "event_id": event["event_id"] }) } else { Value::Null };
    let source = json!({ "db": "shop", "schema": "public", "table": "events", "lsn": 7 });
    json!({ "op": op, "before": before, "after": after, "source": source, "ts_ms": 1 })
        .to_string()
        .into_bytes()
}

#[test]
fn an_event_is_the_same_row_by_either_way() {
    let mut odd = event(1);
    odd["brand"] = "a \"b\" \\ é".into();
    odd["event_id"] = "ABCDEF00-0000-4000-8000-000000000001".into();
    odd["event_time"] = "2019-10-01T02:00:00.000001+02:00".into();
    odd["price"] = json!(7.5);
    let events = [event(0), odd, event(2)];
    let (rows, refused) = read(Form::Raw, &events.clone().map(bytes));
    assert_eq!((rows.num_rows(), refused), (3, vec![]));
    assert_eq!(rows.schema(), topic_schema());
    assert_eq!(read(Form::Checked, &events.clone().map(bytes)).0, rows);
    let ops = ["c", "r", "u"];
    let changes: Vec<_> = ops.into_iter().zip(events).map(|(op, event)| change(op, event)).collect();
    let (changed, refused) = read(Form::Change, &changes);
    assert_eq!((&changed, refused), (&rows, vec![]));
    assert_eq!(rows.column(0).as_string::<i32>().value(1), "abcdef00-0000-4000-8000-000000000001");
    assert_eq!(rows.column(1).as_primitive::<TimestampMicrosecondType>().value(1), 1_569_888_000_000_001);
    assert_eq!(rows.column(6).as_string::<i32>().value(1), "a \"b\" \\ é");
    assert_eq!(rows.column(7).as_primitive::<Decimal128Type>().value(1), 750);
    assert_eq!(rows.column(11).as_primitive::<Int64Type>().values(), &[0, 1, 2]);
}

#[test]
fn what_is_no_event_is_passed_over_and_what_is_wrong_is_told() {
    let mut tiny = event(3);
    tiny["price"] = json!(0.001);
    let (rows, refused) =
        read(Form::Raw, &[b"{}".to_vec(), bytes(tiny), bytes(event(4)), b"no JSON".to_vec()]);
    assert_eq!(rows.num_rows(), 1);
    let reasons: Vec<_> = refused.iter().map(|one| (one.offset, one.reason.as_str())).collect();
    assert!(reasons[0].1.starts_with("event_id breaks the rule required; "), "{reasons:?}");
    let rest = [(1, "price breaks the rule physicalType"), (3, "the message breaks the rule json")];
    assert_eq!(reasons[1..], rest);
    assert_eq!(refused[2].message, b"no JSON");

    let mut bad = event(5);
    bad["event_type"] = "look".into();
    let (rows, refused) =
        read(Form::Change, &[change("d", event(0)), change("c", bad), b"{\"op\":\"c\"}".to_vec()]);
    assert_eq!(rows.num_rows(), 0);
    let reasons: Vec<_> = refused.iter().map(|one| one.reason.as_str()).collect();
    assert_eq!(
        reasons,
        ["after.event_type breaks the rule invalidValues", "source breaks the rule required"]
    );
}

proptest! {
    #[test]
    fn any_bytes_are_a_row_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for form in FORMS {
            let (rows, refused) = read(form, std::slice::from_ref(&bytes));
            prop_assert_eq!((rows.num_rows(), refused.len()), (0, 1));
        }
    }

    /// Any JSON in any field.
    #[test]
    fn any_value_is_taken_or_refused(field in 0..10_usize, text in ".{0,12}", number: f64, whole: i64) {
        for value in [json!(text), json!(number), json!(whole), json!(null), json!([1, {}]), json!({ "a": text })] {
            let mut event = event(1);
            let name = event.keys().nth(field).expect("a field").clone();
            event[&name] = value;
            for form in FORMS {
                let message = if form == Form::Change { change("c", event.clone()) } else { bytes(event.clone()) };
                let (rows, refused) = read(form, &[message]);
                prop_assert_eq!(rows.num_rows() + refused.len(), 1);
            }
        }
    }
}
