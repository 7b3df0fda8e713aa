//! Runs `packvault_fuzz::lock_record` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::lock_record::run(data));
