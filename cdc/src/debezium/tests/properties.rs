//! Rows written as the connector writes them are the rows that replication's texts give, in every way of writing.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use chrono::{DateTime, Datelike, Days, NaiveDate, Utc};
use lakeward_change::{Op, Position};
use proptest::prelude::*;
use serde_json::Value as Json;

use super::{
    avro::{Writer, envelope},
    *,
};
use crate::{
    debezium::BinaryMode,
    protocol::Datum,
    table_builder::{Stamp, TableBuilder},
};

/// A value: Postgres's text, and the connector's JSON. `None` is null.
type Value = Option<(String, String)>;

fn columns() -> Vec<Column> {
    let numeric = |precision, scale| ColumnType::Numeric { precision, scale };
    let timestamp = |zoned| ColumnType::Timestamp { zoned };
    vec![
        column("id", ColumnType::Int8, "bigint"),
        column("b", ColumnType::Bool, "boolean"),
        column("i", ColumnType::Int2, "smallint"),
        column("r", ColumnType::Float4, "real"),
        column("f", ColumnType::Float8, "double precision"),
        column("n", numeric(12, 2), "numeric(12,2)"),
        column("s", numeric(38, 6), "numeric"),
        column("w", ColumnType::Text, "numeric(50,3)"),
        column("t", ColumnType::Text, "text"),
        column("y", ColumnType::Bytes, "bytea"),
        column("d", ColumnType::Date, "date"),
        column("m", timestamp(false), "timestamp without time zone"),
        column("l", timestamp(false), "timestamp(3) without time zone"),
        column("z", timestamp(true), "timestamp with time zone"),
        column("o", ColumnType::Text, "time without time zone"),
        column("h", ColumnType::Hashed { salt: 1 }, "date"),
        column("a", ColumnType::Text, "date[]"),
    ]
}

fn modes() -> impl Strategy<Value = Modes> {
    let decimal = prop::sample::select(&DecimalMode::ALL[..]);
    let time = prop::sample::select(&TimeMode::ALL[..]);
    let binary = prop::sample::select(&BinaryMode::ALL[..]);
    (decimal, time, binary).prop_map(|(decimal, time, binary)| Modes {
        decimal: Some(decimal),
        time: Some(time),
        binary: Some(binary),
        unavailable: "not there".to_owned(),
    })
}

fn row(modes: &Modes) -> impl Strategy<Value = Vec<Value>> + use<> {
    let modes = modes.clone();
    let (precise, exact) =
        (modes.decimal == Some(DecimalMode::Precise), modes.decimal != Some(DecimalMode::Double));
    let maybe = |strategy: BoxedStrategy<Value>| prop_oneof![1 => Just(None), 4 => strategy].boxed();
    let number = |number: String| Some((number.clone(), number));
    let at = modes.clone();
    let numeric = move |limit: i64, scale: usize| {
        let modes = at.clone();
        (-limit..limit).prop_map(move |value| Some(decimal(value, scale, &modes))).boxed()
    };
    let nan = if precise {
        Just(None).boxed()
    } else {
        Just(Some(("NaN".to_owned(), if exact { "\"NAN\"" } else { "\"NaN\"" }.to_owned()))).boxed()
    };
    let binary = modes.binary;
    let bytes = prop::collection::vec(any::<u8>(), 0..20).prop_map(move |bytes| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let json = match binary {
            Some(BinaryMode::Hex) => hex.clone(),
            Some(BinaryMode::Base64UrlSafe) => URL_SAFE.encode(&bytes),
            _ => STANDARD.encode(&bytes),
        };
        Some((format!("\\x{hex}"), quoted(&json)))
    });
    let days = -80_000_000i32..80_000_000;
    let iso = modes.time == Some(TimeMode::IsoString);
    let a_date = prop_oneof![
        8 => days.clone().prop_map(move |days| date(days, iso)),
        1 => Just(("infinity".to_owned(), if iso { "\"-5877611-06-21Z\"" } else { "-2147472692" }.to_owned())),
        1 => Just(("-infinity".to_owned(), if iso { "\"-5877611-06-22Z\"" } else { "-2147472691" }.to_owned())),
    ];
    let time = modes.time;
    let micros = match time {
        Some(TimeMode::Nanoseconds) => -9_000_000_000_000_000i64..9_000_000_000_000_000,
        _ => -60_000_000_000_000_000i64..200_000_000_000_000_000,
    };
    let timestamp = move |millis: bool| {
        let step = if millis || time == Some(TimeMode::Connect) { 1000 } else { 1 };
        micros.clone().prop_map(move |micros| {
            let micros = micros / step * step;
            Some((postgres_timestamp(micros, ""), in_unit(micros, millis, time)))
        })
    };
    let endless = if time == Some(TimeMode::Nanoseconds) {
        Just(None).boxed()
    } else {
        let json = match time {
            Some(TimeMode::IsoString) => "\"+294247-01-10T04:00:25.2Z\"",
            Some(TimeMode::Connect) => "9223372036825200",
            _ => "9223372036825200000",
        };
        Just(Some(("infinity".to_owned(), json.to_owned()))).boxed()
    };
    let zoned = prop_oneof![
        8 => micros_of_all().prop_map(|micros| (postgres_timestamp(micros, "+00"), quoted(&java_timestamp(micros)))),
        1 => Just(("-infinity".to_owned(), "\"-infinity\"".to_owned())),
    ];
    let of_day = (0i64..86_400_000_000).prop_map(move |micros| {
        let micros = if time == Some(TimeMode::Connect) { micros / 1000 * 1000 } else { micros };
        let moment = DateTime::<Utc>::from_timestamp_micros(micros).expect("in range");
        let text = moment.format("%H:%M:%S%.6f").to_string();
        let json = if iso { quoted(&format!("{text}Z")) } else { in_unit(micros, false, time) };
        Some((text.trim_end_matches('0').trim_end_matches('.').to_owned(), json))
    });
    let dates = prop::collection::vec(days, 0..4).prop_map(move |days| {
        let (texts, jsons): (Vec<_>, Vec<_>) = days.into_iter().map(|days| date(days, iso)).unzip();
        let texts: Vec<_> =
            texts.iter().map(|text| if text.contains(' ') { quoted(text) } else { text.clone() }).collect();
        Some((format!("{{{}}}", texts.join(",")), format!("[{}]", jsons.join(","))))
    });
    let float = |text: String| {
        let text = text.replace("inf", "Infinity");
        let is_number = text.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit());
        Some((text.clone(), if is_number { text } else { quoted(&text) }))
    };
    vec![
        any::<i64>().prop_map(move |v| number(v.to_string())).boxed(),
        maybe(
            any::<bool>().prop_map(|v| Some((if v { "t" } else { "f" }.to_owned(), v.to_string()))).boxed(),
        ),
        maybe(any::<i16>().prop_map(move |v| number(v.to_string())).boxed()),
        maybe(any::<f32>().prop_map(move |v| float(format!("{v:?}"))).boxed()),
        maybe(any::<f64>().prop_map(move |v| float(format!("{v:?}"))).boxed()),
        maybe(prop_oneof![6 => numeric(1_000_000_000_000, 2), 1 => nan].boxed()),
        maybe(unscaled_of_its_own(&modes)),
        if exact { maybe(numeric(i64::MAX, 3)) } else { Just(None).boxed() },
        maybe("[^\0]{0,12}".prop_map(|text| Some((text.clone(), quoted(&text)))).boxed()),
        maybe(bytes.boxed()),
        maybe(a_date.clone().prop_map(Some).boxed()),
        maybe(prop_oneof![6 => timestamp(false), 1 => endless].boxed()),
        maybe(timestamp(true).boxed()),
        maybe(zoned.prop_map(Some).boxed()),
        maybe(of_day.boxed()),
        maybe(a_date.prop_map(Some).boxed()),
        maybe(dates.boxed()),
    ]
}

fn micros_of_all() -> impl Strategy<Value = i64> {
    -60_000_000_000_000_000i64..200_000_000_000_000_000
}

fn quoted(text: &str) -> String {
    let escape = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c < ' ' => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

fn point(value: i64, scale: usize) -> String {
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if value < 0 { "-" } else { "" };
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

fn unscaled(value: i64) -> String {
    // As short as it may be.
    let bytes = value.to_be_bytes();
    let first = (0..7).find(|&at| {
        let rest: [u8; 8] =
            std::array::from_fn(|i| if i < at + 1 { if value < 0 { 0xff } else { 0 } } else { bytes[i] });
        i64::from_be_bytes(rest) != value || (bytes[at + 1] >= 0x80) != (value < 0)
    });
    quoted(&STANDARD.encode(&bytes[first.unwrap_or(7)..]))
}

fn decimal(value: i64, scale: usize, modes: &Modes) -> (String, String) {
    let text = point(value, scale);
    let json = match modes.decimal {
        Some(DecimalMode::String) => quoted(&text),
        Some(DecimalMode::Double) => format!("{:?}", text.parse::<f64>().expect("a number")),
        _ => unscaled(value),
    };
    (text, json)
}

/// Of a `numeric` without scale: each value has its own, and zeros behind the point are gone.
fn unscaled_of_its_own(modes: &Modes) -> BoxedStrategy<Value> {
    let modes = modes.clone();
    let value = (-10_000_000_000_000i64..10_000_000_000_000, 0usize..6);
    let value = value.prop_map(move |(value, scale)| {
        let value = if value % 10 == 0 { value + 1 } else { value };
        let (text, json) = decimal(value, scale, &modes);
        let json = match modes.decimal {
            Some(DecimalMode::Precise) => format!(r#"{{"scale":{scale},"value":{json}}}"#),
            _ => json,
        };
        Some((text, json))
    });
    value.boxed()
}

fn date(days: i32, iso: bool) -> (String, String) {
    let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).expect("a date");
    let shift = Days::new(u64::from(days.unsigned_abs()));
    let date = if days < 0 { epoch - shift } else { epoch + shift };
    let (year, era) = if date.year() < 1 { (1 - date.year(), " BC") } else { (date.year(), "") };
    let text = format!("{year:04}-{}{era}", date.format("%m-%d"));
    let json = if iso {
        quoted(&format!("{}-{}Z", java_year(date.year()), date.format("%m-%d")))
    } else {
        days.to_string()
    };
    (text, json)
}

fn java_year(year: i32) -> String {
    let sign = if year > 9999 {
        "+"
    } else if year < 0 {
        "-"
    } else {
        ""
    };
    format!("{sign}{:04}", year.abs())
}

fn postgres_timestamp(micros: i64, zone: &str) -> String {
    let time = DateTime::<Utc>::from_timestamp_micros(micros).expect("in range");
    let (year, era) = if time.year() < 1 { (1 - time.year(), " BC") } else { (time.year(), "") };
    format!("{year:04}-{}{zone}{era}", time.format("%m-%d %H:%M:%S%.6f"))
}

fn java_timestamp(micros: i64) -> String {
    let time = DateTime::<Utc>::from_timestamp_micros(micros).expect("in range");
    format!("{}-{}Z", java_year(time.year()), time.format("%m-%dT%H:%M:%S%.6f"))
}

fn in_unit(micros: i64, millis: bool, time: Option<TimeMode>) -> String {
    match time {
        Some(TimeMode::IsoString) => quoted(&java_timestamp(micros)),
        Some(TimeMode::Nanoseconds) => (micros * 1000).to_string(),
        Some(TimeMode::Connect) => (micros / 1000).to_string(),
        Some(TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds) if millis => {
            (micros / 1000).to_string()
        }
        _ => micros.to_string(),
    }
}

/// The schema of each column as the connector sends it.
fn schema(modes: &Modes) -> String {
    let time = |iso: &str, connect: &str, prefix: &str| {
        let (name, kind) = match modes.time {
            Some(TimeMode::IsoString) => (format!("io.debezium.time.Iso{iso}"), "string"),
            Some(TimeMode::Connect) => (format!("org.apache.kafka.connect.data.{connect}"), "int64"),
            Some(TimeMode::Nanoseconds) => (format!("io.debezium.time.Nano{iso}"), "int64"),
            _ => (format!("io.debezium.time.{prefix}{iso}"), "int64"),
        };
        format!(r#""type":"{kind}","name":"{name}""#)
    };
    let millis = match modes.time {
        Some(TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds) => "",
        _ => "Micro",
    };
    let date = match modes.time {
        Some(TimeMode::IsoString) => r#""type":"string","name":"io.debezium.time.IsoDate""#,
        Some(TimeMode::Connect) => r#""type":"int32","name":"org.apache.kafka.connect.data.Date""#,
        _ => r#""type":"int32","name":"io.debezium.time.Date""#,
    };
    let decimal = |scale: Option<u8>| {
        match (modes.decimal, scale) {
        (Some(DecimalMode::String), _) => r#""type":"string""#.to_owned(),
        (Some(DecimalMode::Double), _) => r#""type":"double""#.to_owned(),
        (_, Some(scale)) => format!(
            r#""type":"bytes","name":"org.apache.kafka.connect.data.Decimal","version":1,"parameters":{{"scale":"{scale}"}}"#
        ),
        (_, None) => r#""type":"struct","name":"io.debezium.data.VariableScaleDecimal","fields":[{"type":"int32","field":"scale"},{"type":"bytes","field":"value"}]"#.to_owned(),
    }
    };
    let binary = if modes.binary == Some(BinaryMode::Bytes) { "bytes" } else { "string" };
    let fields = [
        r#""type":"int64""#.to_owned(),
        r#""type":"boolean""#.to_owned(),
        r#""type":"int16""#.to_owned(),
        r#""type":"float""#.to_owned(),
        r#""type":"double""#.to_owned(),
        decimal(Some(2)),
        decimal(None),
        decimal(Some(3)),
        r#""type":"string""#.to_owned(),
        format!(r#""type":"{binary}""#),
        date.to_owned(),
        time("Timestamp", "Timestamp", "Micro"),
        time("Timestamp", "Timestamp", millis),
        r#""type":"string","name":"io.debezium.time.ZonedTimestamp""#.to_owned(),
        time("Time", "Time", "Micro"),
        date.to_owned(),
        format!(r#""type":"array","items":{{{date},"optional":true}}"#),
    ];
    let field = |(column, field): (Column, String)| {
        format!(r#"{{{field},"optional":true,"field":"{}"}}"#, column.name)
    };
    let fields: Vec<String> = columns().into_iter().zip(fields).map(field).collect();
    envelope(&fields.join(","))
}

proptest! {
    #[test]
    fn both_sources_give_the_same_rows(
        (modes, rows) in modes().prop_flat_map(|modes| {
            let rows = prop::collection::vec(row(&modes), 1..12);
            (Just(modes), rows)
        }),
        written in prop::sample::select(&["plain", "framed", "in Avro"][..]),
        stated in any::<bool>(),
    ) {
        let table = table(columns());
        // A schema tells everything but how bytes are written as text.
        let known = Modes { binary: modes.binary, ..Modes { unavailable: "not there".to_owned(), ..Modes::default() } };
        let told = if stated || written == "plain" { modes.clone() } else { known };
        let topic = topic(table.clone(), told);
        let mut texts = TableBuilder::new(Arc::new(table), topic.epoch, &topic.salt);
        let mut decoder = TopicDecoder::new(topic);
        let schema: Json = serde_json::from_str(&schema(&modes)).expect("it is JSON");
        let writer = Writer::new(1, &schema);
        decoder.tell(1, &writer.registered).expect("settings that fit");
        for row in &rows {
            let field = |(column, value): (Column, &Value)| {
                format!("\"{}\":{}", column.name, value.as_ref().map_or("null", |(_, json)| json))
            };
            let fields: Vec<String> = columns().into_iter().zip(row).map(field).collect();
            let event = event("u", "null", &format!("{{{}}}", fields.join(",")));
            let value = match written {
                "plain" => event.into_bytes(),
                "framed" => format!(r#"{{"schema":{schema},"payload":{event}}}"#).into_bytes(),
                _ => writer.write(&serde_json::from_str(&event).expect("it is JSON")),
            };
            let message = Message { value: Some(&value), ..message("{}", "") };
            let taken = decoder.read(&message).expect("settings that fit");
            let reasons: Vec<_> = decoder.take_letters().into_iter().map(|letter| letter.letter.reason).collect();
            prop_assert_eq!(taken, Taken::Change, "{:?} {}", reasons, String::from_utf8_lossy(&value));
            let datums = row.iter().map(|value| value.as_ref().map_or(Datum::Null, |(text, _)| Datum::Text(text.as_bytes())));
            let position = Position { epoch: 3, commit: 40, order: 50 };
            let stamp = Stamp { position, lsn: 50, xid: 9, committed_at: 1500 };
            texts.push(Op::Update, stamp, datums, None).expect("texts of Postgres");
        }
        let (found, expected) = (decoder.take().expect("a batch").expect("changes").changes, texts.finish().expect("a batch"));
        prop_assert_eq!(&found.values, &expected.values);
        prop_assert_eq!(found.committed_at, expected.committed_at);
        prop_assert_eq!((found.lsns, found.xids, found.orders), (expected.lsns, expected.xids, expected.orders));
    }

    #[test]
    fn any_change_of_an_event_is_safe(at in 0usize..600, byte in any::<u8>(), cut in 0usize..600) {
        let mut value = event("u", "null", r#"{"id":1,"user_id":7,"total":"1.00","note":"n","created_at":"2026-01-02T03:04:05Z"}"#).into_bytes();
        let at = at % value.len();
        value[at] = byte;
        let mut decoder = TopicDecoder::new(topic(orders(false), strings()));
        for value in [&value[..], &value[..cut.min(value.len())]] {
            let taken = decoder.read(&Message { value: Some(value), ..message("{}", "") }).expect("settings that fit");
            let letters = decoder.take_letters().len();
            prop_assert_eq!(letters, usize::from(taken == Taken::Letter));
        }
        decoder.take().expect("columns of one length");
    }
}
