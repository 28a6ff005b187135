//! How fast messages are checked, on one core: `cargo test --release --workspace --test events -- --ignored --nocapture speed`.

use std::time::Instant;

use lakeward_events::ContractFile;

use crate::message::{bytes, event};

#[test]
#[ignore = "a measurement"]
fn speed() {
    const EVENTS: u64 = 200_000;
    const ROUNDS: u64 = 5;
    let messages: Vec<_> = (0..EVENTS)
        .map(|number| {
            let mut event = event(number);
            if number % 20 == 0 {
                event.insert("price".to_owned(), (-1).into());
            }
            bytes(event)
        })
        .collect();
    let file = ContractFile::open(None).expect("the shipped contract");
    let (mut valid, began) = (0, Instant::now());
    for _ in 0..ROUNDS {
        valid += messages.iter().filter(|message| file.contract().check(message).is_ok()).count() as u64;
    }
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(valid, EVENTS * ROUNDS * 19 / 20);
    println!(
        r#"{{"events": {}, "events_per_second": {:.0}, "bytes_per_event": {}}}"#,
        EVENTS * ROUNDS,
        (EVENTS * ROUNDS) as f64 / seconds,
        messages.iter().map(Vec::len).sum::<usize>() as u64 / EVENTS,
    );
}
