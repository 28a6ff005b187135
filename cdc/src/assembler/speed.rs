//! How fast messages become columns, on one core and without a server: a measurement for `bench/capture`.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use lakeward_change::{Column, ColumnType, Lsn, Position, TableSchema};

use super::{Assembler, Followed, tests};
use crate::{
    definition::Definition,
    protocol::{Relation, RelationColumn},
    test_messages as wire,
};

const ROWS: usize = 2_000_000;
const IN_TRANSACTION: usize = 1_000;
const IN_CHUNK: usize = 65_536;

/// Counts what is asked of it, by every test of this program.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps to the same terms.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// How often memory was asked for so far.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// The table that `bench/capture` streams.
fn columns() -> Vec<(Column, (u32, i32))> {
    let column = |name: &str, column_type, source_type: &str, types| {
        (Column { name: name.into(), column_type, source_type: source_type.into() }, types)
    };
    let numeric = ColumnType::Numeric { precision: 12, scale: 2 };
    vec![
        column("id", ColumnType::Int8, "bigint", (20, -1)),
        column("customer", ColumnType::Int4, "integer", (23, -1)),
        column("status", ColumnType::Text, "text", (25, -1)),
        column("amount", numeric, "numeric(12,2)", (1700, (12 << 16) + 2 + 4)),
        column("at", ColumnType::Timestamp { zoned: true }, "timestamp with time zone", (1184, -1)),
        column("note", ColumnType::Text, "text", (25, -1)),
    ]
}

fn messages(definition: &Definition) -> Vec<Vec<u8>> {
    let column = |(column, (type_oid, type_modifier)): (Column, (u32, i32))| RelationColumn {
        key: column.name == "id",
        name: column.name,
        type_oid,
        type_modifier,
    };
    let relation = Relation {
        id: definition.oid,
        schema: "s".into(),
        name: "t".into(),
        identity: definition.identity,
        columns: columns().into_iter().map(column).collect(),
    };
    let mut messages = vec![wire::relation(&relation)];
    for i in 0..ROWS {
        let lsn = Lsn(1000 + (i / IN_TRANSACTION) as u64);
        if i % IN_TRANSACTION == 0 {
            messages.push(wire::begin(lsn, 0, 7));
        }
        let texts = [
            (i * 7919 % ROWS).to_string(),
            (i % 100_000).to_string(),
            "sent".to_owned(),
            format!("{}.{:02}", i % 9973, i % 100),
            format!("2026-03-{:02} 10:{:02}:{:02}.{:06}+00", i % 28 + 1, i % 60, i % 59, i % 1_000_000),
            format!("{:032x} of {i}", i * 104_729),
        ];
        let row: Vec<_> = texts.iter().map(|text| Some(Some(text.as_str()))).collect();
        messages.push(match i % 20 {
            0..10 => wire::update(definition.oid, None, &row),
            10..19 => wire::insert(definition.oid, &row),
            _ => wire::delete(
                definition.oid,
                b'K',
                &[row[0], Some(None), Some(None), Some(None), Some(None), Some(None)],
            ),
        });
        if (i + 1) % IN_TRANSACTION == 0 {
            messages.push(wire::commit(lsn, lsn));
        }
    }
    messages
}

#[test]
#[ignore = "a measurement"]
fn decoding() {
    let (columns, types): (Vec<_>, Vec<_>) = columns().into_iter().unzip();
    let plain = tests::definition();
    let schema = TableSchema { columns, ..(*plain.schema).clone() };
    let base_types = types.iter().map(|(oid, _)| *oid).collect();
    let definition = Definition { schema: schema.into(), types, base_types, ..plain };
    let messages = messages(&definition);
    let durable = Position { epoch: 1, commit: 0, order: 0 };
    let mut assembler = Assembler::new(vec![Followed { definition, durable }], tests::known());
    let (mut rows, began, before) = (0, Instant::now(), allocations());
    let mut chunk = |assembler: &mut Assembler| {
        let (batches, _) = assembler.take().expect("whole batches");
        rows += batches.iter().map(|batch| batch.num_rows()).sum::<usize>();
    };
    for message in &messages {
        assembler.read(message, Lsn(1)).expect("in order");
        if assembler.rows() == IN_CHUNK {
            chunk(&mut assembler);
        }
    }
    chunk(&mut assembler);
    let (seconds, allocations) = (began.elapsed().as_secs_f64(), allocations() - before);
    assert_eq!(rows, ROWS);
    println!(
        r#"{{"rows": {rows}, "rows_per_second": {:.0}, "bytes_per_message": {}, "allocations_per_row": {:.2}}}"#,
        rows as f64 / seconds,
        messages.iter().map(Vec::len).sum::<usize>() / messages.len(),
        allocations as f64 / rows as f64,
    );
}
