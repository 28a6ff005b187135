//! Counting held against a naive model: a list of rows, of which many are equal.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{AsArray, Decimal128Array, Float64Array, StringArray, StructArray, TimestampMicrosecondArray},
    datatypes::Float64Type,
};
use proptest::prelude::*;

use super::*;
use crate::{Column, ColumnType, Origin, TableId, TableSchema, raw_field};

/// Bits of a float, so that the two zeros are two rows, a text, and the text of a number that its column may not hold.
type Row = (Option<u64>, Option<&'static str>, Option<&'static str>);
type Counts = BTreeMap<Row, i64>;

#[derive(Debug, Clone)]
enum Action {
    Insert(Row),
    /// Of some row that is there.
    Update(prop::sample::Index, Row),
    Delete(prop::sample::Index),
}

/// A change as the source sends it, and the rows it leaves.
#[derive(Debug, Clone)]
struct Sent {
    op: Op,
    row: Row,
    old: Option<Row>,
    after: Vec<Row>,
}

fn table() -> Arc<TableSchema> {
    let column =
        |name: &str, column_type| Column { name: name.into(), column_type, source_type: "any".into() };
    Arc::new(TableSchema {
        id: TableId::new("public", "t"),
        columns: vec![
            column("a", ColumnType::Float8),
            column("b", ColumnType::Text),
            column("c", ColumnType::Numeric { precision: 5, scale: 0 }),
        ],
        key: vec![0, 1, 2],
        origin: Origin { whole_rows: true, ..Origin::default() },
    })
}

fn play(mut rows: Vec<Row>, actions: &[Action]) -> Vec<Sent> {
    let mut sent = Vec::new();
    for action in actions {
        let (op, row, old) = match action {
            Action::Insert(row) => (Op::Insert, *row, None),
            Action::Update(which, row) if !rows.is_empty() => {
                (Op::Update, *row, Some(rows.swap_remove(which.index(rows.len()))))
            }
            Action::Delete(which) if !rows.is_empty() => {
                (Op::Delete, rows.swap_remove(which.index(rows.len())), None)
            }
            Action::Update(..) | Action::Delete(_) => continue,
        };
        if op != Op::Delete {
            rows.push(row);
        }
        // An update that keeps the row has no old one.
        sent.push(Sent { op, row, old: old.filter(|old| *old != row), after: rows.clone() });
    }
    sent
}

fn columns(rows: &[Option<Row>]) -> Vec<ArrayRef> {
    let floats = rows.iter().map(|row| row.and_then(|row| row.0).map(f64::from_bits));
    let texts = rows.iter().map(|row| row.and_then(|row| row.1));
    let numbers = rows.iter().map(|row| row.and_then(|row| row.2).and_then(|number| number.parse().ok()));
    let numbers = numbers.collect::<Decimal128Array>().with_precision_and_scale(5, 0).expect("small");
    vec![
        Arc::new(floats.collect::<Float64Array>()),
        Arc::new(texts.collect::<StringArray>()),
        Arc::new(numbers),
    ]
}

/// The texts beside the columns.
fn raw(rows: &[Option<Row>]) -> Option<ArrayRef> {
    let mut raw = RawBuilder::default();
    for (at, row) in rows.iter().enumerate() {
        if let Some(text) = row.and_then(|row| row.2).filter(|number| number.parse::<i128>().is_err()) {
            raw.push(at, "c", text);
        }
    }
    raw.finish(rows.len()).expect("texts")
}

/// Changes `first..` of the log, numbered by their place in it.
fn batch(first: usize, sent: &[Sent]) -> ChangeBatch {
    let table = table();
    let rows: Vec<_> = sent.iter().map(|sent| Some(sent.row)).collect();
    let old: Vec<_> = sent.iter().map(|sent| sent.old).collect();
    let there: Vec<bool> = old.iter().map(Option::is_some).collect();
    let old_keys = there.contains(&true).then(|| {
        let raw = raw(&old);
        let fields = table.key_arrow().fields().to_vec().into_iter();
        let fields = fields.chain(raw.iter().map(|_| Arc::new(raw_field()))).collect();
        let columns = columns(&old).into_iter().chain(raw).collect();
        StructArray::try_new(fields, columns, Some(there.into())).expect("columns of the key")
    });
    let zeros = Int64Array::from(vec![0; sent.len()]);
    ChangeBatch {
        epoch: 1,
        ops: sent.iter().map(|sent| sent.op).collect(),
        commits: zeros.clone(),
        orders: (first..first + sent.len()).map(|at| Some(at as i64)).collect(),
        lsns: zeros.clone(),
        xids: zeros,
        committed_at: TimestampMicrosecondArray::from(vec![0; sent.len()]).with_timezone("UTC"),
        values: RecordBatch::try_new(table.arrow(), columns(&rows))
            .and_then(|values| with_raw(values, raw(&rows)))
            .expect("columns of the table"),
        old_keys,
        unavailable: vec![None; 3],
        table,
    }
}

fn counts(rows: &[Row]) -> Counts {
    let mut counts = Counts::new();
    for row in rows {
        *counts.entry(*row).or_default() += 1;
    }
    counts
}

/// Cuts a list at some places into parts, none of them empty.
fn parts<'a, T>(list: &'a [T], cuts: &[prop::sample::Index]) -> Vec<&'a [T]> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(list.len() + 1)).chain([list.len()]).collect();
    ends.sort_unstable();
    let mut start = 0;
    let cut = |end| &list[std::mem::replace(&mut start, end)..end];
    ends.into_iter().map(cut).filter(|part| !part.is_empty()).collect()
}

fn row() -> impl Strategy<Value = Row> {
    let float = prop::sample::select(vec![None, Some(0.0_f64), Some(-0.0), Some(f64::NAN), Some(1.5)]);
    let text = prop::sample::select(vec![None, Some(""), Some("x")]);
    let number = prop::sample::select(vec![None, Some("1"), Some("NaN"), Some("Infinity")]);
    (float.prop_map(|float| float.map(f64::to_bits)), text, number)
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => row().prop_map(Action::Insert),
        3 => (any::<prop::sample::Index>(), row()).prop_map(|(which, row)| Action::Update(which, row)),
        2 => any::<prop::sample::Index>().prop_map(Action::Delete),
    ]
}

proptest! {
    #[test]
    fn counts_are_those_of_the_rows_however_the_run_is_cut(
        copied in prop::collection::vec(row(), 0..12),
        actions in prop::collection::vec(action(), 1..60),
        runs in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        batches in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let sent = play(copied.clone(), &actions);
        let mut lake = counts(&copied);
        let mut first = 0;
        for run in parts(&sent, &runs) {
            let mut at = first;
            let batches: Vec<_> = parts(run, &batches)
                .into_iter()
                .map(|part| {
                    at += part.len();
                    batch(at - part.len(), part)
                })
                .collect();
            let counted = count(&batches).expect("no truncate");
            let floats = counted.values.column(0).as_primitive::<Float64Type>();
            let texts = counted.values.column(1).as_string::<i32>();
            let mut touched = Counts::new();
            for (index, change) in counted.counts.values().iter().enumerate() {
                let text = texts.is_valid(index).then(|| if texts.value(index) == "x" { "x" } else { "" });
                let number = match raw_text(raw_of(&counted.values), index, "c") {
                    Some(text) => Some(if text == "NaN" { "NaN" } else { "Infinity" }),
                    None => counted.values.column(2).is_valid(index).then_some("1"),
                };
                let row = (floats.is_valid(index).then(|| floats.value(index).to_bits()), text, number);
                prop_assert!(*change != 0 && touched.insert(row, *change).is_none(), "{row:?} twice or for nothing");
                let order = counted.orders.value(index) as usize;
                prop_assert!(sent[order].row == row || sent[order].old == Some(row), "another change's position");
                let now = lake.entry(row).or_default();
                *now += change;
                prop_assert!(*now >= 0);
                if *now == 0 {
                    lake.remove(&row);
                }
            }
            first = at;
            prop_assert_eq!(&lake, &counts(&sent[first - 1].after));
        }
    }
}

#[test]
fn a_truncate_is_not_counted() {
    let sent = Sent { op: Op::Truncate, row: (None, None, None), old: None, after: Vec::new() };
    assert!(matches!(count(&[batch(0, &[sent])]), Err(FoldError::Truncate { .. })));
}
