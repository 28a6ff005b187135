//! How fast messages are checked and lines read, on one core: for `bench/events`.

use std::{sync::Arc, time::Instant};

use lakeward_events::{ContractFile, Rees46};

use crate::{
    files::{HEADER, line},
    message::{bytes, event},
};

#[test]
#[ignore = "a measurement"]
fn checking() {
    const EVENTS: u64 = 200_000;
    const ROUNDS: u64 = 5;
    let messages: Vec<_> = (0..EVENTS)
        .map(|number| {
            let mut event = event(number);
            if number.is_multiple_of(20) {
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

#[test]
#[ignore = "a measurement"]
fn reading() {
    const LINES: u64 = 1_000_000;
    let text = HEADER.to_owned() + &(0..LINES).map(line).collect::<String>();
    let file = ContractFile::open(None).expect("the shipped contract");
    let began = Instant::now();
    let mut events = Rees46::open(text.as_bytes(), Arc::clone(file.contract()), 500_000).expect("a header");
    let mut rows = 0;
    while let Some(chunk) = events.chunk().expect("it is read") {
        rows += chunk.rows.num_rows() as u64;
    }
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(rows, LINES);
    println!(
        r#"{{"lines": {LINES}, "lines_per_second": {:.0}, "bytes_per_line": {}}}"#,
        LINES as f64 / seconds,
        text.len() as u64 / LINES
    );
}
