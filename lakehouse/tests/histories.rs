//! Random histories through fold and the real MERGE, held against the model.

use std::collections::BTreeMap;

use lakeward_lakehouse::Lake;
use proptest::prelude::*;

use crate::source::{Source, TAKEN_AT, assert_bronze, copied, folded, open, row, silver};

#[derive(Debug, Clone)]
pub enum Action {
    Insert(i64),
    /// One statement, so all rows share one LSN.
    InsertMany(i64),
    Update {
        id: i64,
        to: Option<i64>,
        keeps_notes: bool,
    },
    /// By way of a third key.
    Swap(i64, i64),
    Delete(i64),
    /// Updated and deleted in one transaction.
    UpdateAndDelete(i64),
    /// Deleted and inserted again; the log holds the insert before the delete.
    Replace(i64),
    Truncate,
    /// Of the partition that the row would be in.
    TruncateLeaf(i64),
    Commit,
}

fn action() -> impl Strategy<Value = Action> {
    let id = || 0..7_i64;
    prop_oneof![
        4 => id().prop_map(Action::Insert),
        6 => (id(), prop::option::of(id()), any::<bool>())
            .prop_map(|(id, to, keeps_notes)| Action::Update { id, to, keeps_notes }),
        2 => (id(), id()).prop_map(|(a, b)| Action::Swap(a, b)),
        3 => id().prop_map(Action::Delete),
        1 => id().prop_map(Action::InsertMany),
        1 => id().prop_map(Action::UpdateAndDelete),
        2 => id().prop_map(Action::Replace),
        1 => Just(Action::Truncate),
        2 => id().prop_map(Action::TruncateLeaf),
        4 => Just(Action::Commit),
    ]
}

pub fn play(source: &mut Source, actions: &[Action]) {
    for (step, action) in actions.iter().enumerate() {
        let notes = format!("step {step}");
        match action {
            Action::Insert(id) => source.insert(*id, row(&notes, step as i128)),
            Action::Update { id, to, keeps_notes } => {
                source.update(*id, *to, (!keeps_notes).then_some(&notes), step as i128);
            }
            Action::Swap(a, b) if a != b && source.rows.contains_key(a) && source.rows.contains_key(b) => {
                for (old, new) in [(*a, -1), (*b, *a), (-1, *b)] {
                    source.update(old, Some(new), None, step as i128);
                }
            }
            Action::Swap(..) => {}
            Action::Delete(id) => source.delete(*id),
            Action::InsertMany(id) => source.at_one_lsn(|source| {
                (*id..*id + 4).for_each(|id| source.insert(id, row(&notes, step as i128)));
            }),
            Action::UpdateAndDelete(id) => {
                source.update(*id, None, None, step as i128);
                source.delete(*id);
            }
            Action::Replace(id) => {
                let had = source.rows.contains_key(id);
                source.delete(*id);
                source.insert(*id, row(&notes, step as i128));
                if had {
                    source.log_last_two_the_other_way_round();
                }
            }
            Action::Truncate => source.truncate(),
            Action::TruncateLeaf(id) => source.truncate_leaf(*id),
            Action::Commit => source.commit(),
        }
    }
}

const CASES: u32 = 48;

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn silver_equals_the_source(
        actions in prop::collection::vec(action(), 1..60),
        // Each flush ends some changes further and begins some changes back; some come from a new process.
        flushes in prop::collection::vec((1..20_usize, 0..10_usize, 1..6_usize, any::<bool>()), 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let lake = Lake::open(folder.path().to_str().unwrap(), BTreeMap::new()).unwrap();
            // The first transaction was begun before the snapshot, whose LSN is its final one: the copy has the rows
            // that were before it.
            let mut source = Source::with_rows((0..4).map(|id| (id, row("copied", i128::from(id)))));
            let mut table = copied(&lake, &source).await;
            play(&mut source, &actions);
            let mut done = 0;
            for (more, back, length, reopen) in flushes {
                if reopen {
                    table = open(&lake).await;
                }
                let (start, end) = (done - back.min(done), source.changes().min(done + more));
                if start < end {
                    table.flush(&source.batches(start..end, length), false, TAKEN_AT).await.unwrap();
                }
                done = end;
            }
            if done < source.changes() {
                table.flush(&source.batches(done..source.changes(), 4), true, TAKEN_AT).await.unwrap();
            }
            assert_eq!(silver(&lake, &table, None).await, source.rows);
            assert_bronze(&lake, &table, 4 + source.changes()).await;
            assert_eq!(folded(&lake, &table).await.0, source.rows);
        });
    }
}
