//! The danger: a clock that was ahead, or a name that somebody chose, gives an old index the last word. A pack is
//! lost, create stores everything again and says so, and yet nobody finds it: every snapshot from then on is lost.
//!
//! Of two indexes that name a blob, other programs take the one whose name sorts last. What is published must be
//! what they find, and what packvault finds must be there whatever the names say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use packvault::ErrorKind;
use packvault::format::{BlobId, Manifest, SnapshotId, index};
use packvault_storage::{Key, MemoryStorage, Storage};

use crate::support::Scratch;
use crate::support::anatomy::{dissect, manifest_key};
use crate::support::memory_repo::*;

/// Names that indexes may have got from another clock, or from a hand, and that new ones can still follow.
const AHEAD: [&str; 5] = [
    "02000000000000000000000000",
    "5zzzzzzzzzzzzzzzzzzzzzzzzz",
    "7zzzzzzzzzzzzzzzz000000000",
    "01m8k2w476evrcp160s3jr4d01-copy of it",
    "3000",
];

/// Names behind which no new one can sort.
const OUT_OF_REACH: [&str; 3] = ["7zzzzzzzzzzzzzzzzzzzzzzzzz", "zz", "~"];

fn keys_of(storage: &MemoryStorage, folder: &str) -> Vec<Key> {
    let keys = storage.objects().into_iter().map(|(key, _)| key);
    keys.filter(|key| key.as_str().starts_with(folder)).collect()
}

async fn rename(storage: &MemoryStorage, from: &Key, to: &str) {
    let bytes = storage.read(from).await.unwrap();
    storage.remove(from).await.unwrap();
    storage.put_raw(&key(to), bytes, SystemTime::now());
}

async fn lose_every_pack(storage: &MemoryStorage) {
    for pack in keys_of(storage, "packs/") {
        storage.remove(&pack).await.unwrap();
    }
}

/// Returns, for each blob, the pack that programs look into which take the last index at its word.
async fn last_words(storage: &MemoryStorage) -> BTreeMap<BlobId, String> {
    let mut words = BTreeMap::new();
    for name in keys_of(storage, "indexes/") {
        for entry in index::decode(&storage.read(&name).await.unwrap()).unwrap() {
            words.insert(entry.id, format!("packs/{}/{}.mvpack", entry.pack.shard(), entry.pack));
        }
    }
    words
}

/// Every blob of the snapshot lies where programs look for it that take the last index at its word.
async fn assert_found_by_the_last_word(storage: &MemoryStorage, id: &str, case: &str) {
    let words = last_words(storage).await;
    let packs: BTreeSet<String> = keys_of(storage, "packs/").iter().map(ToString::to_string).collect();
    let repo = dissect(storage);
    let snapshot = repo.snapshots.iter().find(|found| found.manifest.snapshot_id == id).unwrap();
    for blob in snapshot.needs.keys() {
        assert!(packs.contains(&words[blob]), "{case}: {blob} is looked for in {}", words[blob]);
    }
}

#[test]
fn what_is_stored_again_is_found_whatever_the_clock_said_before() {
    runtime().block_on(async {
        for name in AHEAD {
            let (storage, archive, _) = repository_of(1).await;
            let first = keys_of(&storage, "indexes/").remove(0);
            rename(&storage, &first, &format!("indexes/{name}.mvidx")).await;
            lose_every_pack(&storage).await;
            for round in 0..3 {
                let case = format!("{name}, round {round}");
                let id = capture(shared(&storage), &archive).await.unwrap().id.unwrap();
                assert_found_by_the_last_word(&storage, &id, &case).await;
                let made = Made { id, files: archive.expected() };
                assert_comes_back(shared(&storage), &made, &case).await;
                let report =
                    check(shared(&storage), packvault::engine::Selection::Latest, false).await.unwrap();
                assert!(report.ok, "{case}: {:#?}", report.problems);
                archive.change();
            }
        }
    });
}

#[test]
fn names_that_none_can_follow_hide_nothing_and_lock_nobody_out() {
    runtime().block_on(async {
        for name in OUT_OF_REACH {
            let (storage, archive, _) = repository_of(1).await;
            let first = keys_of(&storage, "indexes/").remove(0);
            rename(&storage, &first, &format!("indexes/{name}.mvidx")).await;
            lose_every_pack(&storage).await;
            let added = capture(shared(&storage), &archive).await.unwrap();
            assert!(added.blobs_added > 5);
            archive.write("deletions/one-more.json", b"{}");
            let again = capture(shared(&storage), &archive).await.unwrap();
            assert!(again.blobs_added < 5, "{name}: {} blobs are stored again and again", again.blobs_added);
            let made = Made { id: again.id.unwrap(), files: archive.expected() };
            assert_comes_back(shared(&storage), &made, name).await;
        }
    });
}

#[test]
fn a_pack_whose_name_none_can_follow_keeps_no_index_from_the_last_word() {
    runtime().block_on(async {
        let (storage, archive, _) = repository_of(1).await;
        storage.put_raw(&key("packs/7z/7zzzzzzzzzzzzzzzzzzzzzzzzz.mvpack"), "x", SystemTime::now());
        let lost: Vec<Key> =
            keys_of(&storage, "packs/").into_iter().filter(|key| key.name().starts_with('0')).collect();
        for pack in lost {
            storage.remove(&pack).await.unwrap();
        }
        let id = capture(shared(&storage), &archive).await.unwrap().id.unwrap();
        storage.remove(&key("packs/7z/7zzzzzzzzzzzzzzzzzzzzzzzzz.mvpack")).await.unwrap();
        assert_found_by_the_last_word(&storage, &id, "a stray pack").await;
    });
}

/// Gives the only snapshot another time.
async fn made_at(storage: &MemoryStorage, made: &Made, time: &str) -> String {
    let old = manifest_key(&made.id);
    let bytes = storage.read(&old).await.unwrap();
    let mut manifest = Manifest::load(&SnapshotId::parse(&made.id).unwrap(), &bytes, 4).unwrap();
    manifest.created_at = time.to_owned();
    let id = manifest.seal_id().unwrap().to_string();
    storage.remove(&old).await.unwrap();
    storage.put_raw(&manifest_key(&id), manifest.encode(), SystemTime::now());
    id
}

#[test]
fn a_snapshot_from_the_future_is_followed_by_the_next_one() {
    runtime().block_on(async {
        for time in ["2031-12-31T23:59:59Z", "9999-12-29T23:59:59Z"] {
            let (storage, archive, made) = repository_of(1).await;
            let future = made_at(&storage, &made[0], time).await;
            archive.change();
            let report = capture(shared(&storage), &archive).await.unwrap();
            assert_eq!(report.parent.as_deref(), Some(future.as_str()));
            let id = report.id.unwrap();
            assert!(id > future, "{id}");
            assert_sound(shared(&storage), time).await;
            let made = Made { id, files: archive.expected() };
            assert_comes_back(shared(&storage), &made, time).await;
        }
    });
}

#[test]
fn a_snapshot_of_the_last_second_there_is_says_what_to_do() {
    runtime().block_on(async {
        let (storage, archive, made) = repository_of(1).await;
        let future = made_at(&storage, &made[0], "9999-12-30T22:00:00Z").await;
        let error = capture(shared(&storage), &archive).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        let text = error.chain();
        assert!(text.contains(&future) && text.contains("move its manifest aside"), "{text}");
    });
}

#[test]
fn the_program_finds_what_it_stored_again_after_a_clock_was_ahead() {
    let scene = Scratch::new();
    let (repo, home) = (scene.path("repo"), scene.path("home"));
    let (repo, home) = (repo.to_str().unwrap(), home.to_str().unwrap());
    packvault_sample::make(
        std::path::Path::new(home),
        &packvault_sample::SampleOptions { messages: 40, attachments: 8, ..Default::default() },
    )
    .unwrap();
    assert!(scene.run(&["init", "--repo", repo]).status.success());
    assert!(scene.run(&["create", home, "--repo", repo]).status.success());
    let indexes = scene.path("repo").join("indexes");
    let index = crate::support::names(&indexes).remove(0);
    std::fs::rename(indexes.join(index), indexes.join("02zzzzzzzzzzzzzzzzzzzzzzzz.mvidx")).unwrap();
    std::fs::remove_dir_all(scene.path("repo").join("packs")).unwrap();
    for round in 0..2 {
        let created = scene.run(&["create", home, "--repo", repo]);
        assert_eq!(created.status.code(), Some(0), "{}", crate::support::stderr(&created));
        let target = scene.path(&format!("target{round}"));
        let restored = scene.run(&["restore", "--repo", repo, "--target", target.to_str().unwrap()]);
        assert_eq!(restored.status.code(), Some(0), "{}", crate::support::stderr(&restored));
        let verified = scene.run(&["verify", "--repo", repo]);
        assert_eq!(verified.status.code(), Some(0), "{}", crate::support::stderr(&verified));
    }
}
