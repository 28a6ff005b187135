//! Any bytes as a message: judged by the contracts that are shipped, and made a row or refused.

#![no_main]

use std::sync::{Arc, LazyLock};

use lakeward_events::{Contract, ContractFile, Form, TopicRows, events_of, key_of};

static CONTRACTS: LazyLock<[(Form, Arc<Contract>); 3]> = LazyLock::new(|| {
    let events = ContractFile::open(None).expect("it is shipped");
    let changes = ContractFile::of_changes(None).expect("it is shipped");
    [
        (Form::Checked, Arc::clone(events.contract())),
        (Form::Raw, Arc::clone(events.contract())),
        (Form::Change, Arc::clone(changes.contract())),
    ]
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    for (form, contract) in CONTRACTS.iter() {
        let mut rows = TopicRows::new(*form, Arc::clone(contract));
        rows.push(0, 0, data);
        let (rows, refused) = rows.finish().expect("columns");
        assert!(rows.num_rows() + refused.len() <= 1);
        if *form == Form::Raw {
            assert!(contract.check(data).is_ok() || refused.len() == 1);
        }
    }
    let _ = (events_of(data), key_of(data));
});
