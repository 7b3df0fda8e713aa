//! The danger: a repository has lost a pack or an index, the next capture takes what they held for stored, and
//! every snapshot from then on is as incomplete as the repository.

use std::fs;
use std::path::{Path, PathBuf};

use packvault::engine::Selection;
use packvault::format::pack::{TRAILER_BYTES, Trailer};
use packvault_sample::{Change, mutate};

use crate::support::archives::{Generation, make, tiny};
use crate::support::operations::{assert_sound, init, verify};
use crate::support::{Scratch, names};

/// Returns the files of a folder of the repository, oldest first.
fn files(repository: &Path, folder: &str) -> Vec<PathBuf> {
    let folder = repository.join(folder);
    names(&folder).iter().map(|name| folder.join(name)).collect()
}

/// Overwrites every frame of a pack and leaves its footer as it is.
fn spoil_frames(pack: &Path) {
    let mut bytes = fs::read(pack).unwrap();
    let trailer = Trailer::parse(&bytes[bytes.len() - TRAILER_BYTES..], bytes.len() as u64).unwrap();
    bytes[6..trailer.footer_offset() as usize].fill(0x5a);
    fs::write(pack, bytes).unwrap();
}

fn cut_short(file: &Path) {
    let bytes = fs::read(file).unwrap();
    fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
}

/// Captures an archive three times, loses something, and captures it again.
fn lose(lost: impl Fn(&Path), changes_after: bool) {
    let scratch = Scratch::new();
    let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
    make(&home, &tiny());
    for _ in 0..3 {
        Generation::capture(&repository, &home, &scratch);
        mutate(&home, &Change::default()).unwrap();
    }
    Generation::capture(&repository, &home, &scratch);
    assert_sound(&repository);
    lost(&repository);
    assert!(!verify(&repository, Selection::Latest, false).ok, "something was lost");
    if changes_after {
        mutate(&home, &Change::default()).unwrap();
    }
    let generation = Generation::capture(&repository, &home, &scratch);
    assert!(generation.report.blobs_added > 0);
    let report = verify(&repository, Selection::Latest, false);
    assert!(report.ok, "{:#?}", report.problems);
    generation.assert_restores(&repository, &scratch);
    // And the one after it builds on it as if nothing had happened.
    mutate(&home, &Change::default()).unwrap();
    let next = Generation::capture(&repository, &home, &scratch);
    assert!(next.report.database.pages_changed < next.report.database.pages);
    assert!(verify(&repository, Selection::Latest, false).ok);
    next.assert_restores(&repository, &scratch);
}

#[test]
fn what_a_lost_pack_held_is_stored_again() {
    for changes_after in [false, true] {
        lose(|repository| fs::remove_file(&files(repository, "packs")[0]).unwrap(), changes_after);
        lose(
            |repository| fs::remove_file(files(repository, "packs").last().unwrap()).unwrap(),
            changes_after,
        );
    }
    lose(|repository| fs::remove_dir_all(repository.join("packs")).unwrap(), true);
}

#[test]
fn what_a_pack_cut_short_held_is_stored_again() {
    for changes_after in [false, true] {
        lose(|repository| cut_short(files(repository, "packs").last().unwrap()), changes_after);
    }
}

#[test]
fn what_a_lost_index_named_is_stored_again() {
    for changes_after in [false, true] {
        lose(|repository| fs::remove_file(&files(repository, "indexes")[0]).unwrap(), changes_after);
    }
    lose(|repository| fs::remove_dir_all(repository.join("indexes")).unwrap(), true);
}

#[test]
fn a_pack_whose_maps_prove_damaged_is_relied_on_no_more() {
    for changes_after in [false, true] {
        lose(|repository| spoil_frames(files(repository, "packs").last().unwrap()), changes_after);
    }
}
