//! Runs `packvault_fuzz::repo_config` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::repo_config::run(data));
