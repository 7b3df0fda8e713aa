//! Runs `packvault_fuzz::settings` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::settings::run(data));
