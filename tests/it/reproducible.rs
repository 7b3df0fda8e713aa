//! The danger: what is stored depends on how many workers there were, on the clock, or on having been tried
//! before; nobody could then say what a repository should hold.

use std::fs;
use std::path::Path;

use packvault::engine::create::CreateOptions;
use packvault::format::Manifest;
use packvault::format::pack::{Footer, TRAILER_BYTES, Trailer};
use packvault_sample::{Change, ContentKind, SampleOptions, mutate};

use crate::support::archives::{make, tiny};
use crate::support::operations::{assert_sound, create, init, manifest, manifests, try_create};
use crate::support::{Scratch, tree};

/// Returns the packs that a snapshot added, in the order in which they were sealed.
fn packs(repository: &Path, manifest: &Manifest) -> Vec<Vec<u8>> {
    let packs = manifest.new_packs.clone().unwrap_or_default();
    let path = |pack: &String| repository.join(format!("packs/{}/{pack}.mvpack", &pack[..2]));
    packs.iter().map(|pack| fs::read(path(pack)).unwrap()).collect()
}

fn footer(pack: &[u8]) -> Footer {
    let file_bytes = pack.len() as u64;
    let trailer = Trailer::parse(&pack[pack.len() - TRAILER_BYTES..], file_bytes).unwrap();
    let start = trailer.footer_offset() as usize;
    Footer::parse(&pack[start..start + trailer.region_bytes() as usize], &trailer, file_bytes).unwrap()
}

/// Removes what may differ between two captures of one archive: ids and times.
fn comparable(manifest: &Manifest) -> Manifest {
    Manifest {
        snapshot_id: String::new(),
        parent_id: String::new(),
        created_at: String::new(),
        new_packs: None,
        new_index: String::new(),
        duration_seconds: 0.0,
        ..manifest.clone()
    }
}

#[test]
fn one_worker_and_eight_store_the_same_packs() {
    let scratch = Scratch::new();
    let home = scratch.path("home");
    let large = vec![
        (20_000_000, ContentKind::Random),
        (9_000_000, ContentKind::Text),
        (9_000_000, ContentKind::Random),
        (0, ContentKind::Zero),
    ];
    make(&home, &SampleOptions { messages: 1500, attachments: 150, large, ..SampleOptions::default() });
    let repositories = [1, 8].map(|jobs| (init(&scratch.path(&format!("jobs {jobs}"))), jobs));
    for _ in 0..2 {
        let [one, eight] = repositories.clone().map(|(repository, jobs)| {
            let report = try_create(&repository, &home, CreateOptions::default(), jobs).unwrap();
            let manifest = manifest(&repository, &report.id.unwrap());
            (packs(&repository, &manifest), manifest)
        });
        assert_eq!(comparable(&one.1), comparable(&eight.1));
        assert_eq!(one.0.len(), eight.0.len());
        for (one, eight) in one.0.iter().zip(&eight.0) {
            assert_eq!(footer(one).entries(), footer(eight).entries());
            assert!(one == eight, "the frames differ");
        }
        mutate(&home, &Change { large: vec![(5_000_000, ContentKind::Text)], ..Change::default() }).unwrap();
    }
    let first = &manifests(&repositories[0].0)[0];
    assert!(first.new_packs.as_ref().unwrap().len() >= 2, "the archive fills several packs");
    repositories.iter().for_each(|(repository, _)| drop(assert_sound(repository)));
}

#[test]
fn snapshots_within_one_second_still_have_an_order() {
    let scratch = Scratch::new();
    let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
    make(&home, &tiny());
    let made: Vec<String> = (0..5).map(|_| create(&repository, &home).id.unwrap()).collect();
    let found = manifests(&repository);
    let ids: Vec<String> = found.iter().map(|manifest| manifest.snapshot_id.clone()).collect();
    assert_eq!(ids, made, "the order of ids is the order of making");
    for pair in found.windows(2) {
        assert!(pair[0].created_at < pair[1].created_at, "{} {}", pair[0].created_at, pair[1].created_at);
        assert_eq!(pair[1].parent_id, pair[0].snapshot_id);
    }
}

#[test]
fn a_dry_run_counts_what_a_create_stores_and_writes_nothing() {
    let scratch = Scratch::new();
    let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
    make(&home, &SampleOptions { large: vec![(6_000_000, ContentKind::Text)], ..tiny() });
    // The lock files by which a capture owns an archive are made by the first one and stay.
    let dry = || {
        let options = CreateOptions { dry_run: true, ..CreateOptions::default() };
        try_create(&repository, &home, options, 2).unwrap()
    };
    dry();
    for _ in 0..3 {
        let before = tree(&scratch.path(""));
        let told = dry();
        assert_eq!(tree(&scratch.path("")), before);
        assert_eq!(told.id, None);
        let done = create(&repository, &home);
        assert_eq!(told.parent, done.parent);
        assert_eq!((told.bytes_added, told.blobs_added), (done.bytes_added, done.blobs_added));
        assert_eq!((told.database, told.attachments), (done.database, done.attachments));
        assert_eq!(told.extras, done.extras);
        mutate(&home, &Change::default()).unwrap();
    }
    let told = scratch.json(&["create", "home", "--repo", "./repository", "--dry-run"]);
    assert!(told["id"].is_null());
    assert_eq!(manifests(&repository).len(), 3);
}

#[test]
fn an_unchanged_archive_adds_nothing_but_its_manifest() {
    let scratch = Scratch::new();
    let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
    make(&home, &tiny());
    create(&repository, &home);
    create(&repository, &home);
    let before = tree(&repository);
    let report = create(&repository, &home);
    assert_eq!((report.bytes_added, report.blobs_added, report.packs_added), (0, 0, 0));
    let mut after = tree(&repository);
    let own = format!("snapshots/{}.", report.id.unwrap());
    assert!(after.contains_key(&format!("{own}mvmanifest")));
    // What packvault knows of the snapshot lies beside it.
    after.retain(|path, _| !path.starts_with(&own));
    assert_eq!(after, before);
}
