//! Runs `packvault_fuzz::page_hashes` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::page_hashes::run(data));
