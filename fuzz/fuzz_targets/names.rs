//! Runs `packvault_fuzz::names` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::names::run(data));
