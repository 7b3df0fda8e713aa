//! Runs `packvault_fuzz::local_names` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::local_names::run(data));
