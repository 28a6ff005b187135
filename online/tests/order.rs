//! Whoever writes last in the order of commits wins, whenever they write.

use std::collections::BTreeMap;

use lakeward_change::Position;
use lakeward_features::View;
use lakeward_online::{CUSTOMER_VIEWS, Row, Stamp, Status};
use serde_json::{Value, json};

use crate::server::{DAY, Server, at, row};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// One view's value at a stamp, as every writer would compute it: nothing now and then.
fn value(view: View, stamp: Stamp) -> Option<Value> {
    let Position { epoch, commit, order } = stamp.position;
    let number = epoch * 1_000_000 + commit * 1_000 + order;
    match view {
        _ if number % 5 == 0 => None,
        View::UserItemInteractions => Some(json!([
            {"product_id": number, "score": 2.5},
            {"product_id": number % 7, "score": 0.5}
        ])),
        _ => Some(json!({ "number": number, "for": stamp.event_time })),
    }
}

fn texts(view: View, stamp: Stamp) -> Vec<String> {
    match (view, value(view, stamp)) {
        (View::UserItemInteractions, Some(Value::Array(all))) => {
            all.iter().flat_map(|one| [one["product_id"].to_string(), one.to_string()]).collect()
        }
        (_, value) => value.iter().map(Value::to_string).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_greatest_position_wins_under_any_interleaving() {
    const ENTITIES: u64 = 6;
    let Some(server) = Server::start().await else { return };
    for seed in 0..12 {
        let _: () = server.ask("FLUSHALL", &[]).await;
        let mut random = Random(seed);
        let mut newest: BTreeMap<(&str, i64), Stamp> = BTreeMap::new();
        let mut writers = Vec::new();
        for _ in 0..5 {
            let mut writes: Vec<(View, Stamp, Vec<Row>)> = Vec::new();
            for _ in 0..60 {
                let view = CUSTOMER_VIEWS[random.below(3) as usize];
                // Small numbers, and such that are far apart: texts must compare as they do.
                let commit =
                    if random.below(4) == 0 { 1 << random.below(60) } else { random.below(30) } as i64;
                let stamp = at(
                    random.below(2) as i64,
                    commit % 9_000,
                    random.below(3) as i64,
                    random.below(3) as i64,
                );
                let first = random.below(ENTITIES);
                let entities = first..(first + 1 + random.below(3)).min(ENTITIES);
                let rows = entities.map(|entity| Row { entity: entity as i64, texts: texts(view, stamp) });
                let rows: Vec<_> = rows.collect();
                for row in &rows {
                    let held = newest.entry((view.name(), row.entity)).or_insert(stamp);
                    *held = (*held).max(stamp);
                }
                writes.push((view, stamp, rows));
            }
            // Each on connections of its own.
            let online = server.online();
            writers.push(tokio::spawn(async move {
                for (view, stamp, rows) in writes {
                    online.put(view, stamp, &rows).await.unwrap();
                }
            }));
        }
        for writer in writers {
            writer.await.unwrap();
        }
        let ids: Vec<i64> = (0..ENTITIES as i64).collect();
        for features in server.online().customers(&ids, 3).await.unwrap() {
            for found in features.views {
                let expected = newest.get(&(found.view.name(), features.entity)).copied();
                let held = found.position.zip(found.event_time);
                assert_eq!(
                    held.map(|(position, event_time)| Stamp { position, event_time }),
                    expected,
                    "seed {seed}, {} of {}",
                    found.view,
                    features.entity
                );
                let expected = expected.and_then(|stamp| value(found.view, stamp));
                assert_eq!(found.status == Status::Present, expected.is_some(), "seed {seed}");
                assert_eq!(found.values, expected, "seed {seed}");
            }
        }
    }
}

#[tokio::test]
async fn equal_positions_go_by_time_and_nothing_is_counted_twice() {
    let Some(server) = Server::start().await else { return };
    let online = server.online();
    let (view, rows) = (View::UserRfm, [row(7, &["{\"a\":1}"])]);
    assert_eq!(online.put(view, at(1, 10, 2, 100), &rows).await.unwrap(), 1);
    // The same again is the same; the same changes at another moment are a newer value at a later one only.
    assert_eq!(online.put(view, at(1, 10, 2, 100), &rows).await.unwrap(), 1);
    assert_eq!(online.put(view, at(1, 10, 2, 99), &rows).await.unwrap(), 0);
    assert_eq!(online.put(view, at(1, 10, 2, 101), &rows).await.unwrap(), 1);
    // An earlier change stays out, whatever its clock says; a batch as of a watermark beyond it is in.
    assert_eq!(online.put(view, at(1, 10, 1, 500 * DAY), &rows).await.unwrap(), 0);
    assert_eq!(online.put(view, at(1, 11, 0, 0), &rows).await.unwrap(), 1);
    // A new copy of the source begins anew.
    assert_eq!(online.put(view, at(2, 1, 0, 0), &rows).await.unwrap(), 1);
}

#[tokio::test]
async fn keys_and_values_are_those_that_others_know() {
    let Some(server) = Server::start().await else { return };
    let online = server.online();
    let stamp = at(1, 255, 3, 1_772_366_400_000_000);
    online.put(View::UserRfm, stamp, &[row(42, &["{\"frequency\":3}"])]).await.unwrap();
    let scored = ["7", "{\"product_id\":7,\"score\":1.25}", "9", "{\"product_id\":9,\"score\":0.1}"];
    online.put(View::UserItemInteractions, stamp, &[row(42, &scored)]).await.unwrap();
    let entity: BTreeMap<String, String> = server.ask("HGETALL", &["shop:user:42"]).await;
    let expected = [
        ("user_rfm", "{\"frequency\":3}"),
        ("_ts:user_rfm", "1772366400000000"),
        ("_pos:user_rfm", "00000001.00000000000000ff.00000003"),
        ("_ts:user_item_interactions", "1772366400000000"),
        ("_pos:user_item_interactions", "00000001.00000000000000ff.00000003"),
    ];
    assert_eq!(entity, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    let interactions: BTreeMap<String, String> = server.ask("HGETALL", &["user:42:interactions"]).await;
    assert_eq!(interactions.len(), 2);
    let value: Value = serde_json::from_str(&interactions["7"]).unwrap();
    assert_eq!(value, json!({"product_id": 7, "score": 1.25}));
    // What a later value does not have is gone.
    let later = at(1, 256, 1, 1_772_366_400_000_001);
    online.put(View::UserItemInteractions, later, &[row(42, &scored[..2])]).await.unwrap();
    let fields: Vec<String> = server.ask("HKEYS", &["user:42:interactions"]).await;
    assert_eq!(fields, ["7"]);
    // A hash of either kind takes the little memory that Redis needs for small ones.
    for key in ["shop:user:42", "user:42:interactions"] {
        let encoding: String = server.ask("OBJECT", &["ENCODING", key]).await;
        assert_eq!(encoding, "listpack", "{key}");
    }
}
