//! The danger: a fuzz target no longer compiles, or what fuzzing once found comes back, and nobody notices until
//! somebody fuzzes again.
//!
//! The targets of `fuzz/` run here without libFuzzer: on their seeds, taken from the fixtures, on each seed cut
//! short and altered in a few places, and on random input of the shape that each understands. They hold the naive
//! models that codecs, chains of maps, paths and JSON text are compared with. `docs/testing.md` says how to fuzz.

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use std::path::Path;

use fuzz::TARGETS;
use fuzz::input::push_piece;
use fuzz::seeds::Seeds;
use packvault::format::{PageHash, PageHashDelta, PageHashes};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

/// Alterations of one seed.
const ALTERATIONS: usize = 24;

/// What paths are made of: each rule has a piece that touches it.
const PATH_PIECES: [&str; 24] = [
    "a",
    "b",
    "A",
    "/",
    "/",
    "//",
    ".",
    "..",
    "/../",
    "/./",
    " ",
    ". ",
    "-",
    "\0",
    "\\",
    "é",
    "e\u{301}",
    "É",
    "İ",
    "ſ",
    "\u{212a}",
    "msgvault.db",
    "-wal",
    "attachments",
];

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

fn paths() -> impl Strategy<Value = String> {
    let path = vec(prop::sample::select(&PATH_PIECES[..]), 1..8).prop_map(|pieces| pieces.concat());
    vec(path, 1..12).prop_map(|paths| paths.join("\n"))
}

fn hash(number: u64) -> PageHash {
    PageHash::of(&number.to_le_bytes())
}

/// A delta to a number of pages that lists some of them: any, and often all that are new.
fn page_hash_delta() -> impl Strategy<Value = PageHashDelta> {
    (0u64..30, btree_set(0u64..30, 0..20), any::<Option<u64>>(), 0u32..8).prop_map(
        |(page_count, mut pages, new_from, other_size)| {
            if let Some(new_from) = new_from {
                pages.extend(new_from % 30..page_count);
            }
            let listed = pages.into_iter().filter(|page| *page < page_count);
            let changes = listed.map(|page| (page, hash(page + page_count))).collect();
            PageHashDelta { page_size: if other_size == 0 { 1024 } else { 512 }, page_count, changes }
        },
    )
}

proptest! {
    #[test]
    fn a_chain_of_page_maps_is_what_page_by_page_bookkeeping_says(choices in vec(any::<u8>(), 0..400)) {
        fuzz::page_map::run(&[&[1], &choices[..]].concat());
    }

    #[test]
    fn a_chain_of_page_hashes_is_what_a_plain_list_says(
        page_count in 0u64..30,
        deltas in vec(page_hash_delta(), 0..8),
    ) {
        let keyframe = PageHashes { page_size: 512, hashes: (0..page_count).map(hash).collect() };
        let objects = [keyframe.encode_keyframe()].into_iter().chain(deltas.iter().map(PageHashDelta::encode));
        let mut input = Vec::new();
        objects.for_each(|object| push_piece(&mut input, &object[..object.len() - fuzz::objects::HASH_BYTES]));
        fuzz::page_hashes::run(&input);
    }

    #[test]
    fn floats_and_strings_are_written_as_the_rules_say(bits in any::<u64>(), text in any::<String>()) {
        fuzz::go_json::run(&[&bits.to_le_bytes(), text.as_bytes()].concat());
    }

    #[test]
    fn floats_at_the_borders_of_the_forms_are_written_as_the_rules_say(
        power in -8i32..24,
        step in -3i64..4,
        factor in 1u32..1000,
    ) {
        let near = |value: f64| (value.to_bits() as i64 + step) as u64;
        for value in [10f64.powi(power), f64::from(factor) * 10f64.powi(power), f64::from(factor) / 8.0] {
            fuzz::go_json::run(&near(value).to_le_bytes());
            fuzz::go_json::run(&near(-value).to_le_bytes());
        }
    }

    #[test]
    fn strings_of_special_characters_are_escaped_as_the_rules_say(text in "[\\x00-\\x7f<>&\u{2028}\u{2029}\u{fffd}😀]*") {
        fuzz::go_json::run(&[&[0; 8], text.as_bytes()].concat());
    }

    #[test]
    fn paths_are_cleaned_refused_and_compared_as_the_rules_say(paths in paths()) {
        fuzz::paths::run(paths.as_bytes());
    }

    #[test]
    fn locations_and_names_of_any_shape_are_read_or_refused(
        text in "([a-zA-Z0-9+.-]{1,6}://)?([a-z:@]{0,6}@)?[/%a-f0-9:. ]{0,20}",
    ) {
        fuzz::location::run(text.as_bytes());
        fuzz::names::run(text.as_bytes());
    }

    #[test]
    fn sealed_packs_open_with_their_key_only(bytes in vec(any::<u8>(), 0..300)) {
        fuzz::sealed_pack::run(&bytes);
    }
}
