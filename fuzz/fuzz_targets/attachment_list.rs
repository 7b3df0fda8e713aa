//! Runs `packvault_fuzz::attachment_list` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::attachment_list::run(data));
