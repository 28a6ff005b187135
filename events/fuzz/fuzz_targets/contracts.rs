//! Any text as a contract, and a message held to it if it is one.

#![no_main]

use lakeward_events::Contract;

const MESSAGE: &[u8] = br#"{"event_id":"0b83a1f4-25f4-4f8e-9a3b-0d4f1c3f7a10","event_time":"2019-10-01T00:00:00Z","price":35.79,"items":[1,"a",null]}"#;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(contract) = Contract::parse(text) {
        let _ = contract.check(MESSAGE);
    }
});
