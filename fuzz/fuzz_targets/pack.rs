//! Runs `packvault_fuzz::pack` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::pack::run(data));
