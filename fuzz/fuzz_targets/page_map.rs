//! Runs `packvault_fuzz::page_map` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::page_map::run(data));
