//! Events in Avro are read as the same events in JSON are.

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::{
    CdcError,
    debezium::{BinaryMode, Heartbeat, Marks, NoMark, Transaction, TransactionEnd},
};

/// What two connectors (3.7.0) wrote of the same changes: Connect's JSON with schemas, and Apicurio's Avro converter with what
/// it registered. Times that were infinite are others.
const RECORDED: &str = include_str!("../avro.json");

fn recorded() -> Json {
    serde_json::from_str(RECORDED).expect("it is JSON")
}

fn bytes(text: &Json) -> Option<Vec<u8>> {
    text.as_str().map(|text| STANDARD.decode(text).expect("base64"))
}

/// The table of the recording, before and after a column came.
fn kinds(altered: bool) -> TableSchema {
    let numeric = |precision, scale| ColumnType::Numeric { precision, scale };
    let text = |name: &str, source_type: &str| column(name, ColumnType::Text, source_type);
    let mut columns = vec![
        column("id", ColumnType::Int4, "integer"),
        column("n", numeric(12, 2), "numeric(12,2)"),
        column("nn", ColumnType::Text, "numeric"),
        text("m", "money"),
        column("i2", ColumnType::Int2, "smallint"),
        column("i8", ColumnType::Int8, "bigint"),
        column("b", ColumnType::Bool, "boolean"),
        column("r", ColumnType::Float4, "real"),
        column("d", ColumnType::Float8, "double precision"),
        text("t", "text"),
        column("y", ColumnType::Bytes, "bytea"),
        column("u", ColumnType::Uuid, "uuid"),
        column("j", ColumnType::Json, "jsonb"),
        column("dt", ColumnType::Date, "date"),
        text("tm", "time without time zone"),
        column("ts", ColumnType::Timestamp { zoned: false }, "timestamp without time zone"),
        column("ts3", ColumnType::Timestamp { zoned: false }, "timestamp(3) without time zone"),
        column("tz", ColumnType::Timestamp { zoned: true }, "timestamp with time zone"),
        text("e", "colour"),
        text("a", "integer[]"),
        text("ta", "text[]"),
        text("na", "numeric(5,1)[]"),
        text("iv", "interval"),
        text("bt", "bit(4)"),
        text("pt", "point"),
        text("weird-col. 1", "text"),
        column("1st", ColumnType::Int4, "integer"),
    ];
    if altered {
        columns.push(text("näu", "text"));
    }
    TableSchema { id: TableId::new("public", "kinds"), ..table(columns) }
}

fn decoder(altered: bool) -> TopicDecoder {
    let modes = Modes {
        decimal: Some(DecimalMode::Precise),
        time: Some(TimeMode::Adaptive),
        binary: Some(BinaryMode::Bytes),
        ..Modes::default()
    };
    let mut decoder =
        TopicDecoder::new(Topic { database: "postgres".into(), ..topic(kinds(altered), modes) });
    for (number, schema) in recorded()["schemas"].as_object().expect("schemas") {
        let number = number.parse().expect("a number");
        decoder.tell(number, schema.as_str().expect("a text")).expect("settings that fit");
    }
    decoder
}

#[test]
fn recorded_events_are_read_alike() {
    let (mut all, mut changed) = (Vec::new(), 0);
    let recorded = recorded();
    let mut altered = false;
    for event in recorded["events"].as_array().expect("events") {
        let (key, avro) = (bytes(&event["key"]), bytes(&event["avro"]).expect("a value"));
        let old_key = event["old_key"].as_str().map(str::as_bytes);
        let read = |altered: bool, value: &[u8]| {
            let mut decoder = decoder(altered);
            let message =
                Message { partition: 0, offset: 7, key: key.as_deref(), value: Some(value), old_key };
            let taken = decoder.read(&message).expect("settings that fit");
            let letters = decoder.take_letters().into_iter().map(|letter| letter.letter.reason);
            let line = decoder.take().expect("a batch").map(|batch| lines(&batch).remove(0));
            (taken, letters.collect::<Vec<_>>(), line)
        };
        if matches!(read(altered, &avro).0, Taken::Changed(_)) {
            (altered, changed) = (true, changed + 1);
        }
        let (taken, letters, line) = read(altered, &avro);
        assert_eq!((&taken, letters), (&Taken::Change, vec![]));
        all.extend(line.clone());

        // JSON with schemas has the connector's own names, which need no change.
        let frame = &recorded["frames"][event["schema"].as_str().expect("a number")];
        let mut framed = format!(r#"{{"schema":{frame},"payload":{}}}"#, event["payload"]);
        for (adjusted, name) in
            [("weird_col__1", "weird-col. 1"), ("_1st", "1st"), ("n_u", "näu"), ("plain", "ecommerce")]
        {
            framed = framed.replace(&format!("\"{adjusted}\""), &format!("\"{name}\""));
        }
        let place =
            |line: Option<String>| line.map(|line| line.split_once(' ').map(|(_, values)| values.to_owned()));
        let of_json = read(altered, framed.as_bytes());
        assert_eq!((of_json.0, of_json.1), (Taken::Change, vec![]), "{framed}");
        assert_eq!(place(of_json.2), place(line));
    }
    assert_eq!((all.len(), changed), (10, 1));
    let ops: Vec<_> = all.iter().map(|line| &line[..1]).collect();
    assert_eq!(ops.concat(), "rcuudcdctc");
    assert!(all[0].ends_with(
        "1|12.34|1.5|3.50|7|9000000000|true|0.1|0.1|häß|00ff|00000000-0000-0000-0000-000000000001|{\"a\": 1}|2026-01-02|\
         10:11:12.345678|2026-01-02T03:04:05.123456Z|2026-01-02T03:04:05.123Z|2026-01-02T03:04:05.123456Z|red|{1,NULL,3}|\
         {a,NULL}|{1.5,2.5}|1 mon 2 days|1010|(1,2)|w|5"
    ), "{}", all[0]);
    assert!(all[5].contains("|?|?|") && all[5].ends_with(" was 3"), "{}", all[5]);
    assert!(all[9].ends_with("|last"), "{}", all[9]);
}

#[test]
fn recorded_marks_are_read() {
    let recorded = recorded();
    let marks: Vec<_> = (0..3).map(|index| bytes(&recorded["marks"][index]).expect("a value")).collect();
    let mut reader = Marks::default();
    assert_eq!(reader.transaction(&marks[0]), Err(NoMark::Lacks(8)));
    for number in [4, 8] {
        reader.tell(number, recorded["schemas"][number.to_string()].as_str().expect("a text"));
    }
    let began = reader.transaction(&marks[0]).expect("a beginning");
    assert_eq!(began.end, None);
    let end = TransactionEnd { events: 2, tables: vec![("public.kinds".to_owned(), 2)] };
    let ended = reader.transaction(&marks[1]).expect("an end");
    assert_eq!(ended, Transaction { xid: began.xid, lsn: 22_498_328, at: began.at, end: Some(end) });
    let Heartbeat { written_at } = reader.heartbeat(&marks[2]).expect("a heartbeat");
    assert!(written_at > 1_795_000_000_000_000);
    assert!(reader.transaction(&marks[2]).is_err());
    reader.tell(8, "nothing");
    assert!(matches!(reader.transaction(&marks[0]), Err(NoMark::Other(_))));
}

#[test]
fn schemas_that_say_nothing_make_letters() {
    let twice = |name: usize| {
        let part = format!("\"r{}\"", name + 1);
        format!(r#"{{"name":"a","type":{part}}},{{"name":"b","type":{part}}}"#)
    };
    // Each record is two of the next, which are defined before.
    let mut doubled = r#"{"type":"record","name":"r40","fields":[{"name":"a","type":"int"}]}"#.to_owned();
    for name in (0..40).rev() {
        let fields = twice(name).replacen(&format!("\"r{}\"", name + 1), &doubled, 1);
        doubled = format!(r#"{{"type":"record","name":"r{name}","fields":[{fields}]}}"#);
    }
    let cases = [
        ("", "is no Avro schema"),
        ("syntax = \"proto3\";", "is no Avro schema"),
        ("7", "is no Avro schema"),
        (r#"{"type":"record","name":"a"}"#, "type without values"),
        (r#"{"type":"record","name":"a","fields":[]}"#, "type without values"),
        (r#"{"type":"record","fields":[{"name":"a","type":"int"}]}"#, "is no Avro schema"),
        (r#"{"type":"array","items":"null"}"#, "type without values"),
        (r#"{"type":"fixed","name":"f","size":0}"#, "type without values"),
        (r#"["null"]"#, "type without values"),
        (r#"["null","int","string"]"#, "union of several types"),
        (
            r#"{"type":"record","name":"a","fields":[{"name":"b","type":["null","a"]}]}"#,
            "not known, or within itself",
        ),
        (r#"["null","other.Value"]"#, "not known, or within itself"),
        (doubled.as_str(), "is too large"),
    ];
    let mut decoder = TopicDecoder::new(topic(orders(false), strings()));
    let message = Message { value: Some(&[0, 0, 0, 0, 1, 2]), ..message("{}", "") };
    assert_eq!(decoder.read(&message).expect("no error"), Taken::Lacks(1));
    for (schema, reason) in cases {
        decoder.tell(1, schema).expect("no error");
        assert_eq!(decoder.read(&message).expect("no error"), Taken::Letter);
        let told = decoder.take_letters().remove(0).letter.reason;
        assert!(told.contains(reason) && told.contains("its schema 1"), "{told} is not {reason}");
    }
    decoder.tell(1, "\"long\"").expect("no error");
    assert_eq!(decoder.read(&message).expect("no error"), Taken::Letter);
    assert!(decoder.take_letters()[0].letter.reason.contains("no operation"));
    decoder.refuse(&message, "is in Avro, of schema 1, which the registry does not have");
    assert_eq!(decoder.take_letters().remove(0).letter.message, [0, 0, 0, 0, 1, 2]);
}

#[test]
fn columns_with_one_name_are_told() {
    let columns = ["id", "a-b", "a_b"].map(|name| column(name, ColumnType::Text, "text"));
    let mut decoder = TopicDecoder::new(topic(table(columns.to_vec()), Modes::default()));
    let error = decoder.tell(1, "\"long\"").expect_err("two columns are called a_b").to_string();
    assert!(error.contains("column a_b of table public.orders") && error.contains("rename one"), "{error}");
}

#[test]
fn settings_that_the_schema_contradicts_stop_the_table() {
    let modes = Modes { decimal: Some(DecimalMode::String), ..Modes::default() };
    let mut decoder = TopicDecoder::new(topic(kinds(false), modes));
    let error = decoder.tell(2, recorded()["schemas"]["2"].as_str().expect("a text")).expect_err("precise");
    assert!(error.to_string().contains("another decimal.handling.mode than the one stated"), "{error}");
}

#[test]
fn every_cut_datum_is_a_letter() {
    let recorded = recorded();
    let whole = bytes(&recorded["events"][0]["avro"]).expect("a value");
    let mut decoder = decoder(false);
    for end in 0..whole.len() {
        let message = Message { value: Some(&whole[..end]), ..message("{}", "") };
        assert_eq!(decoder.read(&message).expect("no error"), Taken::Letter);
        let reason = decoder.take_letters().remove(0).letter.reason;
        assert!(reason.contains(if end < 5 { "is no JSON" } else { "no datum of its schema 2" }), "{reason}");
    }
    let longer = [&whole[..], b"x"].concat();
    let taken = decoder.read(&Message { value: Some(&longer), ..message("{}", "") });
    assert_eq!(taken.expect("no error"), Taken::Letter);
}

proptest! {
    #[test]
    fn any_bytes_are_safe(
        event in 0usize..10,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        random in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let recorded = recorded();
        let mut changed = bytes(&recorded["events"][event]["avro"]).expect("a value");
        for (at, byte) in changes {
            let at = at.index(changed.len());
            changed[at] = byte;
        }
        let random = [&[0, 0, 0, 0, 2], &random[..]].concat();
        let mut decoder = decoder(false);
        for value in [&changed, &random] {
            let taken = decoder.read(&Message { value: Some(value), ..message("{}", "") }).expect("settings that fit");
            prop_assert_eq!(decoder.take_letters().len(), usize::from(taken == Taken::Letter));
        }
        decoder.take().expect("columns of one length");
    }

    #[test]
    fn any_schema_is_safe(
        number in prop::sample::select(&["2", "4", "8", "11"][..]),
        at in any::<prop::sample::Index>(),
        length in 0usize..40,
        instead in prop::sample::select(&["", "\"", "[", "{}", "null", "\"Value\"", "\"long\"", ",", "-1"][..]),
    ) {
        let mut schema: Vec<char> = recorded()["schemas"][number].as_str().expect("a text").chars().collect();
        let at = at.index(schema.len());
        schema.splice(at..(at + length).min(schema.len()), instead.chars());
        let mut decoder = TopicDecoder::new(topic(kinds(false), Modes::default()));
        let told = decoder.tell(1, &schema.into_iter().collect::<String>());
        let is_told = matches!(told, Ok(()) | Err(CdcError::ConnectorSettings { .. }));
        prop_assert!(is_told);
    }
}

/// The Connect schema of an event with these columns.
pub(in super::super) fn envelope(fields: &str) -> String {
    let plain = |kind: &str, name: &str| format!(r#"{{"type":"{kind}","optional":true,"field":"{name}"}}"#);
    let texts = ["version", "connector", "name", "snapshot", "db", "sequence", "schema", "table"];
    let numbers = ["ts_ms", "ts_us", "txId", "lsn"];
    let source: Vec<_> = texts.map(|name| plain("string", name)).into_iter().collect();
    let source = [source, numbers.map(|name| plain("int64", name)).to_vec()].concat().join(",");
    let place = ["total_order", "data_collection_order"].map(|name| plain("int64", name)).join(",");
    let row = |field: &str| {
        format!(r#"{{"type":"struct","fields":[{fields}],"optional":true,"name":"Value","field":"{field}"}}"#)
    };
    format!(
        r#"{{"type":"struct","name":"Envelope","fields":[{},{},{{"type":"struct","name":"Source","fields":[{source}],"field":"source"}},{{"type":"struct","name":"block","fields":[{},{place}],"optional":true,"field":"transaction"}},{},{}]}}"#,
        row("before"),
        row("after"),
        plain("string", "id"),
        plain("string", "op"),
        plain("int64", "ts_ms"),
    )
}

/// Writes as an Avro converter does.
pub(in super::super) struct Writer {
    number: u32,
    connect: Json,
    pub(in super::super) registered: String,
}

impl Writer {
    pub(in super::super) fn new(number: u32, connect: &Json) -> Self {
        let registered = registered(connect, &mut BTreeSet::new()).to_string();
        Self { number, connect: connect.clone(), registered }
    }

    pub(in super::super) fn write(&self, event: &Json) -> Vec<u8> {
        let mut message = [&[0], &self.number.to_be_bytes()[..]].concat();
        write(&self.connect, event, &mut message);
        message
    }
}

/// The Avro schema of a Connect schema, a record's definition where its name comes first.
fn registered(connect: &Json, known: &mut BTreeSet<String>) -> Json {
    let kind = connect["type"].as_str().expect("a type");
    let mut avro = match kind {
        "struct" => {
            let name = connect["name"].as_str().expect("a name").to_owned();
            if known.insert(name.clone()) {
                let field = |field: &Json| json!({"name": field["field"], "type": registered(field, known)});
                let fields: Vec<_> =
                    connect["fields"].as_array().expect("fields").iter().map(field).collect();
                json!({"type": "record", "name": name, "fields": fields})
            } else {
                json!(name)
            }
        }
        "array" => json!({"type": "array", "items": registered(&connect["items"], known)}),
        "int64" => json!({"type": "long"}),
        kind if kind.starts_with("int") => json!({"type": "int", "connect.type": kind}),
        kind => json!({"type": kind}),
    };
    if avro.is_object() {
        for (name, noted) in [("name", "connect.name"), ("parameters", "connect.parameters")] {
            if let Some(value) = connect.get(name) {
                avro[noted] = value.clone();
            }
        }
    }
    if connect["optional"] == true { json!(["null", avro]) } else { avro }
}

/// Appends a value in JSON, of a Connect schema, in Avro.
fn write(schema: &Json, value: &Json, out: &mut Vec<u8>) {
    let integer = |number: i64, out: &mut Vec<u8>| {
        let mut bits = (number << 1 ^ number >> 63).cast_unsigned();
        while bits >= 0x80 {
            out.push(bits as u8 | 0x80);
            bits >>= 7;
        }
        out.push(bits as u8);
    };
    let sized = |bytes: &[u8], out: &mut Vec<u8>| {
        integer(bytes.len() as i64, out);
        out.extend(bytes);
    };
    if schema["optional"] == true {
        out.push(if value.is_null() { 0 } else { 2 });
        if value.is_null() {
            return;
        }
    }
    let number = || value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match schema["type"].as_str().expect("a type") {
        "struct" => {
            for field in schema["fields"].as_array().expect("fields") {
                write(field, &value[field["field"].as_str().expect("a name")], out);
            }
        }
        "array" => {
            let elements = value.as_array().expect("an array");
            // As some writers do: a block with its size, which nobody looks at here.
            if !elements.is_empty() {
                integer(-(elements.len() as i64), out);
                integer(0, out);
            }
            elements.iter().for_each(|element| write(&schema["items"], element, out));
            integer(0, out);
        }
        "boolean" => out.push(value.as_bool().expect("a boolean").into()),
        "float" => out.extend(number().parse::<f32>().expect("a number").to_le_bytes()),
        "double" => out.extend(number().parse::<f64>().expect("a number").to_le_bytes()),
        "string" => sized(value.as_str().expect("a text").as_bytes(), out),
        "bytes" => sized(&bytes(value).expect("a text"), out),
        _ => integer(value.as_i64().expect("an integer"), out),
    }
}
