//! Runs `packvault_fuzz::repository` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::repository::run(data));
