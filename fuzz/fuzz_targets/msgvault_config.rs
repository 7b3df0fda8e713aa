//! Runs `packvault_fuzz::msgvault_config` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| packvault_fuzz::msgvault_config::run(data));
