use arrow::array::{Array, AsArray};
use futures::FutureExt;
use lakeward_change::{Column, ColumnType, LEAF, Leaf, TableSchema};
use proptest::prelude::*;

use super::*;
use crate::{
    LetterReader,
    letter::MOST_LETTERS,
    protocol::{Relation, RelationColumn},
    test_messages::{self as wire, Value},
};

const CAPTURED: u32 = 11;
const OTHER: u32 = 12;
const PART: u32 = 13;

/// `s.t(id text primary key, a text, b text)`.
pub(super) fn definition() -> Definition {
    let column =
        |name: &str| Column { name: name.into(), column_type: ColumnType::Text, source_type: "text".into() };
    let schema = TableSchema {
        id: TableId::new("s", "t"),
        columns: ["id", "a", "b"].map(column).to_vec(),
        key: vec![0],
        origin: Default::default(),
    };
    Definition::plain(schema, CAPTURED, vec![25; 3])
}

/// Followed from a position of epoch 3 on.
fn followed(commit: i64, order: i64) -> Followed {
    Followed { definition: definition(), durable: Position { epoch: 3, commit, order } }
}

/// The catalog was read before transaction 100 began.
pub(super) fn known() -> Known {
    Known::new([OTHER].into(), "90:100:").expect("a snapshot")
}

/// The same table by partitions, one of them [`PART`].
fn parted() -> Followed {
    let mut followed = followed(0, 0);
    let definition = &mut followed.definition;
    let mut schema = TableSchema::clone(&definition.schema);
    schema.columns.push(Column { name: LEAF.into(), ..schema.columns[0].clone() });
    schema.origin.leaves = vec![Leaf { table: PART, name: "s.part".into(), filled: false }];
    definition.types.push((25, -1));
    definition.base_types.push(25);
    definition.schema = schema.into();
    definition.partitioned = true;
    followed
}

fn described(id: u32, name: &str) -> Relation {
    let column =
        |name: &str| RelationColumn { key: name == "id", name: name.into(), type_oid: 25, type_modifier: -1 };
    Relation {
        id,
        schema: "s".into(),
        name: name.into(),
        identity: b'd',
        columns: ["id", "a", "b"].map(column).to_vec(),
    }
}

struct Feed(Assembler);

impl Feed {
    fn new() -> Self {
        let mut feed = Self(Assembler::new(vec![followed(0, 0)], known()));
        feed.send(&wire::relation(&described(CAPTURED, "t"))).expect("known");
        feed.send(&wire::relation(&described(OTHER, "other"))).expect("ignored");
        feed
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), CdcError> {
        self.0.read(bytes, Lsn(77))
    }

    fn rows(&mut self) -> Vec<Row> {
        let (batches, _) = self.0.take().expect("whole batches");
        assert!(batches.len() <= 1);
        batches.iter().flat_map(rows_of).collect()
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Row {
    op: Op,
    commit: i64,
    order: i64,
    values: Vec<Option<String>>,
    unavailable: Vec<bool>,
    old_key: Option<String>,
}

fn rows_of(batch: &ChangeBatch) -> Vec<Row> {
    assert_eq!(batch.epoch, 3);
    let text = |array: &dyn Array, i: usize| {
        (!array.is_null(i)).then(|| array.as_string::<i32>().value(i).to_owned())
    };
    let row = |i: usize| Row {
        op: batch.ops[i],
        commit: batch.commits.value(i),
        order: batch.orders.value(i),
        values: batch.values.columns().iter().map(|column| text(column, i)).collect(),
        unavailable: batch.unavailable.iter().map(|m| m.as_ref().is_some_and(|m| m.value(i))).collect(),
        old_key: batch.old_keys.as_ref().filter(|old| old.is_valid(i)).and_then(|old| text(old.column(0), i)),
    };
    (0..batch.num_rows()).map(row).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Insert(String, [Option<String>; 2]),
    Update { old: Option<String>, new: String, values: [Option<Option<String>>; 2] },
    Delete(String),
    Truncate { both: bool },
    OfOther,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = "[a-d]";
    let value = || prop::option::of("[a-z]{0,3}");
    let step = prop_oneof![
        (id, [value(), value()]).prop_map(|(id, values)| Step::Insert(id, values)),
        (prop::option::of(id), id, [prop::option::of(value()), prop::option::of(value())])
            .prop_map(|(old, new, values)| Step::Update { old, new, values }),
        id.prop_map(Step::Delete),
        any::<bool>().prop_map(|both| Step::Truncate { both }),
        Just(Step::OfOther),
    ];
    prop::collection::vec(step, 0..8)
}

fn value(value: &Option<String>) -> Value<'_> {
    Some(value.as_deref())
}

fn encode(step: &Step) -> Vec<u8> {
    match step {
        Step::Insert(id, [a, b]) => wire::insert(CAPTURED, &[Some(Some(id)), value(a), value(b)]),
        Step::Update { old, new, values: [a, b] } => {
            let old = old.as_ref().map(|id| [Some(Some(id.as_str())), Some(None), Some(None)]);
            let row = [Some(Some(new.as_str())), a.as_ref().and_then(value), b.as_ref().and_then(value)];
            wire::update(CAPTURED, old.as_ref().map(|row| (b'K', &row[..])), &row)
        }
        Step::Delete(id) => wire::delete(CAPTURED, b'K', &[Some(Some(id)), Some(None), Some(None)]),
        Step::Truncate { both: true } => wire::truncate(&[OTHER, CAPTURED]),
        Step::Truncate { both: false } => wire::truncate(&[CAPTURED]),
        Step::OfOther => wire::insert(OTHER, &[None]),
    }
}

/// What a step becomes, and how many ordinals it takes.
fn expected(step: &Step, commit: i64, order: i64) -> (Option<Row>, i64) {
    let row = |op, order, values: Vec<Option<String>>| Row {
        op,
        commit,
        order,
        values,
        unavailable: vec![false; 3],
        old_key: None,
    };
    match step.clone() {
        Step::Insert(id, [a, b]) => (Some(row(Op::Insert, order, vec![Some(id), a, b])), 1),
        Step::Update { old, new, values: [a, b] } => {
            let changed = old.filter(|old| *old != new);
            let unavailable = vec![false, a.is_none(), b.is_none()];
            let row = row(Op::Update, order, vec![Some(new), a.flatten(), b.flatten()]);
            (Some(Row { unavailable, old_key: changed, ..row }), 1)
        }
        Step::Delete(id) => (Some(row(Op::Delete, order, vec![Some(id), None, None])), 1),
        Step::Truncate { both: true } => (Some(row(Op::Truncate, order + 1, vec![None; 3])), 2),
        Step::Truncate { both: false } => (Some(row(Op::Truncate, order, vec![None; 3])), 1),
        Step::OfOther => (None, 1),
    }
}

proptest! {
    #[test]
    fn changes_arrive_as_sent_however_they_are_cut(
        transactions in prop::collection::vec(steps(), 0..5),
        cuts in prop::collection::vec(any::<bool>(), 40),
    ) {
        let mut feed = Feed::new();
        let (mut read, mut sent) = (Vec::new(), Vec::new());
        let mut cuts = cuts.into_iter().cycle();
        for (index, steps) in (1..).zip(&transactions) {
            let commit = index * 100;
            feed.send(&wire::begin(Lsn(commit), 0, 5)).expect("in order");
            let commit = i64::try_from(commit).expect("small");
            let mut order = 1;
            for step in steps {
                feed.send(&encode(step)).expect("valid");
                let (row, ordinals) = expected(step, commit, order);
                order += ordinals;
                sent.extend(row);
                if cuts.next() == Some(true) {
                    read.extend(feed.rows());
                }
            }
            feed.send(&wire::commit(Lsn(0), Lsn(0))).expect("in order");
        }
        read.extend(feed.rows());
        prop_assert_eq!(read, sent);
    }
}

#[test]
fn a_whole_old_row_stands_in_for_unchanged_values() {
    let mut feed = Feed::new();
    feed.send(&wire::begin(Lsn(9), 0, 5)).expect("in order");
    let old = [Some(Some("1")), Some(Some("long")), Some(None)];
    feed.send(&wire::update(CAPTURED, Some((b'O', &old)), &[Some(Some("2")), None, Some(Some("x"))]))
        .expect("valid");
    // A key that is kept out of line comes with the old key only.
    let old = [Some(Some("3")), Some(None), Some(None)];
    feed.send(&wire::update(CAPTURED, Some((b'K', &old)), &[None, None, Some(None)])).expect("valid");
    let rows = feed.rows();
    assert_eq!(rows[0].values, [Some("2".into()), Some("long".into()), Some("x".into())]);
    assert_eq!((rows[0].unavailable.contains(&true), rows[0].old_key.as_deref()), (false, Some("1")));
    assert_eq!(rows[1].values, [Some("3".into()), None, None]);
    assert_eq!((rows[1].unavailable.as_slice(), &rows[1].old_key), (&[false, true, false][..], &None));
}

#[test]
fn a_changed_definition_is_named() {
    type Change = (&'static str, fn(&mut Relation));
    let cases: [Change; 7] = [
        ("column c was added", |r| {
            r.columns.push(RelationColumn { name: "c".into(), ..r.columns[1].clone() })
        }),
        ("column a is gone", |r| drop(r.columns.remove(1))),
        ("column a is no longer text", |r| r.columns[1].type_oid = 23),
        ("its REPLICA IDENTITY is another one", |r| r.identity = b'n'),
        ("its key has other columns", |r| r.columns[1].key = true),
        ("it was renamed to s.u", |r| r.name = "u".into()),
        ("it was dropped and created anew", |r| r.id = 999),
    ];
    for (expected, change) in cases {
        let mut relation = described(CAPTURED, "t");
        change(&mut relation);
        let mut feed = Feed::new();
        feed.send(&wire::relation(&relation)).expect("valid");
        assert!(!feed.0.has_stopped(), "before there is a change");
        feed.send(&wire::begin(Lsn(9), 0, 5)).expect("valid");
        let insert = wire::insert(relation.id, &[Some(Some("1")), Some(None), Some(None)]);
        feed.send(&insert).expect("valid");
        let stopped = feed.0.take_stopped();
        assert_eq!((stopped.len(), &stopped[0].id), (1, &TableId::new("s", "t")));
        assert!(stopped[0].reason.ends_with(expected), "{expected}: {}", stopped[0].reason);
        assert_eq!((stopped[0].cause, stopped[0].complete_to), (StopCause::Definition, Lsn(9)));
        // Told once; and there is no way back to the old form.
        feed.send(&wire::relation(&described(CAPTURED, "t"))).expect("valid");
        feed.send(&wire::insert(CAPTURED, &[Some(Some("1")), Some(None), Some(None)])).expect("valid");
        assert!(!feed.0.has_stopped() && feed.rows().is_empty());
    }
}

#[test]
fn what_is_durable_is_passed_over_whatever_its_definition_was() {
    let mut feed = Feed(Assembler::new(vec![followed(9, 2)], known()));
    let mut older = described(CAPTURED, "t");
    older.columns[1].type_oid = 23;
    feed.send(&wire::relation(&older)).expect("valid");
    feed.send(&wire::begin(Lsn(9), 0, 5)).expect("valid");
    let row = [Some(Some("1")), Some(Some("7")), Some(None)];
    feed.send(&wire::insert(CAPTURED, &row)).expect("valid");
    feed.send(&wire::insert(CAPTURED, &row)).expect("valid");
    assert!(!feed.0.has_stopped() && feed.rows().is_empty());
    feed.send(&wire::relation(&described(CAPTURED, "t"))).expect("valid");
    assert!(feed.0.take_described_anew() && !feed.0.take_described_anew());
    feed.send(&wire::insert(CAPTURED, &row)).expect("valid");
    let rows = feed.rows();
    assert_eq!((rows.len(), rows[0].order), (1, 3));
}

#[test]
fn rows_from_before_a_column_have_null_there_and_columns_go_by_name() {
    let mut feed = Feed::new();
    let mut older = described(CAPTURED, "t");
    older.columns.truncate(2);
    older.columns.swap(0, 1);
    feed.send(&wire::relation(&older)).expect("valid");
    feed.send(&wire::begin(Lsn(9), 0, 5)).expect("valid");
    feed.send(&wire::insert(CAPTURED, &[Some(Some("x")), Some(Some("1"))])).expect("valid");
    assert_eq!(feed.rows()[0].values, [Some("1".into()), Some("x".into()), None]);
}

#[test]
fn partitions_are_one_table_that_knows_them() {
    let mut feed = Feed(Assembler::new(vec![parted()], known()));
    let mut part = described(PART, "part");
    part.columns.reverse();
    feed.send(&wire::relation(&part)).expect("known");
    feed.send(&wire::relation(&described(OTHER, "other"))).expect("ignored");
    feed.send(&wire::begin(Lsn(9), 0, 5)).expect("valid");
    let row = [Some(Some("y")), Some(Some("x")), Some(Some("1"))];
    feed.send(&wire::insert(PART, &row)).expect("valid");
    feed.send(&wire::update(PART, None, &[Some(Some("z")), None, Some(Some("1"))])).expect("valid");
    feed.send(&wire::delete(PART, b'K', &[Some(None), Some(None), Some(Some("1"))])).expect("valid");
    feed.send(&wire::truncate(&[OTHER, PART])).expect("valid");
    let seen: Vec<_> = feed.rows().into_iter().map(|row| (row.op, row.order, row.values)).collect();
    let values = |values: [&str; 4]| values.map(|v| (!v.is_empty()).then(|| v.to_owned())).to_vec();
    let expected = [
        (Op::Insert, 1, values(["1", "x", "y", "s.part"])),
        (Op::Update, 2, values(["1", "", "z", "s.part"])),
        (Op::Delete, 3, values(["1", "", "", ""])),
        (Op::Truncate, 5, values(["", "", "", "s.part"])),
    ];
    assert_eq!(seen, expected);
    // Under the table's own name nothing says which partition it is.
    feed.send(&wire::relation(&described(CAPTURED, "t"))).expect("valid");
    feed.send(&wire::insert(CAPTURED, &[Some(Some("2")), Some(None), Some(None)])).expect("valid");
    assert!(feed.0.take_stopped()[0].reason.ends_with("did not tell of its partitions"));
}

#[test]
fn a_relation_that_came_after_the_catalog_ends_the_stream() {
    for (xid, came_later) in [(99, false), (100, true)] {
        let mut feed = Feed::new();
        feed.send(&wire::begin(Lsn(9), 0, xid)).expect("valid");
        let told = feed.send(&wire::relation(&described(77, "t_later")));
        assert_eq!(matches!(told, Err(CdcError::NewRelation { .. })), came_later);
    }
}

#[test]
fn without_a_key_the_whole_row_before_is_kept() {
    let mut definition = definition();
    let mut schema = (*definition.schema).clone();
    (schema.key, schema.origin.whole_rows) = (vec![0, 1, 2], true);
    (definition.schema, definition.identity) = (schema.into(), b'f');
    let durable = Position { epoch: 3, commit: 0, order: 0 };
    let mut feed = Feed(Assembler::new(vec![Followed { definition, durable }], known()));
    let mut relation = described(CAPTURED, "t");
    relation.identity = b'f';
    relation.columns.iter_mut().for_each(|column| column.key = true);
    feed.send(&wire::relation(&relation)).expect("valid");
    feed.send(&wire::begin(Lsn(9), 0, 5)).expect("valid");
    let before = [Some(Some("1")), Some(Some("long")), Some(None)];
    // A large value that stayed is sent with the row before alone.
    feed.send(&wire::update(CAPTURED, Some((b'O', &before)), &[Some(Some("2")), None, Some(None)]))
        .expect("valid");
    feed.send(&wire::update(CAPTURED, Some((b'O', &before)), &before)).expect("valid");
    feed.send(&wire::delete(CAPTURED, b'O', &before)).expect("valid");
    let rows = feed.rows();
    let texts = |id: &str| [Some(id.to_owned()), Some("long".to_owned()), None];
    assert_eq!(rows.iter().map(|row| row.old_key.as_deref()).collect::<Vec<_>>(), [Some("1"), None, None]);
    assert_eq!([&rows[0].values, &rows[2].values], [&texts("2"), &texts("1")]);
    assert!(rows.iter().all(|row| row.unavailable == [false; 3]));
    feed.send(&wire::update(CAPTURED, None, &before)).expect("no error");
    assert!(feed.0.take_letters()[0].reason.ends_with("lacks a value of its key"));
}

#[test]
fn a_letter_of_a_table_with_hidden_columns_keeps_no_bytes() {
    let mut followed = followed(0, 0);
    followed.definition.left_out.insert("secret".to_owned());
    let reader = LetterReader::new(followed.definition.clone(), None);
    let mut feed = Feed(Assembler::new(vec![followed], known()));
    feed.send(&wire::relation(&described(CAPTURED, "t"))).expect("valid");
    feed.send(&wire::begin(Lsn(9), 0, 5)).expect("valid");
    feed.send(&wire::insert(CAPTURED, &[Some(Some("1")), None, Some(Some("told"))])).expect("no error");
    let letter = feed.0.take_letters().swap_remove(0);
    assert!(letter.message.is_empty());
    assert!(read(&reader, &letter).expect_err("there is nothing").to_string().contains("table resync"));
}

/// Nothing is asked of others where a letter did not come by a topic.
fn read(reader: &LetterReader, letter: &DeadLetter) -> Result<ChangeBatch, CdcError> {
    reader.read(letter).now_or_never().expect("at once")
}

#[test]
fn messages_out_of_order_are_errors() {
    let row = [Some(Some("1")), Some(None), Some(None)];
    let begin = wire::begin(Lsn(9), 0, 5);
    assert!(matches!(Feed::new().send(&wire::insert(CAPTURED, &row)), Err(CdcError::Sequence(_))));
    assert!(matches!(Feed::new().send(&wire::commit(Lsn(0), Lsn(0))), Err(CdcError::Sequence(_))));
    for bad in [begin.clone(), wire::insert(555, &row)] {
        let mut feed = Feed::new();
        feed.send(&begin).expect("in order");
        assert!(matches!(feed.send(&bad), Err(CdcError::Sequence(_))));
    }
}

/// Messages that are none of `s.t`'s rows, and why.
fn undecodable() -> Vec<(Op, Vec<u8>, &'static str)> {
    let row = [Some(Some("1")), Some(None), Some(None)];
    let fine = wire::insert(CAPTURED, &row);
    let not_utf8 = wire::insert(CAPTURED, &[Some(Some("1")), Some(Some("aXb")), Some(None)]);
    let not_utf8: Vec<u8> = not_utf8.iter().map(|byte| if *byte == b'X' { 0xff } else { *byte }).collect();
    vec![
        (Op::Insert, wire::insert(CAPTURED, &row[..2]), "another number of columns"),
        (Op::Insert, wire::insert(CAPTURED, &[Some(Some("1")), None, Some(None)]), "lacks a value"),
        (
            Op::Update,
            wire::update(CAPTURED, None, &[None, Some(None), Some(None)]),
            "lacks a value of its key",
        ),
        (
            Op::Delete,
            wire::delete(CAPTURED, b'K', &[None, Some(None), Some(None)]),
            "lacks a value of its key",
        ),
        (Op::Insert, not_utf8, "column a of table s.t: the value is not UTF-8"),
        (Op::Insert, fine[..fine.len() - 1].to_vec(), "ends early"),
        (Op::Insert, [&fine[..], b"n"].concat(), "too many"),
    ]
}

#[test]
fn what_cannot_be_taken_in_is_a_letter_and_the_next_change_comes() {
    let mut feed = Feed::new();
    feed.send(&wire::begin(Lsn(9), 60, 5)).expect("in order");
    let (mut order, bad) = (0, undecodable());
    for (op, message, why) in &bad {
        feed.send(&wire::insert(CAPTURED, &[Some(Some("1")), Some(Some("kept")), Some(None)]))
            .expect("valid");
        feed.send(message).expect("no error");
        order += 2;
        let letter = feed.0.take_letters().pop().expect(why);
        assert!(letter.reason.contains(why), "{why}: {}", letter.reason);
        assert_eq!((letter.op, &letter.message), (*op, message), "{why}");
        assert_eq!(letter.position, Position { epoch: 3, commit: 9, order }, "{why}");
        // Read again, it is still none; and a letter that can be read is the change that it would have been.
        let reader = LetterReader::new(definition(), None);
        let again = read(&reader, &letter).expect_err(why).to_string();
        assert!(again.contains(why), "{why}: {again}");
        let mended =
            DeadLetter { message: wire::delete(CAPTURED, b'K', &[Some(Some("7")), None, None]), ..letter };
        let change = read(&reader, &mended).expect("a change");
        assert_eq!((change.num_rows(), change.position(0), change.ops[0]), (1, mended.position, Op::Delete));
        assert_eq!(change.committed_at.value(0), mended.committed_at.expect("a time"));
    }
    let rows = feed.rows();
    assert_eq!(rows.len(), bad.len());
    let orders: Vec<_> = rows.iter().map(|row| row.order).collect();
    assert_eq!(orders, [1, 3, 5, 7, 9, 11, 13]);
    assert!(rows.iter().all(|row| row.values[1].as_deref() == Some("kept")));
    assert!(!feed.0.has_stopped());
}

#[test]
fn a_flood_of_letters_stops_the_table() {
    let mut feed = Feed::new();
    let (_, bad, _) = undecodable().swap_remove(0);
    let hour = 3_600_000_000;
    for (commit, at, more) in [(9, 0, false), (19, hour, false), (29, hour + 5, true)] {
        feed.send(&wire::begin(Lsn(commit), at, 5)).expect("in order");
        let letters = if more { 1 } else { MOST_LETTERS };
        (0..letters).for_each(|_| feed.send(&bad).expect("no error"));
        feed.send(&wire::commit(Lsn(0), Lsn(0))).expect("in order");
    }
    assert_eq!(feed.0.take_letters().len(), 2 * MOST_LETTERS);
    let stopped = feed.0.take_stopped().pop().expect("too many in the second hour");
    assert_eq!((stopped.cause, stopped.complete_to), (StopCause::Rows, Lsn(29)));
    assert!(stopped.reason.contains("more than 1000 rows within an hour"), "{}", stopped.reason);
}

proptest! {
    #[test]
    fn no_bytes_of_a_row_are_an_error(tag in prop::sample::select(&b"IUD"[..]), bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut feed = Feed::new();
        feed.send(&wire::begin(Lsn(9), 0, 5)).expect("in order");
        let message = [&[tag], &CAPTURED.to_be_bytes()[..], &bytes].concat();
        feed.send(&message).expect("a row or a letter");
        prop_assert_eq!(feed.0.take_letters().len() + feed.rows().len(), 1);
    }
}
