//! Runs `packvault_fuzz::index` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::index::run(data));
