//! Runs `packvault_fuzz::extras_tree` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::extras_tree::run(data));
