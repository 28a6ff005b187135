//! Folding held against a naive model of a Postgres table.

use std::collections::BTreeMap;

use arrow::{
    array::{
        ArrayRef, AsArray, BooleanArray, Decimal128Array, Int32Array, Int64Array, StringArray, StructArray,
        TimestampMicrosecondArray,
    },
    datatypes::{DataType, Decimal128Type, Int32Type},
};
use proptest::prelude::*;

use super::*;
use crate::{Column, ColumnType, LEAF, TableId, coalesce, raw_entries};

type Key = (i32, String);
/// Two columns beside the key; values never repeat, so a wrong source shows.
type Row = (Option<String>, Option<String>);
type Model = BTreeMap<Key, Row>;

#[derive(Debug, Clone)]
enum Action {
    Insert(Key),
    /// The mask says which columns stay as they are; they are not sent.
    Update(Key, [bool; 2]),
    Rename(Key, Key, [bool; 2]),
    /// The two rows exchange their keys, by way of a third.
    Swap(Key, Key),
    Delete(Key),
    Truncate,
    /// Of one partition: a region is one.
    TruncateLeaf(String),
}

/// One change as the source sends it.
#[derive(Debug, Clone)]
struct Sent {
    op: Op,
    key: Option<Key>,
    old_key: Option<Key>,
    values: Row,
    unavailable: [bool; 2],
    /// The partition that was emptied.
    leaf: Option<String>,
}

fn table() -> Arc<TableSchema> {
    let column =
        |name: &str, column_type| Column { name: name.into(), column_type, source_type: "any".into() };
    // The key's columns lie apart and out of order.
    Arc::new(TableSchema {
        id: TableId::new("public", "t"),
        columns: vec![
            column("region", ColumnType::Text),
            column("a", ColumnType::Text),
            column("id", ColumnType::Int4),
            // Odd numbers do not fit it, as it happens.
            column("b", ColumnType::Numeric { precision: 20, scale: 0 }),
            column(LEAF, ColumnType::Text),
        ],
        key: vec![2, 0],
        origin: Default::default(),
    })
}

/// Plays actions on the model, as far as they are possible there, and says what the source sends.
fn play(model: &mut Model, actions: &[Action]) -> Vec<Sent> {
    let mut sent = Vec::new();
    let mut fresh = 0;
    for action in actions {
        let mut value = || {
            fresh += 1;
            (fresh % 5 > 0).then(|| format!("v{fresh}"))
        };
        match action {
            Action::Insert(key) if !model.contains_key(key) => {
                let row = (value(), value());
                model.insert(key.clone(), row.clone());
                sent.push(Sent {
                    op: Op::Insert,
                    key: Some(key.clone()),
                    old_key: None,
                    values: row,
                    unavailable: [false; 2],
                    leaf: None,
                });
            }
            Action::Update(key, keep) => {
                if let Some(row) = model.get_mut(key) {
                    sent.push(update(row, key, None, *keep, value(), value()));
                }
            }
            Action::Rename(old, new, keep) if !model.contains_key(new) => {
                if let Some(mut row) = model.remove(old) {
                    sent.push(update(&mut row, new, Some(old), *keep, value(), value()));
                    model.insert(new.clone(), row);
                }
            }
            Action::Swap(a, b) if a != b && model.contains_key(a) && model.contains_key(b) => {
                let aside = (-1, "aside".to_owned());
                for (old, new) in [(a, &aside), (b, a), (&aside, b)] {
                    if let Some(mut row) = model.remove(old) {
                        sent.push(update(&mut row, new, Some(old), [true; 2], None, None));
                        model.insert(new.clone(), row);
                    }
                }
            }
            Action::Delete(key) if model.remove(key).is_some() => sent.push(Sent {
                op: Op::Delete,
                key: Some(key.clone()),
                old_key: None,
                values: (None, None),
                unavailable: [false; 2],
                leaf: None,
            }),
            Action::Truncate => {
                model.clear();
                sent.push(truncate(None));
            }
            Action::TruncateLeaf(region) => {
                model.retain(|key, _| key.1 != *region);
                sent.push(truncate(Some(region)));
            }
            _ => {}
        }
    }
    sent
}

fn truncate(leaf: Option<&String>) -> Sent {
    Sent {
        op: Op::Truncate,
        key: None,
        old_key: None,
        values: (None, None),
        unavailable: [false; 2],
        leaf: leaf.cloned(),
    }
}

fn update(
    row: &mut Row,
    key: &Key,
    old: Option<&Key>,
    keep: [bool; 2],
    a: Option<String>,
    b: Option<String>,
) -> Sent {
    if !keep[0] {
        row.0 = a;
    }
    if !keep[1] {
        row.1 = b;
    }
    let sent = |kept: bool, value: &Option<String>| if kept { None } else { value.clone() };
    Sent {
        op: Op::Update,
        key: Some(key.clone()),
        old_key: old.cloned(),
        values: (sent(keep[0], &row.0), sent(keep[1], &row.1)),
        unavailable: keep,
        leaf: None,
    }
}

fn batch(sent: &[(Position, Sent)]) -> ChangeBatch {
    let table = table();
    let text = |pick: fn(&Sent) -> Option<String>| -> ArrayRef {
        Arc::new(sent.iter().map(|(_, s)| pick(s)).collect::<StringArray>())
    };
    let ids: ArrayRef =
        Arc::new(sent.iter().map(|(_, s)| s.key.as_ref().map(|k| k.0)).collect::<Int32Array>());
    let values = vec![
        text(|s| s.key.as_ref().map(|k| k.1.clone())),
        text(|s| s.values.0.clone()),
        ids,
        numbers(sent),
        text(|s| match (&s.key, s.op) {
            (None, _) => s.leaf.clone(),
            (Some(_), Op::Delete) => None,
            (Some(key), _) => Some(key.1.clone()),
        }),
    ];
    let mut raw = RawBuilder::default();
    for (row, (_, sent)) in sent.iter().enumerate() {
        if let (Some(value), None) = (&sent.values.1, even(sent)) {
            raw.push(row, "b", value.as_str());
        }
    }
    let old_keys = sent.iter().any(|(_, s)| s.old_key.is_some()).then(|| {
        let ids: Int32Array = sent.iter().map(|(_, s)| s.old_key.as_ref().map(|k| k.0)).collect();
        let regions: StringArray =
            sent.iter().map(|(_, s)| s.old_key.as_ref().map(|k| k.1.clone())).collect();
        let present: Vec<bool> = sent.iter().map(|(_, s)| s.old_key.is_some()).collect();
        StructArray::new(
            table.key_arrow().fields().clone(),
            vec![Arc::new(ids), Arc::new(regions)],
            Some(present.into()),
        )
    });
    let mask = |column: usize| {
        let mask: BooleanArray = sent.iter().map(|(_, s)| Some(s.unavailable[column])).collect();
        (mask.true_count() > 0).then_some(mask)
    };
    let number = |pick: fn(&Position) -> i64| sent.iter().map(|(p, _)| Some(pick(p))).collect::<Int64Array>();
    ChangeBatch {
        epoch: sent.first().map_or(1, |(p, _)| p.epoch),
        ops: sent.iter().map(|(_, s)| s.op).collect(),
        commits: number(|p| p.commit),
        orders: number(|p| p.order),
        lsns: number(|p| p.commit),
        xids: number(|p| p.commit),
        committed_at: TimestampMicrosecondArray::from_value(0, sent.len()),
        values: with_raw(
            RecordBatch::try_new(table.arrow(), values).unwrap(),
            raw.finish(sent.len()).unwrap(),
        )
        .unwrap(),
        old_keys,
        unavailable: vec![None, mask(0), None, mask(1), None],
        table,
    }
}

/// The number in `v6`, if it is even.
fn even(sent: &Sent) -> Option<i128> {
    let number: i128 = sent.values.1.as_ref()?.strip_prefix('v')?.parse().ok()?;
    (number % 2 == 0).then_some(number)
}

fn numbers(sent: &[(Position, Sent)]) -> ArrayRef {
    let numbers: Decimal128Array = sent.iter().map(|(_, s)| even(s)).collect();
    Arc::new(numbers.with_precision_and_scale(20, 0).unwrap())
}

/// Transactions of up to three changes, cut into batches of the given lengths.
fn batches(sent: &[Sent], lengths: &[usize]) -> Vec<ChangeBatch> {
    let placed: Vec<(Position, Sent)> = sent
        .iter()
        .enumerate()
        .map(|(i, s)| {
            (Position { epoch: 1, commit: 100 + (i / 3) as i64, order: 1 + (i % 3) as i64 }, s.clone())
        })
        .collect();
    let mut rest = placed.as_slice();
    let mut batches = Vec::new();
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            return batches;
        }
        let (head, tail) = rest.split_at((*length).min(rest.len()));
        batches.push(batch(head));
        rest = tail;
    }
    batches
}

fn rows(values: &RecordBatch) -> Vec<(Key, Row)> {
    let text = |row: usize, column: usize| {
        let column = values.column(column).as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    let ids = values.column(2).as_primitive::<Int32Type>();
    let numbers = values.column(3).as_primitive::<Decimal128Type>();
    let number = |row: usize| match numbers.is_valid(row) {
        true => Some(format!("v{}", numbers.value(row))),
        false => raw_text(raw_of(values), row, "b").map(str::to_owned),
    };
    (0..values.num_rows())
        .map(|row| ((ids.value(row), text(row, 0).unwrap()), (text(row, 1), number(row))))
        .collect()
}

fn as_batch(stored: &Model) -> RecordBatch {
    let sent: Vec<(Position, Sent)> = stored
        .iter()
        .map(|(key, row)| {
            let sent = Sent {
                op: Op::Read,
                key: Some(key.clone()),
                old_key: None,
                values: row.clone(),
                unavailable: [false; 2],
                leaf: None,
            };
            (Position::default(), sent)
        })
        .collect();
    batch(&sent).values
}

fn apply(stored: &mut Model, run: &[ChangeBatch]) {
    for segment in split_at_truncates(run) {
        match segment {
            Segment::Truncate(_) => stored.clear(),
            Segment::TruncateLeaves(_, leaves) => stored.retain(|key, _| !leaves.contains(&key.1)),
            Segment::Changes(changes) => {
                let folded = fold(&changes).unwrap().resolve(&as_batch(stored)).unwrap();
                for (row, (key, values)) in rows(&folded.values).into_iter().enumerate() {
                    if folded.deleted.value(row) {
                        stored.remove(&key);
                    } else {
                        assert_eq!(folded.values.column(4).as_string::<i32>().value(row), key.1);
                        stored.insert(key, values);
                    }
                }
            }
        }
    }
}

fn key() -> impl Strategy<Value = Key> {
    (0..4_i32, prop_oneof!["n", "s"]).prop_map(|(id, region)| (id, region))
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => key().prop_map(Action::Insert),
        6 => (key(), any::<[bool; 2]>()).prop_map(|(k, m)| Action::Update(k, m)),
        4 => (key(), key(), any::<[bool; 2]>()).prop_map(|(a, b, m)| Action::Rename(a, b, m)),
        2 => (key(), key()).prop_map(|(a, b)| Action::Swap(a, b)),
        3 => key().prop_map(Action::Delete),
        1 => Just(Action::Truncate),
        1 => prop_oneof!["n", "s"].prop_map(Action::TruncateLeaf),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn folding_and_applying_equals_the_model(
        before in prop::collection::vec(key().prop_map(Action::Insert), 0..6),
        actions in prop::collection::vec(action(), 0..60),
        lengths in prop::collection::vec(1..9_usize, 1..5),
        runs in 1..5_usize,
    ) {
        let mut model = Model::new();
        play(&mut model, &before);
        let mut stored = model.clone();
        let sent = batches(&play(&mut model, &actions), &lengths);
        for run in sent.chunks(sent.len().div_ceil(runs).max(1)) {
            apply(&mut stored, run);
        }
        prop_assert_eq!(stored, model);
    }

    #[test]
    fn each_key_comes_once_with_its_last_position(actions in prop::collection::vec(action(), 1..40)) {
        let mut model = Model::new();
        let truncates = |action: &Action| matches!(action, Action::Truncate | Action::TruncateLeaf(_));
        let actions: Vec<_> = actions.into_iter().filter(|action| !truncates(action)).collect();
        let sent = play(&mut model, &actions);
        prop_assume!(!sent.is_empty());
        let run = batches(&sent, &[3]);
        let folded = fold(&run).unwrap();
        let mut keys: Vec<Key> = rows(&folded.values).into_iter().map(|(key, _)| key).collect();
        for (row, key) in keys.iter().enumerate() {
            let last = sent.iter().rposition(|s| s.key.as_ref() == Some(key) || s.old_key.as_ref() == Some(key)).unwrap();
            prop_assert_eq!(folded.commits.value(row), 100 + (last / 3) as i64);
            prop_assert_eq!(folded.orders.value(row), 1 + (last % 3) as i64);
        }
        keys.sort();
        let count = keys.len();
        keys.dedup();
        prop_assert_eq!(keys.len(), count);
    }

    #[test]
    fn skipping_leaves_exactly_what_lies_after(
        actions in prop::collection::vec(action(), 0..40),
        lengths in prop::collection::vec(1..9_usize, 1..4),
        commit in 99..115_i64,
        order in prop_oneof![0..5_i64, Just(i64::MAX)],
    ) {
        let durable = Position { epoch: 1, commit, order };
        let run = batches(&play(&mut Model::new(), &actions), &lengths);
        let positions = |run: &[ChangeBatch]| -> Vec<Position> {
            run.iter().flat_map(|b| (0..b.num_rows()).map(|row| b.position(row))).collect()
        };
        let expected: Vec<Position> = positions(&run).into_iter().filter(|p| *p > durable).collect();
        let left = after(&run, durable);
        prop_assert_eq!(positions(&left), expected);
        prop_assert!(left.iter().all(|b| b.num_rows() > 0));
    }

    #[test]
    fn coalesced_batches_hold_the_same_changes(
        actions in prop::collection::vec(action(), 1..40),
        lengths in prop::collection::vec(1..9_usize, 1..4),
    ) {
        let run = batches(&play(&mut Model::new(), &actions), &lengths);
        let joined = coalesce(&run).unwrap();
        prop_assert!(joined.len() <= run.len());
        // Cut at every change, both must give the same.
        let single = |run: &[ChangeBatch]| -> Vec<String> {
            run.iter().flat_map(|b| (0..b.num_rows()).map(|row| change_text(&b.slice(row, 1)))).collect()
        };
        prop_assert_eq!(single(&run), single(&joined));
    }
}

/// All that a batch of one change holds, whether a part is there or would say nothing.
fn change_text(change: &ChangeBatch) -> String {
    let unavailable: Vec<bool> =
        change.unavailable.iter().map(|mask| mask.as_ref().is_some_and(|mask| mask.value(0))).collect();
    let old_key = change.old_keys.as_ref().filter(|keys| keys.is_valid(0));
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {unavailable:?} {old_key:?}",
        change.position(0),
        change.ops,
        change.lsns,
        change.xids,
        change.committed_at,
        &change.values.columns()[..change.table.columns.len()],
        raw_of(&change.values).map(|raw| raw_entries(raw, 0)),
    )
}

#[test]
fn a_value_kept_through_key_changes_is_asked_of_the_first_key() {
    let mut model = Model::new();
    let key = |id| (id, "n".to_owned());
    play(&mut model, &[Action::Insert(key(1))]);
    let stored = as_batch(&model);
    let keep = [true, false];
    let actions = [
        Action::Rename(key(1), key(2), keep),
        Action::Update(key(2), keep),
        Action::Rename(key(2), key(3), keep),
    ];
    let sent = play(&mut model, &actions);
    let folded = fold(&batches(&sent, &[2])).unwrap();
    assert_eq!(folded.stored_keys.num_rows(), 1);
    assert_eq!(folded.stored_keys.column(0).as_primitive::<Int32Type>().value(0), 1);
    assert_eq!(folded.unresolved_columns().collect::<Vec<_>>(), [1]);
    let resolved = folded.resolve(&stored).unwrap();
    assert_eq!(rows(&resolved.values)[2], model.into_iter().next().unwrap());
}

#[test]
fn halves_are_the_whole() {
    let mut model = Model::new();
    let actions: Vec<_> = (0..7).map(|id| Action::Insert((id, "n".to_owned()))).collect();
    let run = batches(&play(&mut model, &actions), &[3, 1, 3]);
    let (first, rest) = halves(&run).expect("there are several");
    let positions = |run: &[ChangeBatch]| -> Vec<Position> {
        run.iter().flat_map(|batch| (0..batch.num_rows()).map(|row| batch.position(row))).collect()
    };
    assert_eq!((positions(&first).len(), positions(&rest).len()), (3, 4));
    assert_eq!([positions(&first), positions(&rest)].concat(), positions(&run));
    assert!(halves(&[run[1].clone()]).is_none());
}

#[test]
fn partitions_emptied_in_a_row_are_one_segment() {
    let leaf = |name: &str| Action::TruncateLeaf(name.to_owned());
    let actions =
        [leaf("s"), leaf("n"), leaf("s"), Action::Insert((1, "n".to_owned())), leaf("n"), Action::Truncate];
    let sent = play(&mut Model::new(), &actions);
    let at = |order: i64| Position { epoch: 1, commit: 100 + order / 3, order: 1 + order % 3 };
    let all = split_at_truncates(&batches(&sent, &[2]));
    match &all[..] {
        [
            Segment::TruncateLeaves(first, both),
            Segment::Changes(_),
            Segment::TruncateLeaves(second, one),
            Segment::Truncate(last),
        ] => {
            assert_eq!((both.len(), one.len()), (2, 1));
            assert_eq!([*first, *second, *last], [at(2), at(4), at(5)]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_no_source_sends_is_an_error() {
    let key = (1, "n".to_owned());
    let mut model = Model::from([(key.clone(), (None, None))]);
    let kept = play(&mut model, &[Action::Update(key.clone(), [true, true])]);
    let gone = fold(&batches(&kept, &[1])).unwrap().resolve(&as_batch(&Model::new()));
    assert!(matches!(gone, Err(FoldError::NotStored { missing: 1, .. })));

    let mut sent = play(&mut model, &[Action::Delete(key)]);
    sent.extend(kept);
    assert!(matches!(fold(&batches(&sent, &[2])), Err(FoldError::RowGone { .. })));

    let truncate = play(&mut model, &[Action::Truncate]);
    assert!(matches!(fold(&batches(&truncate, &[1])), Err(FoldError::Truncate { .. })));
}

#[test]
fn times_and_decimals_survive_as_key_columns() {
    let time = ColumnType::Timestamp { zoned: true };
    let types = [time, ColumnType::Numeric { precision: 10, scale: 2 }, ColumnType::Uuid];
    let columns: Vec<Column> = types
        .iter()
        .enumerate()
        .map(|(i, t)| Column { name: format!("c{i}"), column_type: *t, source_type: "any".into() })
        .collect();
    let table = Arc::new(TableSchema {
        id: TableId::new("public", "t"),
        columns,
        key: vec![2, 1, 0],
        origin: Default::default(),
    });
    let values: Vec<ArrayRef> = table
        .arrow()
        .fields()
        .iter()
        .map(|field| match field.data_type() {
            DataType::Utf8 => Arc::new(StringArray::from(vec!["u", "u"])) as ArrayRef,
            other => arrow::compute::cast(&Int64Array::from(vec![5, 5]), other).unwrap(),
        })
        .collect();
    let values = RecordBatch::try_new(table.arrow(), values).unwrap();
    let two = Int64Array::from(vec![1, 2]);
    let run = ChangeBatch {
        epoch: 1,
        ops: vec![Op::Insert, Op::Update],
        commits: two.clone(),
        orders: two.clone(),
        lsns: two.clone(),
        xids: two,
        committed_at: TimestampMicrosecondArray::from(vec![1, 2]),
        values: values.clone(),
        old_keys: None,
        unavailable: vec![None; 3],
        table,
    };
    assert_eq!(fold(&[run]).unwrap().values, values.slice(1, 1));
}
