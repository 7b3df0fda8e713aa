//! Runs `packvault_fuzz::paths` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::paths::run(data));
