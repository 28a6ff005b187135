//! What does not fit: other definitions, other settings, and bytes that are no event at all.

use super::*;
use crate::debezium::BinaryMode;

const ROW: &str = r#"{"id":1,"user_id":7,"total":"1.00","note":"n","created_at":"2026-01-02T03:04:05Z"}"#;

fn with(name: &str, value: &str) -> String {
    let field =
        ROW.trim_matches(['{', '}']).split(',').find(|field| field.starts_with(&format!("\"{name}\"")));
    ROW.replace(field.expect("a field"), &format!("\"{name}\":{value}"))
}

#[test]
fn a_bad_message_is_set_aside_and_the_rest_goes_on() {
    let created = |row: &str| event("c", "null", row);
    let good = created(ROW);
    let cases = [
        ("\u{1}garbage".to_owned(), "is no JSON"),
        (String::new(), "is no JSON"),
        (good[..good.len() - 1].to_owned(), "is no JSON"),
        ("null".to_owned(), "no operation"),
        ("[1,2]".to_owned(), "no operation"),
        (r#"{"op":"c"}"#.to_owned(), "does not tell its source"),
        (r#"{"schema":{"type":"struct"},"payload":7}"#.to_owned(), "no operation"),
        (r#"{"schema":{"type":"struct"},"payload"}"#.to_owned(), "has a schema that cannot be read"),
        (event("x", "null", ROW), "operation that is not known"),
        (event("c", "null", "null"), "does not hold its row"),
        (event("d", "null", ROW), "does not hold its row"),
        (created("[1]"), "row that is no object"),
        (created(r#"{"other":1}"#), "without any of the table's columns"),
        (good.replace(r#""op""#, r#""op":"c","op""#), "has a field twice"),
        (created(&ROW.replace(r#""note":"n""#, r#""note":"n","note":"m""#)), "has a column twice"),
        (good.replace(r#""db":"shop""#, r#""db":"other""#), "of another connector or database"),
        (
            good.replace(r#""connector":"postgresql""#, r#""connector":"mysql""#),
            "of another connector or database",
        ),
        (good.replace(r#""table":"orders""#, r#""table":"order_items""#), "of another table"),
        (good.replace(r#""schema":"public""#, r#""schema":"private""#), "of another table"),
        (good.replace(r#"[\"40\",\"50\"]"#, "soon"), "does not tell its place in the log"),
        (good.replace(r#","lsn":50"#, ""), "does not tell its place in the log"),
        (good.replace(r#""ts_us":1500,"#, "").replace(r#""ts_ms":1,"#, ""), "does not tell its time"),
        (created(&with("id", r#""one""#)), "column id of table public.orders: the value is no integer"),
        (created(&with("id", "9223372036854775808")), "the value is no integer"),
        (created(&with("id", "1.5")), "the value is no integer"),
        (created(&with("id", "null")), "lacks a value of its key"),
        (created(&with("total", "1.5")), "the value is no numeric"),
        (created(&with("total", r#""1,50""#)), "the value is no numeric"),
        (created(&with("note", r#""a\u0000b""#)), "zero byte"),
        (created(&with("note", "7")), "the value is no text"),
        (created(&with("created_at", r#""yesterday""#)), "the value is no timestamp"),
        (created(&with("note", r#""__debezium_unavailable_value""#)), "is inserted and lacks a value"),
    ];
    let mut decoder = TopicDecoder::new(topic(orders(false), strings()));
    for (value, reason) in &cases {
        let taken = decoder.read(&message("{\"id\":1}", value)).expect("settings that fit");
        assert_eq!(taken, Taken::Letter, "{value}");
        let letter = decoder.take_letters().remove(0);
        assert_eq!((letter.partition, letter.offset), (0, 7));
        assert_eq!(letter.letter.message, value.as_bytes());
        assert!(letter.letter.reason.contains(reason), "{} is not {reason}", letter.letter.reason);
        assert_eq!(decoder.read(&message("{\"id\":1}", &good)).expect("settings that fit"), Taken::Change);
    }
    let batch = decoder.take().expect("a batch").expect("changes");
    let good_line = "c 40.50 1|7|1.00|n|2026-01-02T03:04:05Z";
    assert_eq!(lines(&batch), vec![good_line; cases.len()]);

    let without_key = Message { key: None, ..message("", &good) };
    let reason = read_one(topic(orders(false), strings()), &without_key).expect_err("a letter");
    assert!(reason.contains("has no key"), "{reason}");
    let placed = Topic { placed: true, ..topic(orders(false), strings()) };
    let reason = read_one(placed, &message("{}", &good)).expect_err("a letter");
    assert!(reason.contains("tells of no transaction"), "{reason}");
    let long = "x".repeat(50 << 20);
    let line = read_one(
        topic(orders(false), strings()),
        &message("{}", &created(&with("note", &format!("{long:?}")))),
    );
    assert_eq!(line.expect("a change").len(), good_line.len() - 1 + long.len());
    // Beyond the type, but not beyond Postgres: beside the row, as over replication.
    let far = created(&with("created_at", r#""+294276-12-31T23:59:59.999999Z""#));
    let line = read_one(topic(orders(false), strings()), &message("{}", &far)).expect("a change");
    assert!(line.ends_with("|-|{created_at: 294276-12-31 23:59:59.999999+00}"), "{line}");
    let wide = created(&with("total", r#""99999999999.00""#));
    let line = read_one(topic(orders(false), strings()), &message("{}", &wide)).expect("a change");
    assert!(line.ends_with("{total: 99999999999.00}"), "{line}");
}

#[test]
fn letters_of_private_tables_keep_no_bytes() {
    let mut private = topic(orders(false), strings());
    private.left_out.insert("secret".to_owned());
    let mut decoder = TopicDecoder::new(private);
    let with_secret = event("c", "null", &ROW.replace(r#""id":1"#, r#""id":1,"secret":"x""#));
    assert_eq!(decoder.read(&message("{}", &with_secret)).expect("settings that fit"), Taken::Change);
    assert_eq!(decoder.read(&message("{}", "no event")).expect("settings that fit"), Taken::Letter);
    let letter = decoder.take_letters().pop().expect("a letter");
    assert!(letter.letter.message.is_empty() && letter.key.is_none());
}

#[test]
fn another_definition_ends_the_batch_before_it() {
    let mut decoder = TopicDecoder::new(topic(orders(false), strings()));
    let read = |decoder: &mut TopicDecoder, row: &str| decoder.read(&message("{}", &event("u", "null", row)));
    assert_eq!(read(&mut decoder, ROW).expect("settings that fit"), Taken::Change);
    for (row, difference) in [
        (ROW.replace(r#""note""#, r#""remark""#), "column remark was added"),
        (
            ROW.replace(r#""note":"n","#, ""),
            "column note is not in its events: it was dropped, or its type is one that the connector leaves out",
        ),
        (ROW.replace(r#""note""#, r#""Note":"n","note""#), "column Note was added"),
    ] {
        assert_eq!(
            read(&mut decoder, &row).expect("settings that fit"),
            Taken::Changed(difference.to_owned())
        );
    }
    assert_eq!(decoder.rows(), 1, "what was told anew is not taken in");
    // Where the catalog knows nothing of it, it was no change of the definition.
    decoder.refuse(&message("{}", "x"), "lacks a column");
    let reason = decoder.take_letters().remove(0).letter.reason;
    assert_eq!(reason, "an event of table public.orders lacks a column");
}

#[test]
fn settings_are_stated_or_found_and_never_guessed() {
    let mut columns = orders(false).columns;
    columns.push(column("ship_at", ColumnType::Timestamp { zoned: false }, "timestamp without time zone"));
    columns.push(column("photo", ColumnType::Bytes, "bytea"));
    let row = ROW.replace('}', r#","ship_at":1000,"photo":"AP8="}"#);
    let read = |modes: Modes, value: &str| {
        let mut decoder = TopicDecoder::new(topic(table(columns.clone()), modes));
        match decoder.read(&message("{}", value)) {
            Ok(Taken::Change) => Ok(lines(&decoder.take().expect("a batch").expect("a change")).remove(0)),
            Ok(taken) => panic!("{taken:?}"),
            Err(error) => Err(error.to_string()),
        }
    };
    let all = Modes { binary: Some(BinaryMode::Bytes), ..strings() };
    let plain = event("u", "null", &row);
    let line = "u 40.50 1|7|1.00|n|2026-01-02T03:04:05Z|1970-01-01T00:00:00.001Z|00ff";
    assert_eq!(read(all.clone(), &plain).as_deref(), Ok(line));
    for (modes, missing) in [
        (
            Modes { decimal: None, ..all.clone() },
            "column total of table public.orders as the connector writes it: its events carry no schemas, and decimal.handling.mode is not stated",
        ),
        (Modes { time: None, ..all.clone() }, "time.precision.mode is not stated"),
        (Modes { binary: None, ..all.clone() }, "binary.handling.mode is not stated"),
    ] {
        let error = read(modes, &plain).expect_err("too little is known");
        assert!(error.contains(missing), "{error}");
    }

    let field = |name: &str, of: &str| format!(r#"{{{of},"optional":true,"field":"{name}"}}"#);
    let framed = |ship_at: &str, photo: &str| {
        let fields = [
            field("id", r#""type":"int64""#),
            field("user_id", r#""type":"int64""#),
            field("total", r#""type":"string""#),
            field("note", r#""type":"string""#),
            field("created_at", r#""type":"string","name":"io.debezium.time.ZonedTimestamp""#),
            field("ship_at", ship_at),
            field("photo", photo),
        ];
        let schema = format!(
            r#"{{"type":"struct","fields":[{{"type":"struct","fields":[{}],"field":"after"}}]}}"#,
            fields.join(",")
        );
        format!(r#"{{"schema":{schema},"payload":{plain}}}"#)
    };
    let (micros, bytes) = (r#""type":"int64","name":"io.debezium.time.MicroTimestamp""#, r#""type":"bytes""#);
    assert_eq!(read(Modes::default(), &framed(micros, bytes)).as_deref(), Ok(line));
    assert_eq!(read(all.clone(), &framed(micros, bytes)).as_deref(), Ok(line));
    let millis = r#""type":"int64","name":"io.debezium.time.Timestamp""#;
    let found = read(Modes::default(), &framed(millis, bytes)).expect("it tells its unit");
    assert!(found.contains("1970-01-01T00:00:01Z"), "{found}");
    for (modes, value, problem) in [
        (all.clone(), framed(millis, bytes), "show another time.precision.mode than the one stated"),
        (
            Modes { decimal: Some(DecimalMode::Precise), ..all.clone() },
            framed(micros, bytes),
            "show another decimal.handling.mode",
        ),
        (
            Modes { binary: Some(BinaryMode::Hex), ..all.clone() },
            framed(micros, bytes),
            "show another binary.handling.mode",
        ),
        (all, framed(micros, r#""type":"string""#), "show another binary.handling.mode"),
        (Modes::default(), framed(micros, r#""type":"string""#), "binary.handling.mode is not stated"),
        (
            Modes::default(),
            framed(r#""type":"struct","name":"io.debezium.time.StructuredTimestamp""#, bytes),
            "structured is not read",
        ),
    ] {
        let error = read(modes, &value).expect_err("settings that do not fit");
        assert!(error.contains(problem), "{error}");
    }
    // A domain hides on what the unit depends.
    let adaptive = Modes { time: Some(TimeMode::Adaptive), ..strings() };
    let moment = table(vec![
        orders(false).columns.remove(0),
        column("at", ColumnType::Timestamp { zoned: false }, "moment"),
    ]);
    let mut decoder = TopicDecoder::new(topic(moment, adaptive));
    let error =
        decoder.read(&message("{}", &event("u", "null", r#"{"id":1,"at":5}"#))).expect_err("ambiguous");
    assert!(error.to_string().contains("domain that hides the precision"), "{error}");
}

#[test]
fn a_value_that_was_not_sent_is_known_in_each_of_its_forms() {
    let of = |column_type, source_type: &str, value: &str| {
        let id = column("id", ColumnType::Int8, "bigint");
        let table = table(vec![id, column("c", column_type, source_type)]);
        let modes = Modes { binary: Some(BinaryMode::Hex), decimal: Some(DecimalMode::Precise), ..strings() };
        read_one(
            topic(table, modes),
            &message("{}", &event("u", "null", &format!(r#"{{"id":1,"c":{value}}}"#))),
        )
    };
    let text = r#""__debezium_unavailable_value""#;
    let hex: String = "__debezium_unavailable_value".bytes().map(|byte| format!("{byte:02x}")).collect();
    let numbers: Vec<String> = "__debezium_unavailable_value".bytes().map(|byte| byte.to_string()).collect();
    for (column_type, source_type, value) in [
        (ColumnType::Text, "text", text.to_owned()),
        (ColumnType::Json, "jsonb", text.to_owned()),
        (ColumnType::Hashed { salt: 1 }, "text", text.to_owned()),
        (ColumnType::Bytes, "bytea", format!("\"{hex}\"")),
        (ColumnType::Text, "numeric", text.to_owned()),
        (ColumnType::Text, "text[]", format!("[{text}]")),
        (ColumnType::Text, "bytea[]", format!("[\"{hex}\"]")),
        (ColumnType::Text, "integer[]", format!("[{}]", numbers.join(","))),
        (ColumnType::Text, "hstore", format!("{{{text}:{text}}}")),
        (
            ColumnType::Text,
            "public.hstore",
            r#""{\"__debezium_unavailable_value\":\"__debezium_unavailable_value\"}""#.to_owned(),
        ),
    ] {
        assert_eq!(of(column_type, source_type, &value).as_deref(), Ok("u 40.50 1|?"), "{source_type}");
    }
    let whole = of(ColumnType::Text, "text[]", &format!("[{text},\"a\"]"));
    assert_eq!(whole.as_deref(), Ok("u 40.50 1|{__debezium_unavailable_value,a}"));
    let key = message("{}", &event("u", "null", &format!(r#"{{"id":{text}}}"#))).value.map(<[u8]>::to_vec);
    let key = String::from_utf8(key.expect("a value")).expect("text");
    let one = table(vec![column("id", ColumnType::Text, "text")]);
    let reason = read_one(topic(one, strings()), &message("{}", &key)).expect_err("no key");
    assert!(reason.contains("lacks a value of its key"), "{reason}");
}

#[test]
fn a_scale_that_no_numeric_has_is_a_letter() {
    let columns = vec![column("id", ColumnType::Int8, "bigint"), column("c", ColumnType::Text, "numeric")];
    let table = table(columns);
    for scale in [i32::MIN, -20_001, 20_001, i32::MAX] {
        let row = format!(r#"{{"id":1,"c":{{"scale":{scale},"value":"AQ=="}}}}"#);
        let modes = Modes { decimal: Some(DecimalMode::Precise), ..strings() };
        let reason = read_one(topic(table.clone(), modes), &message("{}", &event("c", "null", &row)));
        assert!(reason.expect_err("a letter").contains("the value is no numeric"), "{scale}");
    }
}

#[test]
fn types_without_a_column_type_become_postgres_s_own_text() {
    for (source_type, value, expected) in [
        ("numeric", r#"{"scale":3,"value":"MDk="}"#, "12.345"),
        (
            "numeric",
            r#"{"scale":0,"value":"AP//////////////////////////////"}"#,
            "24519928653854221733733552434404946937899825954937634815",
        ),
        ("numeric(50,2)", r#""/////////////////////w==""#, "-0.01"),
        ("numeric(5,-2)", r#""ew==""#, "12300"),
        ("money", r#""/tOP""#, "-769.13"),
        ("time without time zone", "86400000000", "24:00:00"),
        ("time(3) without time zone", "3723004000", "01:02:03.004"),
        ("time with time zone", r#""19:32:03.5Z""#, "19:32:03.5+00"),
        ("interval", r#""P1Y0M-2DT3H4M5.000006S""#, "1 year -2 days +03:04:05.000006"),
        ("integer[]", "[1,null,-3]", "{1,NULL,-3}"),
        ("double precision[]", r#"[0.1,-0.0,"NaN",1.0E20]"#, "{0.1,-0,NaN,1e+20}"),
        ("text[]", r#"["a,b","\"q\"",null,"","NULL","\\"]"#, r#"{"a,b","\"q\"",NULL,"","NULL","\\"}"#),
        ("numeric(5,2)[]", r#"["AJY="]"#, "{1.50}"),
        (
            "timestamp with time zone[]",
            r#"["2023-12-31T18:15:00.000000Z","infinity"]"#,
            "{\"2023-12-31 18:15:00+00\",infinity}",
        ),
        ("bytea[]", r#"["00ff",null]"#, "{\"\\\\x00ff\",NULL}"),
        ("boolean[]", "[true,false]", "{t,f}"),
        ("date[]", "[19782]", "{2024-02-29}"),
        ("bit(4)", r#""Cg==""#, "1010"),
        ("bit(1)", "true", "1"),
        ("hstore", r#"{"a b":null,"c":"d"}"#, r#""c"=>"d", "a b"=>NULL"#),
        ("point", r#"{"x":0.1,"y":-2.0,"wkb":"","srid":null}"#, "(0.1,-2)"),
        ("oid", "4294967295", "4294967295"),
        ("mood", r#""so so""#, "so so"),
        ("circle", r#"{"x":0.0,"y":0.5,"r":[1,true]}"#, r#"{"x":0.0,"y":0.5,"r":[1,true]}"#),
    ] {
        let id = column("id", ColumnType::Int8, "bigint");
        let table = table(vec![id, column("c", ColumnType::Text, source_type)]);
        let modes = Modes { binary: Some(BinaryMode::Hex), decimal: Some(DecimalMode::Precise), ..strings() };
        let value = event("u", "null", &format!(r#"{{"id":1,"c":{value}}}"#));
        let line = read_one(topic(table, modes), &message("{}", &value));
        assert_eq!(line.as_deref(), Ok(format!("u 40.50 1|{expected}").as_str()), "{source_type}");
    }
}

#[test]
fn partitions_whole_rows_and_histories() {
    use lakeward_change::{LEAF, Leaf};
    let id = || column("id", ColumnType::Int8, "bigint");
    let mut parted = table(vec![id(), column(LEAF, ColumnType::Text, "text")]);
    parted.origin.leaves = vec![Leaf { table: 5, name: "public.orders".to_owned(), filled: false }];
    let value = event("c", "null", r#"{"id":1}"#);
    let line = read_one(topic(parted.clone(), strings()), &message("{}", &value));
    assert_eq!(line.as_deref(), Ok("c 40.50 1|public.orders"));
    let emptied = event("t", "null", "null");
    let truncate = Message { key: None, ..message("", &emptied) };
    assert_eq!(read_one(topic(parted, strings()), &truncate).as_deref(), Ok("t 40.50 -|public.orders"));

    let mut whole = table(vec![id(), column("n", ColumnType::Text, "text")]);
    (whole.key, whole.origin.whole_rows) = (vec![0, 1], true);
    let (one, two) = (r#"{"id":1,"n":null}"#, r#"{"id":2,"n":"b"}"#);
    for (op, before, after, expected) in [
        ("u", one, two, "u 40.50 2|b was 1"),
        ("d", two, "null", "d 40.50 2|b"),
        ("c", "null", one, "c 40.50 1|-"),
    ] {
        let value = event(op, before, after);
        let without_key = Message { key: None, ..message("", &value) };
        assert_eq!(read_one(topic(whole.clone(), strings()), &without_key).as_deref(), Ok(expected));
    }
    let value = event("u", "null", two);
    let reason = read_one(topic(whole, strings()), &message("{}", &value)).expect_err("no row before");
    assert!(reason.contains("does not hold its row before"), "{reason}");

    let mut history = table(vec![id()]);
    history.key.clear();
    let value = event("d", r#"{"id":1}"#, "null");
    let reason = read_one(topic(history, strings()), &message("{}", &value)).expect_err("no key");
    assert!(reason.contains("table that has no key"), "{reason}");
}
