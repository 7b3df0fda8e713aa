//! Runs `packvault_fuzz::daemon_record` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::daemon_record::run(data));
