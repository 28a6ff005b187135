//! Contracts: what conforms, what does not and why, and what is no contract.

use std::path::{Path, PathBuf};

use lakeward_events::{Contract, ContractFile};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::message::{bytes, event};

fn shipped(name: &str) -> Contract {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../contracts").join(name);
    let text = std::fs::read_to_string(&path).expect("a file");
    Contract::parse(&text).expect("a contract")
}

fn behaviour() -> Contract {
    shipped("tracking.raw_user_behavior.yaml")
}

/// `field rule` of each reason.
fn reasons(contract: &Contract, message: &[u8]) -> Vec<String> {
    let reasons = contract.check(message).err().unwrap_or_default();
    reasons.iter().map(|reason| format!("{} {}", reason.field, reason.rule)).collect()
}

fn with(field: &str, value: Value) -> Map<String, Value> {
    let mut event = event(7);
    event.insert(field.to_owned(), value);
    event
}

#[test]
fn events_conform() {
    let contract = behaviour();
    for number in 0..500 {
        assert_eq!(contract.check(&bytes(event(number))), Ok(()));
    }
    for (field, value) in [
        ("event_time", json!("2019-10-01 00:00:00 UTC")),
        ("event_time", json!("2019-10-01T00:00:00.123456+02:00")),
        ("category_code", Value::Null),
        ("brand", Value::Null),
        ("brand", json!("häagen\u{0}dazs \u{1F366}")),
        ("price", json!(0)),
        ("price", json!(1e9)),
        ("more", json!({"of": ["other", {"fields": 1}]})),
    ] {
        assert_eq!(contract.check(&bytes(with(field, value))), Ok(()), "{field}");
    }
    let mut least = event(7);
    least.remove("brand");
    least.remove("category_code");
    assert_eq!(contract.check(&bytes(least)), Ok(()));
}

#[test]
fn reasons_name_field_and_rule() {
    let contract = behaviour();
    for (field, value, rule) in [
        ("event_id", json!("7"), "format"),
        ("event_id", json!("{00000000-0000-5000-8000-0000000000}"), "format"),
        ("event_id", Value::Null, "required"),
        ("event_time", json!(1_569_888_000), "logicalType"),
        ("event_time", json!("yesterday"), "format"),
        ("event_time", json!("1999-12-31T23:59:59Z"), "minimum"),
        ("event_time", json!("2100-01-01T00:00:00Z"), "exclusiveMaximum"),
        ("event_type", json!("buy"), "invalidValues"),
        ("event_type", json!(["view"]), "logicalType"),
        ("product_id", json!(0), "minimum"),
        ("product_id", json!(1.0), "logicalType"),
        ("product_id", json!("1004767"), "logicalType"),
        ("category_id", json!(u64::MAX), "format"),
        ("category_code", json!("electronics..smartphone"), "pattern"),
        ("category_code", json!(""), "minLength pattern"),
        ("brand", json!("x".repeat(201)), "maxLength"),
        ("price", json!(-0.01), "minimum"),
        ("price", json!("9.99"), "logicalType"),
        ("price", json!({"amount": 1}), "logicalType"),
        ("user_id", json!(true), "logicalType"),
        ("user_session", json!("ä".repeat(18)), "format"),
    ] {
        let expected: Vec<_> = rule.split(' ').map(|rule| format!("{field} {rule}")).collect();
        assert_eq!(reasons(&contract, &bytes(with(field, value))), expected);
    }
    assert_eq!(
        reasons(&contract, br#"{"price": -1, "event_type": 7}"#),
        [
            "price minimum",
            "event_type logicalType",
            "event_id required",
            "event_time required",
            "product_id required",
            "category_id required",
            "user_id required",
            "user_session required",
        ]
    );
}

#[test]
fn what_is_no_message_is_told_as_such() {
    let contract = behaviour();
    let good = String::from_utf8(bytes(event(7))).expect("text");
    let twice = format!("{{\"price\": 1, {}", &good[1..]);
    let unread_twice = format!("{{\"x\": 1, \"x\": 2, {}", &good[1..]);
    assert_eq!(contract.check(unread_twice.as_bytes()), Ok(()));
    let huge = good.replace("\"brand\":\"samsung\"", "\"brand\":1e999");
    let long = good.replace("\"product_id\":", "\"product_id\":9999999999999999999999");
    for (message, expected) in [
        (&b""[..], " empty"),
        (b" ", " json"),
        (b"{", " json"),
        (b"[]", " logicalType"),
        (b"null", " required"),
        (b"7", " logicalType"),
        (b"\xff\xfe{}", " utf8"),
        (b"\xef\xbb\xbf{}", " json"),
        (b"{\"a\": \"\\ud800\x00\"}", " json"),
        (format!("{good}{good}").as_bytes(), " json"),
        (&good.as_bytes()[..good.len() - 1], " json"),
        (twice.as_bytes(), "price duplicateField"),
        (huge.as_bytes(), " json"),
        (long.as_bytes(), "product_id logicalType"),
    ] {
        assert_eq!(reasons(&contract, message), [expected], "{}", String::from_utf8_lossy(message));
    }
}

#[test]
fn depth_and_size_are_borne() {
    let contract = behaviour();
    let good = String::from_utf8(bytes(event(7))).expect("text");
    let deep = |field: &str, open: &str, close: &str| {
        format!("{{\"{field}\":{}1{},{}", open.repeat(1_000_000), close.repeat(1_000_000), &good[1..])
    };
    assert_eq!(contract.check(deep("x", "[", "]").as_bytes()), Ok(()));
    assert_eq!(contract.check(deep("x", "{\"a\":", "}").as_bytes()), Ok(()));
    assert_eq!(
        reasons(&contract, deep("brand", "[", "]").as_bytes()),
        ["brand logicalType", "brand duplicateField"]
    );
    let brand = "x".repeat(50 << 20);
    assert_eq!(reasons(&contract, &bytes(with("brand", json!(brand)))), ["brand maxLength"]);
    assert_eq!(reasons(&contract, "[".repeat(50 << 20).as_bytes()), [" json"]);
}

#[test]
fn changes_of_the_table_conform() {
    let contract = shipped("tracking_postgres_cdc.public.events.yaml");
    let row = |price: &str| {
        let mut row = event(7);
        row.insert("price".to_owned(), json!(price));
        row
    };
    let source =
        json!({"db": "shop", "schema": "public", "table": "events", "lsn": 26_000_000, "snapshot": "false"});
    let change = |op: &str, before: Value, after: Value| {
        json!({"op": op, "before": before, "after": after, "source": source, "ts_ms": 1, "transaction": null})
            .to_string()
    };
    let key = json!({"event_id": event(7)["event_id"]});
    assert_eq!(contract.check(change("c", Value::Null, json!(row("9.99"))).as_bytes()), Ok(()));
    assert_eq!(contract.check(change("d", key, Value::Null).as_bytes()), Ok(()));
    assert_eq!(
        reasons(&contract, change("x", json!({}), json!(row("NaN"))).as_bytes()),
        ["after.price pattern", "before.event_id required", "op invalidValues"]
    );
}

/// A contract whose one property is given.
fn contract(property: &str) -> Result<Contract, Vec<String>> {
    let yaml = format!(
        "apiVersion: v3.1.0\nkind: DataContract\nid: x\nversion: 1.0.0\nstatus: active\nschema:\n  - name: m\n    properties:\n      - {}",
        property.replace('\n', "\n        ")
    );
    Contract::parse(&yaml).map_err(|error| error.problems)
}

#[test]
fn options_hold() {
    for (property, good, bad) in [
        (
            "name: a\nlogicalType: integer\nlogicalTypeOptions: {format: u8, multipleOf: 5}",
            "5 0 250",
            "-5 6 300 1.0",
        ),
        (
            "name: a\nlogicalType: integer\nlogicalTypeOptions: {exclusiveMinimum: 1, exclusiveMaximum: 4}",
            "2 3",
            "1 4",
        ),
        (
            "name: a\nlogicalType: number\nlogicalTypeOptions: {exclusiveMinimum: 0.5, maximum: 2}",
            "0.75 1 2",
            "0.5 2.5 \"1\"",
        ),
        ("name: a\nlogicalType: boolean\nrequired: true", "true false", "null 1 \"true\""),
        ("name: a\nquality: [{metric: nullValues, mustBe: 0}]", "1 {} [] \"\"", "null"),
        (
            "name: a\nquality: [{metric: missingValues, mustBe: 0, arguments: {missingValues: [null, '', 'N/A', 7]}}]",
            "1 \"n/a\" 7.5",
            "null \"\" \"N/A\" 7",
        ),
        (
            "name: a\nquality: [{metric: invalidValues, mustBe: 0, arguments: {validValues: [1, true, x, 2.5]}}]",
            "1 true \"x\" null 2.5",
            "2 false \"y\"",
        ),
        (
            "name: a\nlogicalType: string\nquality: [{metric: invalidValues, mustBe: 0, arguments: {pattern: '^[a-z]+$'}}]",
            "\"abc\" null",
            "\"Abc\" \"\"",
        ),
        (
            "name: a\nlogicalType: string\nlogicalTypeOptions: {format: ipv4}",
            "\"127.0.0.1\"",
            "\"127.0.0\" \"::1\"",
        ),
        ("name: a\nlogicalType: string\nlogicalTypeOptions: {format: ipv6}", "\"::1\"", "\"127.0.0.1\""),
        (
            "name: a\nlogicalType: date\nlogicalTypeOptions: {maximum: '2020-01-01'}",
            "\"2020-01-01\"",
            "\"2020-01-02\" \"2020-1-1\"",
        ),
        (
            "name: a\nlogicalType: time\nlogicalTypeOptions: {format: 'HH:mm'}",
            "\"23:59\"",
            "\"24:00\" \"1:00\"",
        ),
        (
            "name: a\nlogicalType: array\nlogicalTypeOptions: {minItems: 1, maxItems: 2}\nitems: {logicalType: integer, required: true}",
            "[1] [1,2]",
            "[] [1,2,3] [\"a\"] [null] 1",
        ),
        (
            "name: a\nlogicalType: object\nlogicalTypeOptions: {minProperties: 1, required: [b]}\nproperties: [{name: b}]",
            "{\"b\":1} null",
            "{} {\"c\":1} []",
        ),
        ("name: b\nphysicalName: a\nlogicalType: string\nrequired: true", "\"x\"", "null"),
    ] {
        let contract = contract(property).unwrap_or_else(|problems| panic!("{property}: {problems:?}"));
        let says = |value: &str| reasons(&contract, format!("{{\"a\": {value}}}").as_bytes());
        for value in good.split(' ') {
            assert!(says(value).is_empty(), "{property}: {value}: {:?}", says(value));
        }
        for value in bad.split(' ') {
            assert!(!says(value).is_empty(), "{property}: {value}");
        }
    }
}

#[test]
fn what_cannot_be_checked_is_no_contract_and_all_of_it_is_told() {
    for (property, problem) in [
        ("name: a\nunique: true", "unique"),
        ("name: a\nlogicalType: text", "logicalType"),
        ("name: a\nlogicalType: string\nlogicalTypeOptions: {minimum: 1}", "logicalTypeOptions.minimum"),
        ("name: a\nlogicalType: string\nlogicalTypeOptions: {format: email}", "format"),
        ("name: a\nlogicalType: string\nlogicalTypeOptions: {pattern: '(?=x)'}", "pattern"),
        ("name: a\nlogicalType: integer\nlogicalTypeOptions: {minimum: 0.5}", "minimum"),
        ("name: a\nlogicalType: number\nlogicalTypeOptions: {multipleOf: 0.01}", "multipleOf"),
        ("name: a\nlogicalType: timestamp\nlogicalTypeOptions: {format: 'EEE'}", "format"),
        ("name: a\nlogicalType: timestamp\nlogicalTypeOptions: {minimum: 2020}", "minimum"),
        (
            "name: a\nlogicalType: timestamp\nlogicalTypeOptions: {defaultTimezone: Europe/Berlin}",
            "defaultTimezone",
        ),
        ("name: a\nlogicalType: array\nlogicalTypeOptions: {uniqueItems: true}", "uniqueItems"),
        ("name: a\nproperties: [{name: b}]", "properties"),
        ("name: a\nrequired: 'yes'", "required"),
        ("name: a\nnullable: true", "nullable"),
        ("logicalType: string", "name"),
        ("name: a\nquality: [{metric: duplicateValues, mustBe: 0}]", "metric"),
        ("name: a\nquality: [{metric: nullValues, mustBeLessThan: 5, unit: percent}]", "mustBeLessThan"),
        ("name: a\nquality: [{metric: nullValues}]", "mustBe"),
        ("name: a\nquality: [{type: sql, query: select 1, mustBe: 0}]", "type"),
        ("name: a\nquality: [{rule: nullValues, mustBe: 0}]", "rule"),
        ("name: a\nquality: [{metric: invalidValues, mustBe: 0}]", "arguments"),
    ] {
        let problems = contract(property).map(drop).expect_err(property).join("\n");
        assert!(problems.contains(problem), "{property}: {problems}");
    }
    let error = Contract::parse(
        "apiVersion: v2.2.2\nkind: Contract\nversion: 1\nextra: 1\nschema: []\nslaProperties: [{property: latency, value: 5}]",
    )
    .expect_err("wrong in many places");
    assert_eq!(error.problems.len(), 8, "{error}");
    let twice =
        include_str!("../../contracts/tracking.raw_user_behavior.yaml").replace("name: brand", "name: price");
    let error = Contract::parse(&twice).expect_err("two of a name").to_string();
    assert!(error.contains("another property"), "{error}");
    for text in ["", "- a", "{", "a: b: c", "7", "id: x\nid: y"] {
        Contract::parse(text).expect_err(text);
    }
}

#[test]
fn the_shipped_contract_is_the_default() {
    let file = ContractFile::open(None).expect("a contract");
    assert_eq!((file.contract().id(), file.contract().version()), ("tracking.raw_user_behavior", "1.0.0"));
    assert_eq!(file.contract().latency(), Some(std::time::Duration::from_secs(10)));
    let error = ContractFile::open(Some(Path::new("nowhere.yaml"))).expect_err("no file");
    assert!(error.to_string().contains("nowhere.yaml"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(".{0,5}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_end_in_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(behaviour().check(&bytes).is_err());
    }

    /// A field that is anything at all breaks rules of its own alone, and the reasons hold nothing of it.
    #[test]
    fn a_field_breaks_its_own_rules(value in any_json(), index in 0usize..10) {
        let contract = behaviour();
        let field = event(7).keys().nth(index).expect("ten fields").clone();
        let message = bytes(with(&field, value));
        if let Err(reasons) = contract.check(&message) {
            prop_assert!(!reasons.is_empty());
            for reason in &reasons {
                prop_assert_eq!(&*reason.field, field.as_str());
                prop_assert!(reason.rule.bytes().all(|byte| byte.is_ascii_alphabetic()));
            }
        }
        // A cut message is none.
        prop_assert!(contract.check(&message[..message.len() - 1]).is_err());
    }

    #[test]
    fn any_text_is_a_contract_or_an_error(text in ".{0,200}") {
        let _ = Contract::parse(&text);
    }
}
