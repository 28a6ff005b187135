//! The log put together, held against the log.

use arrow::{
    array::{AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray},
    datatypes::Int64Type,
};
use lakeward_change::{Column, ColumnType, DeadLetter, Op, Origin, TableSchema};
use proptest::prelude::*;

mod model;

use self::model::*;
use super::*;
use crate::{
    debezium::Place,
    kafka::queue::{Event, What},
};

/// What went on of a table: where, and what.
type Gone = Vec<(i64, i64, i64)>;

fn note(gone: &mut [Gone], stretch: &Stretch) {
    for batch in &stretch.batches {
        let table = usize::from(batch.table.id.name == "t1");
        let ids = batch.values.column(0).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            gone[table].push((batch.commits.value(row), batch.orders.value(row), ids.value(row)));
        }
    }
    for letter in &stretch.letters {
        let table = usize::from(letter.table.name == "t1");
        if letter.lsn != STRAY {
            gone[table].push((letter.position.commit, letter.position.order, letter.lsn));
        }
    }
}

fn expected(records: &[Record], from: i64, durable: &[i64]) -> Vec<Gone> {
    let mut gone = vec![Gone::new(); TABLES];
    let mut open = Vec::new();
    for record in records {
        match record {
            Record::Event { what: What::Copied, .. } | Record::Event { place: None, .. } => {}
            Record::Event { table, id, place: Some(place), .. } => open.push((*table, place.order, *id)),
            Record::End { end, .. } => {
                for (table, order, id) in open.drain(..) {
                    if *end > from && *end > durable[table] {
                        gone[table].push((end - 1, order, id));
                    }
                }
            }
        }
    }
    gone
}

fn transactions() -> impl Strategy<Value = Vec<Events>> {
    let kind = prop_oneof![8 => Just(Kind::Row), 1 => Just(Kind::Letter), 1 => Just(Kind::AfterStray)];
    let event = (0..TABLES, 0usize..3, kind);
    prop::collection::vec(prop::collection::vec(event, 0..12), 1..25)
}

proptest! {
    #[test]
    fn the_log_comes_back_in_order_and_once(
        transactions in transactions(),
        partitions in 1usize..4,
        restarts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..30), 0..4),
        max_rows in 1usize..20,
        durable in prop::collection::vec(0i64..200, TABLES),
        begin in any::<prop::sample::Index>(),
        steps in prop::collection::vec((0usize..8, 1usize..9, prop::bool::weighted(0.05)), 1..400),
    ) {
        let records = log(&transactions);
        let written = with_repeats(&records, &restarts);
        let kafka = Kafka::new(&written, partitions);
        let ends: Vec<i64> = records.iter().filter_map(|record| match record {
            Record::End { end, .. } => Some(*end),
            Record::Event { .. } => None,
        }).collect();
        // A point between two transactions, or none.
        let from = std::iter::once(0).chain(ends.iter().copied()).collect::<Vec<_>>()[begin.index(ends.len() + 1)];

        let mut reader = kafka.reader(from, &Offsets::new(), &durable);
        let mut reading = Reading::new(&kafka);
        let (mut gone, mut last) = (vec![Gone::new(); TABLES], Lsn::from_i64(from));
        let mut mark: Option<(Lsn, Offsets, Vec<Gone>)> = None;
        let (mut repeats, mut died) = (0, false);
        let all = (0..TABLES).flat_map(|table| (0..partitions).map(move |partition| (table * partitions + partition, 1000)));
        let rest: Vec<_> = (0..60).flat_map(|_| all.clone().chain([(7, 1000)])).map(|(place, count)| (place, count, false)).collect();
        for (place, count, dies) in steps.into_iter().chain(rest) {
            if dies && let Some((from, offsets, before)) = &mark {
                // Another reader goes on from a cut.
                died = true;
                reader = kafka.reader(from.as_i64(), offsets, &durable);
                reading = Reading::at(&kafka, offsets);
                gone.clone_from(before);
                last = *from;
            }
            reading.feed(&mut reader, place, count);
            while let Some(stretch) = reader.take(max_rows, |_| true).expect("it is as it should be") {
                note(&mut gone, &stretch);
                repeats += stretch.repeats;
                if let Boundary::Closed { end } = stretch.boundary {
                    prop_assert!(end > last);
                    last = end;
                    mark = Some((end, reader.resume_at(TRANSACTIONS), gone.clone()));
                }
            }
        }
        for (table, expected) in expected(&records, from, &durable).into_iter().enumerate() {
            let mut gone = gone[table].clone();
            gone.sort_unstable();
            prop_assert_eq!(gone, expected);
        }
        prop_assert!(reader.lacks().is_none());
        // What is read once from the beginning is told again by the connector alone.
        if from == 0 && !died {
            prop_assert!(repeats <= (written.len() - records.len()) as u64);
        }
    }
}

/// Events of one table in one partition: whether each tells its place. The table has changed since its copy.
fn reader_of(places: &[bool], count: i64) -> Reassembly {
    reader_after(places, count, 1)
}

fn reader_after(places: &[bool], count: i64, order: i64) -> Reassembly {
    let (mut number, mut records) = (0, Vec::new());
    for (offset, known) in (0..).zip(places) {
        number += i64::from(*known);
        let place =
            known.then_some(Place { xid: 7, after: 0, lsn: number, order: number, table_order: number });
        let what = if *known { What::Row } else { What::Letter };
        let id = if *known { number } else { STRAY };
        records.push((offset, Record::Event { table: 0, partition: 0, id, place, what }));
    }
    let durable = Position { epoch: 1, commit: 0, order };
    let mut table = Table::new(schema(0).id.clone(), durable);
    table.queues.push(Queue::new("t0".to_owned(), 0, 0));
    let other = Table::new(schema(1).id.clone(), durable);
    let mut reader = Reassembly::new(vec![table, other], Lsn(0), 0);
    reader.push(0, 0, piece(0, &records));
    reader.push_end(end_of(7, 100, vec![(0, count)], 0));
    reader
}

#[test]
fn a_transaction_whose_end_is_missing_is_no_repeat() {
    let of = |table| vec![(table, 0, Kind::Row)];
    let records = log(&[of(0), of(0), of(1), of(0)]);
    let is_missing = |record: &Record| matches!(record, Record::End { xid: of, .. } if *of == xid(1));
    let kafka = Kafka::new(&records.into_iter().filter(|record| !is_missing(record)).collect::<Vec<_>>(), 1);
    let mut reader = kafka.reader(0, &Offsets::new(), &[0, 0]);
    for table in 0..TABLES {
        reader.push(table, 0, piece(table, &kafka.partitions[table][0]));
    }
    push_ends(&mut reader, &kafka.ends);
    let error = reader.take(100, |_| true).expect_err("it would be lost");
    let CdcError::Uncounted { table, xid: of } = error else { panic!("{error}") };
    assert_eq!((table, of), (schema(0).id.clone(), xid(1)));
}

#[test]
fn a_transaction_that_its_connector_may_have_passed_over_does_not_go_on() {
    // The one before ends at 100; of this one a change was there, at 90, and another behind it.
    let taken = |durable, counts: &[(usize, i64)], at| {
        let mut reader = reader_after(&[], 0, durable);
        assert!(reader.take(100, |_| true).expect("nothing is missing").is_some());
        let place = Place { xid: 8, after: 100, lsn: 110, order: 1, table_order: 1 };
        let record = Record::Event { table: 0, partition: 0, id: 1, place: Some(place), what: What::Row };
        let mut piece = piece(0, &[(0, record)]);
        piece.events[0].written_at = at;
        reader.push(0, 0, piece);
        let mut end = end_of(8, 200, counts.to_vec(), 1);
        end.beginning = Some(Written { lsn: 90, events: 0, at: 0 });
        end.written.at = at;
        reader.push_end(end);
        reader.take(100, |_| true)
    };
    for counts in [&[(0, 1)][..], &[]] {
        let error = taken(1, counts, 5_000).expect_err("changes may be missing");
        assert!(matches!(error, CdcError::Interrupted { xid: 8 }), "{error}");
    }
    let going = taken(1, &[(0, 1)], 400).expect("no connector begins again so soon");
    assert_eq!(going.expect("it is whole").batches.len(), 1);
}

#[test]
fn what_the_lake_has_by_a_copy_may_have_been_passed_over() {
    let mut reader = reader_after(&[], 0, 0);
    reader.tables.iter_mut().for_each(|table| table.durable.commit = 1_000);
    let mut end = end_of(8, 200, vec![], 1);
    (end.beginning, end.written.at) = (Some(Written { lsn: 90, events: 0, at: 0 }), 5_000);
    reader.push_end(end);
    assert!(reader.take(100, |_| true).expect("nothing is missing").is_some());
}

proptest! {
    #[test]
    fn whoever_counts_anew_loses_nothing_unnoticed(
        transactions in transactions(),
        partitions in 1usize..3,
        restarts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..13, 0usize..3), 0..3),
        max_rows in 1usize..20,
        steps in prop::collection::vec((0usize..7, 1usize..9), 1..200),
    ) {
        let kafka = Kafka::new(&counted_anew(&transactions, &restarts), partitions);
        let mut reader = kafka.reader(0, &Offsets::new(), &[0; TABLES]);
        let (mut reading, mut gone) = (Reading::new(&kafka), vec![Gone::new(); TABLES]);
        let rest = (0..60).flat_map(|_| (0..7).map(|place| (place, 1000)));
        for (place, count) in steps.into_iter().chain(rest) {
            reading.feed(&mut reader, place, count);
            loop {
                match reader.take(max_rows, |_| true) {
                    Ok(Some(stretch)) => note(&mut gone, &stretch),
                    Ok(None) => break,
                    // Its table is copied anew.
                    Err(CdcError::Uncounted { .. }) => return Ok(()),
                    Err(error) => panic!("{error}"),
                }
            }
        }
        // So it is where too little is there to go on.
        if reader.lacks().is_some() {
            return Ok(());
        }
        let all = transactions.iter().flatten().enumerate();
        for (table, gone) in gone.into_iter().enumerate() {
            let mut gone: Vec<i64> = gone.into_iter().map(|(.., id)| id).collect();
            gone.sort_unstable();
            let of = all.clone().filter(|(_, (of, ..))| *of == table);
            prop_assert_eq!(gone, of.map(|(id, _)| id as i64).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_message_of_nobody_takes_no_change_s_place() {
    let mut reader = reader_of(&[false, false, true, true, false], 2);
    let stretch = reader.take(100, |_| true).expect("no error").expect("a transaction");
    assert_eq!(stretch.batches[0].num_rows(), 2);
    let mut orders: Vec<_> = stretch.letters.iter().map(|letter| letter.position.order).collect();
    orders.dedup();
    assert_eq!(orders, [-1, -65_537], "each has a place of its own");
    // The last one waits for the table's next change.
    assert_eq!(reader.resume_at(TRANSACTIONS)["t0"][&0], 4);
}

#[test]
fn repeats_are_counted() {
    let mut reader = reader_of(&[true, true], 2);
    let again: Vec<_> = (1..=2)
        .map(|number| {
            let place = Some(Place { xid: 7, after: 0, lsn: number, order: number, table_order: number });
            (1 + number, Record::Event { table: 0, partition: 0, id: number, place, what: What::Row })
        })
        .collect();
    reader.push(0, 0, piece(0, &again));
    let stretch = reader.take(100, |_| true).expect("no error").expect("a transaction");
    assert_eq!((stretch.batches[0].num_rows(), stretch.repeats), (2, 2));
}

#[test]
fn what_cannot_be_read_stands_for_what_does_not_come() {
    let mut reader = reader_of(&[true, false], 2);
    assert!(reader.take(100, |_| true).expect("no error").is_none(), "the other one may come yet");
    let lacking = reader.lacks().expect("one is missing");
    assert_eq!((lacking.found, lacking.unknown, lacking.expected), (1, 1, 2));
    reader.do_without(lacking).expect("it may be that one");
    assert!(reader.lacks().is_none());
    let stretch = reader.take(100, |_| true).expect("no error").expect("a transaction");
    assert_eq!((stretch.batches[0].num_rows(), stretch.letters.len()), (1, 1));
}

/// So many messages that cannot be read, then two changes.
fn after_a_flood(order: i64) -> Reassembly {
    let places: Vec<bool> = (0..MOST_LETTERS + 3).map(|number| number > MOST_LETTERS).collect();
    reader_after(&places, 2, order)
}

#[test]
fn a_flood_stops_its_table_and_nothing_else() {
    let mut reader = after_a_flood(1);
    let stretch = reader.take(100, |_| true).expect("no error").expect("a transaction");
    assert_eq!((stretch.batches[0].num_rows(), stretch.letters.len()), (2, MOST_LETTERS + 1));
    let [stopped] = &stretch.stopped[..] else { panic!("{:?}", stretch.stopped) };
    assert_eq!((&stopped.id, stopped.cause, stopped.complete_to), (&schema(0).id, StopCause::Rows, Lsn(100)));
    // Its events are waited for no more, nor is it read on from where it is.
    reader.push_end(end_of(8, 200, vec![(0, 1)], 1));
    let stretch = reader.take(100, |_| true).expect("no error").expect("a transaction");
    assert_eq!((stretch.batches.len(), stretch.boundary), (0, Boundary::Closed { end: Lsn(200) }));
    assert!(!reader.resume_at(TRANSACTIONS).contains_key("t0"));
}

#[test]
fn what_may_be_older_than_the_copy_is_no_flood() {
    let mut reader = after_a_flood(0);
    let stretch = reader.take(100, |_| true).expect("no error").expect("a transaction");
    assert_eq!((stretch.letters.len(), stretch.stopped.len()), (MOST_LETTERS + 1, 0));
}

#[test]
fn a_table_of_which_nothing_can_be_read_stops() {
    for order in [0, 1] {
        let mut reader = reader_after(&vec![false; MOST_LETTERS + 1], 5, order);
        assert!(reader.take(100, |_| true).expect("no error").is_none());
        let lacking = reader.lacks().expect("all are missing");
        reader.do_without(lacking).expect("it stops instead");
        let stretch = reader.take(100, |_| true).expect("no error").expect("it has stopped");
        assert_eq!((stretch.letters.len(), stretch.stopped.len()), (0, 1));
        assert_eq!(stretch.boundary, Boundary::Closed { end: Lsn(0) });
        let stretch = reader.take(100, |_| true).expect("no error").expect("the others go on");
        assert_eq!(stretch.boundary, Boundary::Closed { end: Lsn(100) });
    }
}
