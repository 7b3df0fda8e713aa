//! The danger: a fuzz target no longer compiles, or what fuzzing once found comes back, and nobody notices until
//! somebody fuzzes again.
//!
//! The targets of `fuzz/` run here without libFuzzer: on their seeds, taken from the fixtures, and on each seed
//! cut short and altered in a few places. `docs/testing.md` says how to fuzz.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::path::Path;

use fuzz::TARGETS;
use fuzz::seeds::Seeds;

/// Alterations of one seed.
const ALTERATIONS: usize = 24;

fn seeds() -> Seeds {
    Seeds::collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"))
}

#[test]
fn every_target_has_seeds_and_keeps_its_promises_on_them() {
    let seeds = seeds();
    for (name, run) in TARGETS {
        assert!(!seeds.of(name).is_empty(), "{name} has no seed");
        run(&[]);
        seeds.of(name).iter().for_each(|seed| run(seed));
    }
}

#[test]
fn every_target_keeps_its_promises_on_altered_seeds() {
    let seeds = seeds();
    for (name, run) in TARGETS.into_iter().filter(|(name, _)| *name != "repository") {
        for seed in seeds.of(name).iter().filter(|seed| !seed.is_empty()) {
            for number in 0..ALTERATIONS {
                run(&altered(seed, number));
            }
        }
    }
}

/// Returns the seed with one byte changed, cut or doubled, at places spread over it.
fn altered(seed: &[u8], number: usize) -> Vec<u8> {
    let at = seed.len() * number / ALTERATIONS;
    let mut bytes = seed.to_vec();
    match number % 4 {
        0 => bytes[at] ^= 1 << (number % 8),
        1 => bytes.truncate(at),
        2 => bytes.insert(at, seed[at]),
        _ => bytes[at] = 0xff,
    }
    bytes
}
