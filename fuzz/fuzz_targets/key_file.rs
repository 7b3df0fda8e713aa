//! Runs `packvault_fuzz::key_file` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::key_file::run(data));
