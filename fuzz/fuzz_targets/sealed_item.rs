//! Runs `packvault_fuzz::sealed_item` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::sealed_item::run(data));
