//! Whole lives of repositories: what another engine wrote, what we add to it, and what comes back.

use std::fs;
use std::path::Path;

use packvault::engine::restore::RestoreOptions;
use packvault::engine::{Selection, list};
use packvault::repo::Repository;
use packvault_sample::{ContentKind, SampleOptions};

use crate::support::Scratch;
use crate::support::archives::{add_attachment, execute, tiny};
use crate::support::backends::{Backend, Place};
use crate::support::fixture::{Fixture, REPOSITORIES, assert_restored, id};
use crate::support::memory_repo::*;
use crate::support::operations::block_on;

/// One blob of this size makes a pack that S3 drivers send in parts.
const LARGE_BYTES: u64 = 70 << 20;

/// Restores a snapshot of a fixture, which may have parts that only its writer can restore.
fn restore_fixture(place: &Place, id: &str, target: &Path) {
    let options =
        RestoreOptions { target: target.to_owned(), without_auxiliary: true, ..RestoreOptions::default() };
    block_on(bring_back_with(place.storage(), id, options)).unwrap();
}

pub fn fixtures_list_verify_and_restore_as_their_writer_said(place: &Place) {
    for name in REPOSITORIES {
        let place = Place::fresh(place.backend).expect("the server was there just now");
        let scratch = Scratch::new();
        let fixture = Fixture::copied(name, &scratch);
        place.fill(&fixture.repository);
        let repository = block_on(Repository::open(place.storage())).unwrap();
        let rows = block_on(list::list(&repository)).unwrap();
        let found: Vec<_> = rows.iter().map(|row| (row.id.as_str(), row.created_at.as_deref())).collect();
        let expected = fixture.snapshots().iter();
        let expected: Vec<_> =
            expected.map(|snapshot| (id(snapshot), snapshot["created_at"].as_str())).collect();
        assert_eq!(found, expected, "{name}");
        for (selection, quick, key) in
            [(Selection::All, false, "verify_all"), (Selection::Latest, true, "verify_quick")]
        {
            let report = block_on(check(place.storage(), selection, quick)).unwrap();
            assert!(report.ok && report.problems.is_empty(), "{name}: {:#?}", report.problems);
            assert_eq!(report.blobs, fixture.expected[key]["blobs_checked"].as_u64().unwrap(), "{name}");
        }
        for snapshot in fixture.snapshots().iter().filter(|snapshot| snapshot["metadata"].is_null()) {
            let target = scratch.path(&format!("restored {}", id(snapshot)));
            restore_fixture(&place, id(snapshot), &target);
            assert_restored(snapshot, &target);
        }
        place.raw().assert_no_remains();
    }
}

pub fn a_chain_goes_on_from_another_engines_and_from_our_own(place: &Place) {
    let scratch = Scratch::new();
    let fixture = Fixture::copied("chain", &scratch);
    place.fill(&fixture.repository);
    let foreign = Archive::unmade();
    restore_fixture(place, id(fixture.newest_restorable()), &foreign.home());
    let four_days: [&dyn Fn(); 4] = [
        &|| execute(&foreign.home(), "CREATE TABLE noted (text); INSERT INTO noted VALUES ('a day later')"),
        &|| drop(add_attachment(&foreign.home(), &vec![b'x'; 70_000])),
        &|| execute(&foreign.home(), "DELETE FROM noted; VACUUM"),
        &|| {},
    ];
    continue_chain(place, &foreign, &four_days);
    for snapshot in fixture.snapshots().iter().filter(|snapshot| snapshot["metadata"].is_null()) {
        let target = scratch.path(&format!("restored {}", id(snapshot)));
        restore_fixture(place, id(snapshot), &target);
        assert_restored(snapshot, &target);
    }

    let place = Place::fresh(place.backend).expect("the server was there just now");
    block_on(packvault::engine::init::init(place.storage().as_ref())).unwrap();
    let ours = Archive::small();
    let four_days: [&dyn Fn(); 4] =
        [&|| {}, &|| ours.write("deletions/later.json", b"{}"), &|| ours.change(), &|| {
            drop(add_attachment(&ours.home(), b"an attachment of the fourth day"))
        }];
    continue_chain(&place, &ours, &four_days);
}

pub fn an_encrypted_chain_goes_on(place: &Place) {
    block_on(make_repository(place.storage().as_ref(), Kind::Encrypted)).unwrap();
    let archive = Archive::small();
    continue_chain(place, &archive, &[&|| {}, &|| archive.change(), &|| {}]);
}

/// Makes a snapshot after each change, and brings every one of them back.
fn continue_chain(place: &Place, archive: &Archive, changes: &[&dyn Fn()]) {
    let mut made = Vec::new();
    for change in changes {
        change();
        let report = block_on(capture(place.storage(), archive)).unwrap();
        made.push(Made { id: report.id.unwrap(), files: archive.expected() });
    }
    block_on(assert_sound(place.storage(), "the chain"));
    for made in &made {
        block_on(assert_comes_back(place.storage(), made, "the chain"));
    }
    place.raw().assert_no_remains();
}

pub fn an_unchanged_archive_adds_nothing(place: &Place) {
    block_on(packvault::engine::init::init(place.storage().as_ref())).unwrap();
    let archive = Archive::small();
    let create = || block_on(capture(place.storage(), &archive)).unwrap();
    // The first empty delta is new.
    create();
    create();
    let raw = place.raw();
    let before = (raw.names("packs"), raw.names("indexes"));
    let report = create();
    assert_eq!(report.database.pages_changed, 0);
    assert_eq!((raw.names("packs"), raw.names("indexes")), before);
    let manifests = raw.names("snapshots").iter().filter(|name| name.ends_with(".mvmanifest")).count();
    assert_eq!(manifests, 3);
    raw.assert_no_remains();
}

pub fn objects_too_large_for_one_request_come_back(place: &Place) {
    let archive = Archive::make(&SampleOptions { large: vec![(LARGE_BYTES, ContentKind::Random)], ..tiny() });
    if place.backend == Backend::Memory {
        block_on(packvault::engine::init::init(place.storage().as_ref())).unwrap();
        let report = block_on(capture(place.storage(), &archive)).unwrap();
        let made = Made { id: report.id.unwrap(), files: archive.expected() };
        block_on(assert_comes_back(place.storage(), &made, "a large object"));
        return;
    }
    place.json(&["init"]);
    let report = place.json(&["create", archive.home().to_str().unwrap()]);
    assert!(report["id"].is_string(), "{report}");
    place.raw().assert_no_remains();
    assert_eq!(place.json(&["verify", "--all"])["ok"], true);
    let target = place.scratch.path("restored");
    place.json(&["restore", "--target", target.to_str().unwrap()]);
    assert_same_files(&files_below(&target), &archive.expected(), "a large object");
    fs::remove_dir_all(&target).unwrap();
}

pub fn a_restore_is_checked_and_a_sample_read(place: &Place) {
    place.json(&["init"]);
    let archive = Archive::small();
    let made = place.json(&["create", archive.home().to_str().unwrap()]);
    let checked = place.json(&["verify", "--restore-check"]);
    assert_eq!((&checked["ok"], &checked["snapshots"][0]["id"]), (&true.into(), &made["id"]));
    let report = place.json(&["verify", "--sample", "100%"]);
    assert_eq!(report["sample"]["coverage"]["bytes"], report["sample"]["bytes_total"], "{report}");
    let rows = place.json(&["history"]);
    let kinds: Vec<&str> =
        rows["runs"].as_array().unwrap().iter().filter_map(|row| row["kind"].as_str()).collect();
    assert_eq!(kinds, ["init", "create", "restore_check", "sample"]);
}
