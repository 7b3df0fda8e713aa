//! Runs `packvault_fuzz::location` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::location::run(data));
