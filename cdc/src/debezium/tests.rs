pub(super) mod avro;
mod bad;
mod properties;
mod recorded;

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{Array, AsArray},
    datatypes::TimestampMicrosecondType,
    util::display::array_value_to_string,
};
use lakeward_change::{Column, ColumnType, Origin, TableId, TableSchema};

use super::{DecimalMode, Message, Modes, Taken, TimeMode, Topic, TopicBatch, TopicDecoder};
use crate::hash::Salt;

fn column(name: &str, column_type: ColumnType, source_type: &str) -> Column {
    Column { name: name.into(), column_type, source_type: source_type.into() }
}

fn table(columns: Vec<Column>) -> TableSchema {
    TableSchema { id: TableId::new("public", "orders"), columns, key: vec![0], origin: Origin::default() }
}

pub(super) fn topic(table: TableSchema, modes: Modes) -> Topic {
    Topic {
        table: Arc::new(table),
        epoch: 3,
        database: "shop".to_owned(),
        left_out: BTreeSet::new(),
        ignores_new: false,
        came: BTreeSet::new(),
        salt: Salt::new("salt"),
        modes,
        placed: false,
    }
}

/// The table of the recorded events, before and after a column came.
pub(super) fn orders(altered: bool) -> TableSchema {
    let mut columns = vec![
        column("id", ColumnType::Int8, "bigint"),
        column("user_id", ColumnType::Int8, "bigint"),
        column("total", ColumnType::Numeric { precision: 12, scale: 2 }, "numeric(12,2)"),
        column("note", ColumnType::Text, "text"),
        column("created_at", ColumnType::Timestamp { zoned: true }, "timestamp with time zone"),
    ];
    if altered {
        columns.push(column("coupon", ColumnType::Text, "text"));
    }
    table(columns)
}

pub(super) fn strings() -> Modes {
    Modes { decimal: Some(DecimalMode::String), time: Some(TimeMode::Microseconds), ..Modes::default() }
}

fn message<'a>(key: &'a str, value: &'a str) -> Message<'a> {
    Message {
        partition: 0,
        offset: 7,
        key: Some(key.as_bytes()),
        value: Some(value.as_bytes()),
        old_key: None,
    }
}

/// An event of `public.orders` at (40, 50).
fn event(op: &str, before: &str, after: &str) -> String {
    format!(
        r#"{{"before":{before},"after":{after},"source":{{"version":"3.7.0.Final","connector":"postgresql","name":"e","ts_ms":1,"snapshot":"false","db":"shop","sequence":"[\"40\",\"50\"]","ts_us":1500,"schema":"public","table":"orders","txId":9,"lsn":50}},"transaction":null,"op":"{op}","ts_ms":2}}"#
    )
}

/// One line a change: operation, place, values, what is beside them, `?` for what was not sent, and the old key.
fn lines(batch: &TopicBatch) -> Vec<String> {
    let changes = &batch.changes;
    assert_eq!(batch.partitions.len(), changes.num_rows());
    assert_eq!(batch.offsets.len(), changes.num_rows());
    assert_eq!(batch.snapshots.len(), changes.num_rows());
    let line = |row: usize| {
        let values = changes.values.columns().iter().enumerate().map(|(index, values)| {
            let mask = changes.unavailable.get(index).and_then(Option::as_ref);
            if mask.is_some_and(|mask| mask.value(row)) {
                assert!(values.is_null(row), "what is not there is null");
                return "?".to_owned();
            }
            if values.is_null(row) {
                return "-".to_owned();
            }
            // The display knows offsets and no names of zones.
            let text = match values.as_primitive_opt::<TimestampMicrosecondType>() {
                Some(times) => array_value_to_string(&times.clone().with_timezone("+00:00"), row),
                None => array_value_to_string(values, row),
            };
            text.expect("text")
        });
        let values: Vec<String> = values.collect();
        let old = changes.old_keys.as_ref().filter(|old| old.is_valid(row));
        let old = old.map(|old| format!(" was {}", array_value_to_string(old.column(0), row).expect("text")));
        let position = changes.position(row);
        let (op, old) = (changes.ops[row].letter(), old.unwrap_or_default());
        format!("{op} {}.{} {}{old}", position.commit, position.order, values.join("|"))
    };
    (0..changes.num_rows()).map(line).collect()
}

/// What one event becomes: its line, or why it is a letter.
fn read_one(topic: Topic, message: &Message<'_>) -> Result<String, String> {
    let mut decoder = TopicDecoder::new(topic);
    match decoder.read(message).expect("settings that fit") {
        Taken::Change => Ok(lines(&decoder.take().expect("a batch").expect("a change")).remove(0)),
        Taken::Letter => {
            assert!(decoder.take().expect("a batch").is_none(), "a letter leaves no row");
            Err(decoder.take_letters().remove(0).letter.reason)
        }
        taken => Err(format!("{taken:?}")),
    }
}
