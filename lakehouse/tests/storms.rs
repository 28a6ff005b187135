//! Random histories on a store that fails at random, with restarts, held against the model at every step.

use std::{collections::BTreeMap, sync::Arc, thread};

use futures::TryStreamExt;
use lakeward_change::{ChangeBatch, DeadLetter};
use lakeward_lakehouse::{CapturedTable, Lake, LakeError};
use object_store::{ObjectStore, ObjectStoreExt};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use url::Url;

use crate::{
    faults::FaultyStore,
    histories::{Action, play},
    source::{Source, TAKEN_AT, copy, folded, open, row, server, silver, table},
};

const SEEDS: std::ops::Range<u64> = 0..50;
const REGRESSIONS: &str = include_str!("seeds.txt");
/// `17`, or `100..2000`, instead.
const CHOSEN: &str = "LAKEWARD_STORM_SEEDS";
const STEPS: usize = 3;
/// Tries of one piece of work until the weather is made fine.
const TRIES: usize = 12;

#[test]
fn silver_equals_the_model_at_every_step_of_every_storm() {
    let seeds = seeds();
    let workers = seeds.chunks(seeds.len().div_ceil(2)).map(<[u64]>::to_vec).map(|seeds| {
        thread::spawn(move || {
            let weathered = seeds.into_iter().map(|seed| {
                // A thread of its own, so that a failure tells its seed.
                let struck = thread::spawn(move || weather(seed)).join();
                struck.unwrap_or_else(|_| {
                    panic!(
                        "seed {seed} fails: {CHOSEN}={seed} cargo test --workspace --test lakehouse storms"
                    )
                })
            });
            weathered.sum::<usize>()
        })
    });
    let workers: Vec<_> = workers.collect();
    let struck: usize = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
    assert!(struck > 0, "nothing went wrong");
    println!("{struck} requests went wrong");
}

/// As a lane does it.
async fn flush(
    table: &mut CapturedTable,
    letters: &[DeadLetter],
    batches: &[ChangeBatch],
    complete: bool,
) -> Result<(), LakeError> {
    if !letters.is_empty() {
        table.set_aside(letters, TAKEN_AT).await?;
    }
    table.flush(batches, complete, TAKEN_AT).await
}

fn seeds() -> Vec<u64> {
    let number = |text: &str| text.trim().parse::<u64>().expect("a seed");
    match std::env::var(CHOSEN).ok() {
        Some(chosen) => match chosen.split_once("..") {
            Some((from, to)) => (number(from)..number(to)).collect(),
            None => vec![number(&chosen)],
        },
        None => {
            let lines = REGRESSIONS.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
            lines.map(number).chain(SEEDS).collect()
        }
    }
}

/// Runs one history; gives how many requests went wrong.
fn weather(seed: u64) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = FaultyStore::new();
        let lake = Lake::with_store(
            Url::parse("memory:///lake").unwrap(),
            Arc::clone(&store) as Arc<dyn ObjectStore>,
            BTreeMap::new(),
        )
        .unwrap();
        let mut random = StdRng::seed_from_u64(seed);
        let mut voyage = Voyage {
            table: open(&lake).await,
            source: Source::with_rows((0..4).map(|id| (id, row("copied", i128::from(id))))),
            done: 0,
            struck: 0,
            store,
            lake,
        };
        voyage.copy(&mut random, true).await;
        for _ in 0..STEPS {
            if random.random_range(0..8) == 0 {
                voyage.copy(&mut random, false).await;
            }
            let actions: Vec<Action> = (0..random.random_range(1..12)).map(|_| action(&mut random)).collect();
            play(&mut voyage.source, &actions);
            if random.random_range(0..3) == 0 {
                voyage.source.garble();
            }
            voyage.source.commit();
            voyage.flush(&mut random).await;
            voyage.check().await;
        }
        voyage.finish().await;
        voyage.check_log().await;
        voyage.struck
    })
}

fn action(random: &mut StdRng) -> Action {
    let (id, other) = (random.random_range(0..7), random.random_range(0..7));
    match random.random_range(0..20) {
        0..4 => Action::Insert(id),
        4..10 => {
            let to = random.random_bool(0.4).then_some(other);
            Action::Update { id, to, keeps_notes: random.random_bool(0.5) }
        }
        10..12 => Action::Swap(id, other),
        12..15 => Action::Delete(id),
        15 => Action::Truncate,
        16 => Action::Replace(id),
        17 => Action::TruncateLeaf(id),
        _ => Action::Commit,
    }
}

struct Voyage {
    store: Arc<FaultyStore>,
    lake: Lake,
    table: CapturedTable,
    source: Source,
    /// Changes that a flush has reported durable.
    done: usize,
    struck: usize,
}

impl Voyage {
    /// A copy in a storm. What a failed one leaves behind has used its epoch up.
    async fn copy(&mut self, random: &mut StdRng, first: bool) {
        let mut fresh = first;
        for tries in 0.. {
            if !fresh {
                let epoch = self.table.next_epoch();
                self.source.start_epoch(epoch);
                self.done = 0;
            }
            fresh = false;
            self.blow(random, tries);
            let copied = tokio::select! {
                copied = copy(&mut self.table, &self.source) => Some(copied.map(drop)),
                () = self.store.hung() => None,
            };
            self.struck += self.store.calm();
            if self.settle(copied, random).await {
                return;
            }
        }
    }

    /// Flushes what is not durable yet, or a part of it, from some changes back.
    async fn flush(&mut self, random: &mut StdRng) {
        while self.done < self.source.changes() {
            let end = random.random_range(self.done + 1..=self.source.changes());
            let start = self.done.saturating_sub(random.random_range(0..6));
            let batches = self.source.batches(start..end, random.random_range(1..6));
            let letters = self.source.letters(start..end);
            let complete = self.source.ends_transaction(end - 1);
            for tries in 0.. {
                self.blow(random, tries);
                let flushed = tokio::select! {
                    flushed = flush(&mut self.table, &letters, &batches, complete) => Some(flushed),
                    () = self.store.hung() => None,
                };
                self.struck += self.store.calm();
                if self.settle(flushed, random).await {
                    break;
                }
                self.check().await;
            }
            self.done = end;
            // The rest may come with the next changes.
            if random.random_bool(0.5) {
                return;
            }
        }
    }

    async fn finish(&mut self) {
        if self.done < self.source.changes() {
            let rest = self.source.batches(self.done..self.source.changes(), 4);
            let letters = self.source.letters(self.done..self.source.changes());
            flush(&mut self.table, &letters, &rest, true).await.unwrap();
            self.done = self.source.changes();
        }
        self.check().await;
        let kept = self.lake.dead_letters(None, true).await.unwrap();
        let current = kept.iter().filter(|kept| Some(kept.letter.position.epoch) == self.table.epoch());
        let kept: Vec<_> = current.map(|kept| kept.letter.clone()).collect();
        assert_eq!(kept, self.source.letters(0..self.source.changes()), "each letter once");
        assert_eq!(silver(&self.lake, &self.table, None).await, self.source.rows);
    }

    fn blow(&self, random: &mut StdRng, tries: usize) {
        if tries < TRIES {
            self.store.storm(random.random());
        }
    }

    /// Whether the work is done. If it is not, the process may have died, and in any case after a hanging write.
    async fn settle(&mut self, ended: Option<Result<(), LakeError>>, random: &mut StdRng) -> bool {
        let (done, died) = match ended {
            Some(Ok(())) => (true, random.random_bool(0.2)),
            Some(Err(error)) => {
                assert!(error.is_retryable(), "{error:?}");
                (false, random.random_bool(0.4))
            }
            None => (false, true),
        };
        if died {
            self.reopen(random).await;
        }
        done
    }

    /// A new process, in a storm too; it writes nothing, so it cannot hang.
    async fn reopen(&mut self, random: &mut StdRng) {
        loop {
            self.store.storm(random.random());
            let opened = CapturedTable::open(&self.lake, &server(), table()).await;
            self.struck += self.store.calm();
            match opened {
                Ok(opened) => {
                    self.table = opened;
                    return;
                }
                Err(error) => assert!(error.is_retryable(), "{error:?}"),
            }
        }
    }

    /// What a reader finds now is what the model says of the position that is durable.
    async fn check(&self) {
        let seen = open(&self.lake).await;
        let Some(durable) = seen.durable() else { return };
        let expected = self.source.rows_at(durable);
        assert_eq!(silver(&self.lake, &seen, None).await, expected, "silver at {durable:?}");
        let (rows, last) = folded(&self.lake, &seen).await;
        if last.epoch < durable.epoch {
            // The copy of an empty table leaves no row in bronze, and nothing has changed since.
            assert!(expected.is_empty(), "bronze has nothing of {durable:?}");
            return;
        }
        assert_eq!(rows, self.source.rows_at(last), "bronze folded up to {last:?}");
        // Bronze commits first, so it holds what silver has, and maybe more.
        assert!(
            self.source.rows_at(last.max(durable)) == rows,
            "bronze ends at {last:?}, before {durable:?}"
        );
    }

    /// Over the versions of both tables, no transaction identifier ever falls.
    async fn check_log(&self) {
        for path in [self.table.bronze_path(), self.table.silver_path()] {
            let log = object_store::path::Path::from(format!("lake/{path}/_delta_log"));
            let mut files: Vec<_> = self.store.list(Some(&log)).try_collect().await.unwrap();
            files.retain(|file| file.location.extension() == Some("json"));
            files.sort_by(|a, b| a.location.cmp(&b.location));
            assert!(files.len() > 2, "{path} has {} versions", files.len());
            let mut last = (0, 0, 0);
            for file in files {
                let bytes = self.store.get(&file.location).await.unwrap().bytes().await.unwrap();
                let next = progress(&bytes, last);
                assert!(next >= last, "{}: {next:?} after {last:?}", file.location);
                last = next;
            }
        }
    }
}

/// Epoch, LSN and ordinal after a version; what it does not name stays.
fn progress(version: &[u8], before: (i64, i64, i64)) -> (i64, i64, i64) {
    let mut after = before;
    for line in std::str::from_utf8(version).unwrap().lines() {
        let action: Value = serde_json::from_str(line).unwrap();
        let Some(value) = action["txn"]["version"].as_i64() else { continue };
        let app_id = action["txn"]["appId"].as_str().unwrap();
        match app_id.rsplit_once('/').unwrap().1 {
            "epoch" => after.0 = value,
            "lsn" => after.1 = value,
            "order" => after.2 = value,
            other => panic!("who wrote {other}?"),
        }
    }
    after
}
