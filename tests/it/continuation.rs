//! The danger: a snapshot taken on top of another engine's chain, or deep in our own, builds on pages, lists or
//! links that are not what it takes them for, and nobody notices before the restore.

use std::fs;
use std::path::{Path, PathBuf};

use packvault::engine::restore::RestoreOptions;
use packvault::format::{BlobId, Manifest};
use packvault_sample::{Change, SampleOptions, mutate};

use crate::support::archives::{Generation, add_attachment, canonical, execute, make, tiny};
use crate::support::fixture::{Fixture, REPOSITORIES, id, restored_files};
use crate::support::operations::{
    assert_sound, block_on, create, init, manifest, manifests, one, open, try_restore,
};
use crate::support::{Found, Scratch, assert_no_remains, tree};

/// Restores the newest snapshot that can be, to go on from there.
fn archive_of(fixture: &Fixture, scratch: &Scratch) -> PathBuf {
    let home = scratch.path(&format!("home of {}", fixture.name));
    let options = RestoreOptions { target: home.clone(), without_auxiliary: true, ..Default::default() };
    try_restore(&fixture.repository, one(id(fixture.newest_restorable())), options).unwrap();
    home
}

/// Returns the depth that the rules of the format give the successor of a snapshot of the same page size.
fn depth_after(repository: &Path, parent: &Manifest) -> i64 {
    if parent.metadata.is_some() {
        return 0;
    }
    let union = block_on(open(repository).load_indexes()).unwrap();
    let stored = |id: &str| union.get(&BlobId::parse(id).unwrap()).unwrap().stored_bytes;
    let mut current = parent.clone();
    let mut deltas = 0;
    while current.db.map_chain_depth > 0 {
        deltas += stored(&current.db.page_map);
        current = manifest(repository, &current.parent_id);
    }
    let depth = parent.db.map_chain_depth + 1;
    if depth >= 30 || deltas > stored(&current.db.page_map) { 0 } else { depth }
}

fn lists(manifest: &Manifest) -> Vec<String> {
    manifest.attachments.lists.clone().unwrap_or_default()
}

/// Captures and checks what every successor has in common.
fn successor(repository: &Path, home: &Path, scratch: &Scratch) -> (Generation, Manifest, Manifest) {
    let parent = manifests(repository).pop().unwrap();
    let depth = depth_after(repository, &parent);
    let generation = Generation::capture(repository, home, scratch);
    let new = manifest(repository, &generation.id);
    assert_eq!(new.parent_id, parent.snapshot_id);
    assert_eq!(generation.report.parent, Some(parent.snapshot_id.clone()));
    assert!(new.created_at > parent.created_at, "{} after {}", new.created_at, parent.created_at);
    assert_eq!(new.db.map_chain_depth, depth);
    assert_no_remains(repository);
    (generation, parent, new)
}

fn continue_fixture(fixture: &Fixture, scratch: &Scratch) {
    let repository = fixture.repository.as_path();
    let home = archive_of(fixture, scratch);
    let mut generations = Vec::new();

    // Something new: the lists go on.
    execute(&home, "CREATE TABLE noted (text); INSERT INTO noted VALUES ('a day later')");
    add_attachment(&home, b"the first attachment of ours");
    add_attachment(&home, &vec![b'x'; 70_000]);
    let (generation, parent, new) = successor(repository, &home, scratch);
    assert!(
        generation.report.database.pages_changed < generation.report.database.pages
            || parent.metadata.is_some()
    );
    let listed = lists(&new);
    assert_eq!(listed[..listed.len() - 1], lists(&parent), "{}: inherited, and one more", fixture.name);
    assert_eq!(generation.report.attachments.blobs_added, 2);
    generations.push(generation);

    // Something gone: one list of what is left.
    let gone = canonical(b"the first attachment of ours");
    execute(&home, &format!("DELETE FROM attachments WHERE storage_path = '{gone}'"));
    fs::remove_file(home.join("attachments").join(gone)).unwrap();
    let (generation, parent, new) = successor(repository, &home, scratch);
    assert_eq!(lists(&new).len(), 1, "{}", fixture.name);
    assert!(!lists(&parent).contains(&lists(&new)[0]));
    generations.push(generation);

    // Nothing: twice, for the first time an empty delta is new.
    for round in 0..2 {
        let (generation, parent, new) = successor(repository, &home, scratch);
        assert_eq!(lists(&new), lists(&parent));
        assert_eq!(generation.report.database.pages_changed, 0);
        assert_eq!(generation.report.attachments.blobs_added, 0);
        if round == 1 && new.db.map_chain_depth > 1 {
            assert_eq!((new.new_packs, new.new_index.as_str(), new.bytes_added), (None, "", 0));
        }
        generations.push(generation);
    }

    assert_sound(repository);
    for snapshot in fixture.snapshots().iter().filter(|snapshot| snapshot["metadata"].is_null()) {
        let target = scratch.path(id(snapshot));
        let options =
            RestoreOptions { target: target.clone(), without_auxiliary: true, ..Default::default() };
        try_restore(repository, one(id(snapshot)), options).unwrap();
        let mut found = tree(&target);
        found.retain(|_, found| !matches!(found, Found::Folder { .. }));
        assert_eq!(found, restored_files(snapshot), "{}", id(snapshot));
        fs::remove_dir_all(&target).unwrap();
    }
    generations.iter().for_each(|generation| generation.assert_restores(repository, scratch));
}

#[test]
fn every_fixture_goes_on_and_old_and_new_snapshots_verify_and_restore() {
    let scratch = Scratch::new();
    for name in REPOSITORIES {
        continue_fixture(&Fixture::copied(name, &scratch), &scratch);
    }
}

#[test]
fn a_snapshot_on_top_of_a_portable_one_begins_a_chain() {
    let scratch = Scratch::new();
    let fixture = Fixture::copied("portable", &scratch);
    let home = archive_of(&fixture, &scratch);
    let last = fixture.snapshots().last().unwrap();
    assert!(last["metadata"].is_null());
    fs::remove_file(fixture.repository.join(format!("snapshots/{}.mvmanifest", id(last)))).unwrap();
    let (generation, parent, new) = successor(&fixture.repository, &home, &scratch);
    assert!(parent.metadata.is_some());
    assert_eq!((new.db.map_chain_depth, new.format_version), (0, 1));
    assert_eq!(generation.report.database.pages_changed, generation.report.database.pages);
    assert_sound(&fixture.repository);
    generation.assert_restores(&fixture.repository, &scratch);
}

#[test]
fn a_namespaced_archive_goes_on_as_version_two_and_others_as_version_one() {
    let scratch = Scratch::new();
    for (name, version) in [("namespaced", 2), ("chain", 1), ("auxiliary", 1)] {
        let fixture = Fixture::copied(name, &scratch);
        let home = archive_of(&fixture, &scratch);
        let (_, _, new) = successor(&fixture.repository, &home, &scratch);
        assert_eq!((new.format_version, new.min_reader_version), (version, version), "{name}");
    }
}

#[test]
fn a_small_chain_ends_by_size_and_a_long_one_at_depth_twenty_nine() {
    let scratch = Scratch::new();
    let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
    make(&home, &SampleOptions { attachments: 0, page_size: 512, ..tiny() });
    execute(&home, "CREATE TABLE wide (id INTEGER PRIMARY KEY, text TEXT)");
    execute(
        &home,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
         INSERT INTO wide SELECT i, hex(zeroblob(110)) FROM n",
    );
    let mut generations = vec![Generation::capture(&repository, &home, &scratch)];
    let mut depths = vec![0];
    let step = |statements: &str, generations: &mut Vec<Generation>, depths: &mut Vec<i64>| {
        execute(&home, statements);
        let (generation, _, new) = successor(&repository, &home, &scratch);
        generations.push(generation);
        depths.push(new.db.map_chain_depth);
    };
    // Runs all over the database make a large delta, so the next snapshot is a keyframe that is large too.
    step(
        "UPDATE wide SET text = hex(zeroblob(109)) WHERE id * 7919 % 101 < 30",
        &mut generations,
        &mut depths,
    );
    for round in 0..32 {
        let one_page = format!("UPDATE wide SET text = hex(zeroblob(108)) WHERE id = {}", round * 7 + 3);
        step(&one_page, &mut generations, &mut depths);
    }
    let expected: Vec<i64> = [0, 1].into_iter().chain(0..30).chain(0..2).collect();
    assert_eq!(depths, expected);
    let report = assert_sound(&repository);
    assert_eq!(report.snapshots, 34);
    for generation in generations.iter().rev().step_by(4).chain(&generations[..3]) {
        generation.assert_restores(&repository, &scratch);
    }
}

#[test]
fn the_chain_of_a_tiny_archive_is_two_deltas_long() {
    let scratch = Scratch::new();
    let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
    make(&home, &SampleOptions { attachments: 0, messages: 3, ..tiny() });
    let depths: Vec<i64> = (0..4)
        .map(|round| {
            execute(&home, &format!("PRAGMA user_version = {}", round + 1));
            let report = create(&repository, &home);
            manifest(&repository, &report.id.unwrap()).db.map_chain_depth
        })
        .collect();
    assert_eq!(depths, [0, 1, 2, 0]);
}

#[test]
fn another_page_size_begins_a_chain_and_is_noted_in_the_repository() {
    let scratch = Scratch::new();
    let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
    make(&home, &tiny());
    let mut generations = vec![Generation::capture(&repository, &home, &scratch)];
    for page_size in [512, 65536, 4096] {
        let vacuum = format!("PRAGMA journal_mode = DELETE; PRAGMA page_size = {page_size}; VACUUM");
        execute(&home, &vacuum);
        let generation = Generation::capture(&repository, &home, &scratch);
        let new = manifest(&repository, &generation.id);
        assert_eq!((new.db.page_size, new.db.map_chain_depth), (page_size, 0));
        assert_eq!(new.parent_id, generations.last().unwrap().id);
        let config = fs::read_to_string(repository.join("config.toml")).unwrap();
        assert!(config.ends_with(&format!("page_size = {page_size}\n")), "{config}");
        generations.push(generation);
    }
    assert_sound(&repository);
    generations.iter().for_each(|generation| generation.assert_restores(&repository, &scratch));
}

#[test]
fn a_lost_stale_or_forged_cache_of_page_hashes_changes_nothing() {
    let scratch = Scratch::new();
    let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
    make(&home, &tiny());
    let mut generations = vec![Generation::capture(&repository, &home, &scratch)];
    let folder = home.join("backup-cache");
    let cache = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let first = fs::read(&cache).unwrap();
    for round in 0..4 {
        mutate(&home, &Change::default()).unwrap();
        match round {
            0 => fs::remove_file(&cache).unwrap(),
            1 => fs::write(&cache, &first).unwrap(),
            2 => fs::write(&cache, b"\xff\xff\xff\xffnonsense").unwrap(),
            _ => {
                // The right snapshot, and hashes that are not its own.
                let mut forged = (generations[2].id.len() as u32).to_le_bytes().to_vec();
                forged.extend(generations[2].id.as_bytes());
                forged.extend(&first[4 + generations[0].id.len()..]);
                fs::write(&cache, forged).unwrap();
            }
        }
        generations.push(Generation::capture(&repository, &home, &scratch));
    }
    assert_sound(&repository);
    generations.iter().for_each(|generation| generation.assert_restores(&repository, &scratch));
}
