//! What the fuzzer feeds: see `cdc/fuzz`. Any bytes must end in rows, letters or an error.

use std::{collections::BTreeSet, sync::Arc};

use lakeward_change::{Column, ColumnType, Lsn, Origin, Position, TableId, TableSchema};

use crate::{
    assembler::{Assembler, Followed},
    copy::CopyDecoder,
    debezium::{BinaryMode, DecimalMode, Message, Modes, Taken, TimeMode, Topic, TopicDecoder},
    definition::Definition,
    hash::Salt,
    known::Known,
    protocol::{Relation, RelationColumn},
    test_messages as wire,
};

const TABLE: u32 = 11;

fn types() -> [ColumnType; 14] {
    [
        ColumnType::Int4,
        ColumnType::Bool,
        ColumnType::Int2,
        ColumnType::Int8,
        ColumnType::Float4,
        ColumnType::Float8,
        ColumnType::Numeric { precision: 12, scale: 2 },
        ColumnType::Numeric { precision: 38, scale: 38 },
        ColumnType::Text,
        ColumnType::Uuid,
        ColumnType::Bytes,
        ColumnType::Date,
        ColumnType::Timestamp { zoned: true },
        ColumnType::Hashed { salt: 1 },
    ]
}

fn schema() -> TableSchema {
    let column = |(index, column_type)| Column {
        name: format!("c{index}"),
        column_type,
        source_type: "any".to_owned(),
    };
    TableSchema {
        id: TableId::new("s", "t"),
        columns: types().into_iter().enumerate().map(column).collect(),
        key: vec![0],
        origin: Origin::default(),
    }
}

fn definition() -> Definition {
    let schema = schema();
    let types = vec![25; schema.columns.len()];
    Definition { salt: Salt::new("salt"), ..Definition::plain(schema, TABLE, types) }
}

fn relation() -> Relation {
    let column = |index| RelationColumn {
        key: index == 0,
        name: format!("c{index}"),
        type_oid: 25,
        type_modifier: -1,
    };
    Relation {
        id: TABLE,
        schema: "s".to_owned(),
        name: "t".to_owned(),
        identity: b'd',
        columns: (0..types().len()).map(column).collect(),
    }
}

/// Messages, each after its length in two bytes; the last one may be cut.
fn messages(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (message, rest) = rest.split_at(length);
        data = rest;
        Some(message)
    })
}

/// Messages of a replication stream, each after its length in two bytes, inside a transaction that has described a table
/// with a column of each type.
pub fn pgoutput(data: &[u8]) {
    let followed = Followed { definition: definition(), durable: Position { epoch: 1, commit: 0, order: 0 } };
    let known = Known::new([TABLE + 1].into(), "90:100:").expect("a snapshot");
    let mut assembler = Assembler::new(vec![followed], known);
    assembler.read(&wire::relation(&relation()), Lsn(1)).expect("a description");
    assembler.read(&wire::begin(Lsn(10), 0, 99), Lsn(1)).expect("a beginning");
    for message in messages(data) {
        if assembler.read(message, Lsn(2)).is_err() {
            break;
        }
    }
    let (batches, _) = assembler.take().expect("columns of one length");
    for batch in batches {
        assert_eq!(batch.num_rows(), batch.values.num_rows());
    }
    assembler.take_letters();
}

/// Output of `COPY … TO STDOUT`, cut where its first byte says.
pub fn copy(data: &[u8]) {
    let Some((cut, data)) = data.split_first() else { return };
    let mut decoder = CopyDecoder::new(Arc::new(schema()), &Salt::new("salt"), 100);
    let (first, second) = data.split_at(usize::from(*cut).min(data.len()));
    decoder.push(first);
    decoder.push(second);
    let lines = data.iter().filter(|&&byte| byte == b'\n').count();
    let copied = decoder.finish().expect("columns of one length");
    let taken = copied.map_or(0, |copied| copied.rows.num_rows() + copied.letters.len());
    assert_eq!(taken, lines, "each line is a row or a letter");
}

/// Values of a topic's messages, each after its length in two bytes; the first byte says how the connector writes. Where a
/// message begins with a zero byte it is a row for an event, else it is taken as it is.
pub fn debezium(data: &[u8]) {
    let Some((&settings, data)) = data.split_first() else { return };
    let (decimal, time, binary) = (settings % 3, settings / 3 % 6, settings / 18 % 4);
    let modes = Modes {
        decimal: DecimalMode::ALL.get(usize::from(decimal)).copied(),
        time: TimeMode::ALL.get(usize::from(time)).copied(),
        binary: BinaryMode::ALL.get(usize::from(binary)).copied(),
        ..Modes::default()
    };
    let mut table = schema();
    let texts = [
        "numeric",
        "interval",
        "time without time zone",
        "bit(4)",
        "hstore",
        "point",
        "text[]",
        "date[]",
        "any",
    ];
    table.columns.extend(texts.into_iter().enumerate().map(|(index, source_type)| Column {
        name: format!("t{index}"),
        column_type: ColumnType::Text,
        source_type: source_type.to_owned(),
    }));
    let topic = Topic {
        table: Arc::new(table),
        epoch: 1,
        database: "d".to_owned(),
        left_out: BTreeSet::new(),
        ignores_new: false,
        came: BTreeSet::new(),
        salt: Salt::new("salt"),
        modes,
        placed: false,
    };
    let mut decoder = TopicDecoder::new(topic);
    let mut changes = 0;
    for value in messages(data) {
        let event = value.strip_prefix(b"\0").map(|row| {
            let source = br#","source":{"connector":"postgresql","db":"d","schema":"s","table":"t","ts_us":1,"sequence":"[\"1\",\"2\"]","lsn":2}}"#;
            [br#"{"op":"u","after":"#, row, source].concat()
        });
        let value = Some(event.as_deref().unwrap_or(value));
        let message = Message { partition: 0, offset: 0, key: Some(b"{}"), value, old_key: None };
        match decoder.read(&message) {
            Ok(taken) => changes += usize::from(taken == Taken::Change),
            Err(_) => break,
        }
    }
    let batch = decoder.take().expect("columns of one length");
    assert_eq!(batch.map_or(0, |batch| batch.changes.num_rows()), changes);
    decoder.take_letters();
}
