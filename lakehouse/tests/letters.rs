//! Dead letters: committed before their table, each once, and final.

use std::{collections::BTreeMap, sync::Arc};

use arrow::error::ArrowError;
use futures::stream;
use lakeward_change::{CopiedRows, Lsn, Position};
use lakeward_lakehouse::{Lake, Replayed};
use object_store::{ObjectStore, memory::InMemory};
use url::Url;

use crate::{
    faults::{Fault, FaultyStore},
    source::{EPOCH, SNAPSHOT, Source, TAKEN_AT, assert_bronze, copied, flush, open, row, silver},
};

fn lake(store: Arc<dyn ObjectStore>) -> Lake {
    Lake::with_store(Url::parse("memory:///lake").unwrap(), store, BTreeMap::new()).unwrap()
}

fn three_rows() -> Source {
    Source::with_rows((1..=3).map(|id| (id, row("copied", i128::from(id)))))
}

/// Where letters lie, each once.
async fn kept(lake: &Lake) -> Vec<(i64, i64)> {
    let letters = lake.dead_letters(None, false).await.unwrap();
    letters.iter().map(|kept| (kept.letter.position.commit, kept.letter.position.order)).collect()
}

#[tokio::test]
async fn what_is_dead_between_the_two_commits_stays_dead_and_the_rest_is_decided_afresh() {
    let lake = lake(Arc::new(InMemory::new()));
    let mut source = three_rows();
    let mut table = copied(&lake, &source).await;
    source.insert(10, row("fine, and later not", 1));
    source.insert(11, row("dead", 2));
    let without_eleven = {
        let mut source = source.clone();
        source.garble_last(true);
        source
    };
    // The first process sets 11 aside and dies before the table's commit.
    let letters = without_eleven.letters(0..2);
    table.set_aside(&letters, TAKEN_AT).await.unwrap();
    assert_eq!(kept(&lake).await, [(SNAPSHOT, 2)]);

    // The second one reads 11 without trouble, but not 12, and asks for both at once.
    let mut table = open(&lake).await;
    assert_eq!(table.durable().unwrap(), Position { epoch: EPOCH, commit: SNAPSHOT, order: 0 });
    source.insert(12, row("undecided", 3));
    source.insert(13, row("alive", 4));
    let mut rows = source.rows.clone();
    rows.retain(|id, _| ![11, 12].contains(id));
    let mut now = source.clone();
    let (twelve, batches) = {
        let mut decoded = three_rows();
        decoded.insert(10, row("fine, and later not", 1));
        decoded.insert(11, row("dead", 2));
        decoded.garble();
        decoded.insert(13, row("alive", 4));
        (decoded.letters(0..4), decoded.all())
    };
    table.set_aside(&twelve, TAKEN_AT).await.unwrap();
    table.flush(&batches, false, TAKEN_AT).await.unwrap();
    assert_eq!(kept(&lake).await, [(SNAPSHOT, 2), (SNAPSHOT, 3)]);
    assert_eq!(silver(&lake, &table, None).await, rows);
    assert_bronze(&lake, &table, 3 + 2).await;

    // Everything again, whatever is thought of it: what the table has passed is decided for good.
    for letters in [&letters, &twelve] {
        let mut table = open(&lake).await;
        table.set_aside(letters, TAKEN_AT).await.unwrap();
        flush(&mut table, &now).await.unwrap();
        assert_eq!(kept(&lake).await.len(), 2);
        assert_eq!(silver(&lake, &table, None).await, rows);
        assert_bronze(&lake, &table, 3 + 2).await;
    }
    now.commit();
    now.insert(14, row("next", 5));
    let mut table = open(&lake).await;
    flush(&mut table, &now).await.unwrap();
    assert_bronze(&lake, &table, 3 + 3).await;
}

#[tokio::test]
async fn a_row_before_the_last_letter_that_cannot_be_read_any_more_gets_one_too() {
    let lake = lake(Arc::new(InMemory::new()));
    let mut source = three_rows();
    let mut table = copied(&lake, &source).await;
    source.garble();
    source.garble();
    let letters = source.letters(0..2);
    table.set_aside(&letters[1..], TAKEN_AT).await.unwrap();
    for _ in 0..2 {
        let mut table = open(&lake).await;
        table.set_aside(&letters, TAKEN_AT).await.unwrap();
        assert_eq!(kept(&lake).await, [(SNAPSHOT, 1), (SNAPSHOT, 2)]);
    }
}

#[tokio::test]
async fn letters_land_once_whatever_happens_to_their_commits() {
    for fault in Fault::ALL {
        for place in ["ops/dead_letters/_delta_log", "silver/shop/public/products/_delta_log"] {
            let store = FaultyStore::new();
            let lake = lake(Arc::clone(&store) as Arc<dyn ObjectStore>);
            let mut source = three_rows();
            let mut table = copied(&lake, &source).await;
            for round in 1..=2 {
                source.garble();
                source.insert(10 + round, row("kept", 1));
                source.garble();
                // In the first round it is the making of the table of letters that is struck.
                store.fail(fault, place, 1);
                let letters = source.letters(0..source.changes());
                // The table of letters may not be made on the first tries.
                while let Err(error) = table.set_aside(&letters, TAKEN_AT).await {
                    assert!(error.is_retryable(), "{error:?}");
                }
                flush(&mut table, &source).await.unwrap();
                assert!(store.struck(), "{fault:?} at {place}");
                let expected: Vec<_> =
                    letters.iter().map(|l| (l.position.commit, l.position.order)).collect();
                assert_eq!(kept(&lake).await, expected, "{fault:?} at {place}");
                assert_eq!(silver(&lake, &table, None).await, source.rows, "{fault:?} at {place}");
                source.commit();
            }
        }
    }
}

#[tokio::test]
async fn rows_of_a_copy_become_letters_and_a_copy_that_died_has_used_its_epoch_up() {
    let store = FaultyStore::new();
    let lake = lake(Arc::clone(&store) as Arc<dyn ObjectStore>);
    let source = three_rows();
    let mut table = copied(&lake, &source).await;
    let chunk = |source: &Source| {
        let rows = source.batches(0..1, 1);
        let letters = source.letters(0..source.changes());
        CopiedRows { rows: rows[0].values.clone(), letters }
    };
    let mut read = Source::default();
    read.insert(1, row("one", 1));
    read.garble();
    read.garble();
    let rows = || stream::iter([Ok::<_, ArrowError>(chunk(&read)), Ok(chunk(&read))]);
    // Its letters are committed, its rows are not.
    store.fail(Fault::Refused, "bronze/shop/public/products/_delta_log", 20);
    let epoch = table.next_epoch();
    table.copy(epoch, Lsn(5000), TAKEN_AT, rows(), &|_| {}).await.unwrap_err();
    store.calm_plan();
    let mut table = open(&lake).await;
    assert_eq!((table.epoch(), table.next_epoch()), (Some(1), 3));
    table.copy(3, Lsn(6000), TAKEN_AT, rows(), &|_| {}).await.unwrap();
    let places = kept(&lake).await;
    assert_eq!(places.len(), 8);
    let mut orders: Vec<i64> =
        places.iter().filter(|(commit, _)| *commit == 6000).map(|(_, order)| *order).collect();
    orders.sort_unstable();
    assert_eq!(orders, [-6, -5, -3, -2], "the rows have -1 and -4");
    assert_eq!(open(&lake).await.next_epoch(), 4);
}

#[tokio::test]
async fn a_replayed_letter_takes_its_own_place() {
    let lake = lake(Arc::new(InMemory::new()));
    let mut source = three_rows();
    let mut table = copied(&lake, &source).await;
    // One change each: of a row that nothing else touches, of one that is deleted later, of one that is written later.
    let mut read = source.clone();
    for id in [20, 21, 22] {
        read.insert(id, row("replayed", 7));
        source.garble();
    }
    read.update(1, Some(30), None, 8);
    source.garble();
    let letters = read.batches(0..4, 1);
    source.commit();
    source.insert(21, row("again", 1));
    source.delete(21);
    source.insert(22, row("later", 1));
    table.set_aside(&source.letters(0..source.changes()), TAKEN_AT).await.unwrap();
    flush(&mut table, &source).await.unwrap();

    let expected = [Replayed::Applied, Replayed::Superseded, Replayed::Superseded, Replayed::Applied];
    let mut rows = source.rows.clone();
    rows.insert(20, row("replayed", 7));
    let mut moved = rows.remove(&1).unwrap();
    moved.price = Some(8);
    rows.insert(30, moved);
    for round in 0..2 {
        let mut table = open(&lake).await;
        for (letter, expected) in letters.iter().zip(expected) {
            // The second time the key before is gone with its notes.
            if round == 1 && letter.old_keys.is_some() {
                continue;
            }
            assert_eq!(table.replay(letter, &[]).await.unwrap(), expected);
        }
        assert_eq!(silver(&lake, &table, None).await, rows);
        assert_eq!(open(&lake).await.durable(), table.durable());
    }
    assert_bronze(&lake, &table, 3 + source.readable()).await;

    // An insert is older than the delete that was replayed before it.
    let mut pair = Source::default();
    (0..5).for_each(|_| pair.garble());
    pair.insert(40, row("gone", 1));
    pair.delete(40);
    let pair = pair.batches(5..7, 1);
    let mut table = open(&lake).await;
    assert_eq!(table.replay(&pair[1], &[]).await.unwrap(), Replayed::Applied);
    assert_eq!(table.replay(&pair[0], &pair[1..]).await.unwrap(), Replayed::Superseded);
    assert_eq!(silver(&lake, &table, None).await, rows);
    // A later copy has whatever a letter of an earlier one held.
    source.start_epoch(2);
    crate::source::copy(&mut table, &source).await.unwrap();
    assert_eq!(table.replay(&letters[0], &[]).await.unwrap(), Replayed::Superseded);
    assert_eq!(silver(&lake, &table, None).await, source.rows);
}

#[tokio::test]
async fn what_became_of_letters_is_noted_once() {
    let lake = lake(Arc::new(InMemory::new()));
    let mut source = three_rows();
    let mut table = copied(&lake, &source).await;
    (0..3).for_each(|_| source.garble());
    table.set_aside(&source.letters(0..3), TAKEN_AT).await.unwrap();
    let ids: Vec<_> =
        lake.dead_letters(Some("shop"), false).await.unwrap().into_iter().map(|kept| kept.id).collect();
    let cut = crate::source::watermark("shop", SNAPSHOT as u64 + 1, Some(&table));
    let open_ones = async || {
        let open = lake.open_letters(&cut).await.unwrap();
        open.values().flat_map(BTreeMap::values).sum::<u64>()
    };
    assert_eq!(open_ones().await, 3);
    let noted = |outcome| [(ids[1].clone(), Some(outcome)), (ids[2].clone(), None)].into();
    lake.note_replayed("shop", &noted(Replayed::Applied), TAKEN_AT + 1).await.unwrap();
    lake.note_replayed("shop", &noted(Replayed::Superseded), TAKEN_AT + 2).await.unwrap();
    lake.note_replayed("other", &noted(Replayed::Superseded), TAKEN_AT + 2).await.unwrap();
    assert_eq!(open_ones().await, 2);
    let letters = lake.dead_letters(Some("shop"), true).await.unwrap();
    let replayed: Vec<_> = letters.iter().map(|kept| kept.replayed).collect();
    assert_eq!(replayed, [None, Some((TAKEN_AT + 1, Replayed::Applied)), None]);
    let attempts: Vec<_> = letters.iter().map(|kept| kept.attempts).collect();
    assert_eq!(attempts, [0, 1, 2]);
    // A parked one is dead all the same; what was replayed is not parked any more.
    for at in [3, 4] {
        lake.park_letters("shop", &ids[1..].iter().cloned().collect(), TAKEN_AT + at).await.unwrap();
    }
    let parked = lake.dead_letters(Some("shop"), false).await.unwrap().into_iter().map(|kept| kept.parked_at);
    assert_eq!(parked.collect::<Vec<_>>(), [None, None, Some(TAKEN_AT + 3)]);
    assert_eq!(open_ones().await, 2);
    let kept: Vec<_> = letters.into_iter().map(|kept| kept.letter).collect();
    assert_eq!(kept, source.letters(0..3), "with all that they hold");
    // And letters still come.
    source.garble();
    table.set_aside(&source.letters(0..4), TAKEN_AT).await.unwrap();
    assert_eq!(open_ones().await, 3);
}
