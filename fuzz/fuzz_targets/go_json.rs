//! Runs `packvault_fuzz::go_json` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::go_json::run(data));
