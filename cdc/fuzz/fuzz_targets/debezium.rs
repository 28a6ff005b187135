#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lakeward_cdc::fuzz::debezium(data));
