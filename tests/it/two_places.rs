//! The danger: an index speaks of a pack that is gone, and hides the whole copy that another index knows; or a pack
//! vanishes while a create works, and a snapshot is published that nobody can restore.

use std::sync::Arc;
use std::time::SystemTime;

use futures::FutureExt;
use packvault::ErrorKind;
use packvault::engine::create::{CreateOptions, create};
use packvault::engine::repair::{RepairOptions, repair_index};
use packvault::engine::report::ProblemKind;
use packvault::engine::{Context, Selection};
use packvault::format::index::{self, IndexEntry};
use packvault::format::{BlobFlags, PackId};
use packvault::profiles::msgvault::Msgvault;
use packvault::progress::{Progress, Stage, Unit};
use packvault::repo::Repository;
use packvault_storage::{ErrorKind as StorageErrorKind, Fault, FaultStorage, Key, MemoryStorage, Storage};

use crate::support::memory_repo::*;

/// How the newer of two places can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Gone,
    Short,
    Empty,
    Longer,
    Offset,
    Swapped,
    Header,
}

const WRONGS: [Wrong; 7] =
    [Wrong::Gone, Wrong::Short, Wrong::Empty, Wrong::Longer, Wrong::Offset, Wrong::Swapped, Wrong::Header];

fn keys_of(storage: &MemoryStorage, folder: &str) -> Vec<Key> {
    let keys = storage.objects().into_iter().map(|(key, _)| key);
    keys.filter(|key| key.as_str().starts_with(folder)).collect()
}

fn put(storage: &MemoryStorage, key: &Key, bytes: impl Into<bytes::Bytes>) {
    storage.put_raw(key, bytes, SystemTime::now());
}

/// Adds a second index, behind the first, that places every blob of it in a copy of its pack, and spoils that.
async fn second_place(storage: &MemoryStorage, wrong: Wrong) {
    let old = keys_of(storage, "indexes/").remove(0);
    let mut entries = index::decode(&storage.read(&old).await.unwrap()).unwrap();
    let first = entries[0].pack;
    assert!(entries.iter().all(|entry| entry.pack == first), "one pack");
    let copy = PackId::from_bytes([2; 16]);
    let bytes = storage.read(&pack_key(&first)).await.unwrap();
    let mut spoilt = bytes.to_vec();
    match wrong {
        Wrong::Short => spoilt.truncate(bytes.len() - 1),
        Wrong::Empty => spoilt.clear(),
        Wrong::Longer => spoilt.push(0),
        Wrong::Header => spoilt[0] ^= 1,
        Wrong::Gone | Wrong::Offset | Wrong::Swapped => {}
    }
    if wrong != Wrong::Gone {
        put(storage, &pack_key(&copy), spoilt);
    }
    entries.iter_mut().for_each(|entry| entry.pack = copy);
    match wrong {
        Wrong::Offset => entries.iter_mut().for_each(|entry| entry.offset += 1),
        Wrong::Swapped => swap(&mut entries),
        _ => {}
    }
    put(storage, &key("indexes/02000000000000000000000000.mvidx"), index::encode(&entries));
}

/// Lets every two blobs of the same length, or else all offsets, change places; the frames still fill the pack.
fn swap(entries: &mut [IndexEntry]) {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|position| entries[*position].offset);
    let mut offset = entries[order[0]].offset;
    for position in order.into_iter().rev() {
        entries[position].offset = offset;
        offset += entries[position].stored_bytes;
    }
}

fn pack_key(id: &PackId) -> Key {
    key(&format!("packs/{}/{id}.mvpack", id.shard()))
}

#[test]
fn a_blob_is_taken_from_where_it_is_whole() {
    runtime().block_on(async {
        for wrong in WRONGS {
            let case = format!("{wrong:?}");
            let (storage, archive, made) = repository_of(1).await;
            second_place(&storage, wrong).await;
            assert_comes_back(shared(&storage), &made[0], &case).await;
            for quick in [true, false] {
                let report = check(shared(&storage), Selection::All, quick).await.unwrap();
                assert!(!report.ok, "{case}");
                let kinds = report.problems.iter().map(|problem| problem.kind);
                assert!(kinds.into_iter().all(|kind| kind == ProblemKind::Outranked), "{case}");
            }
            // What lengths tell a create sees; what only the pack itself can tell is seen by who opens it.
            let by_length = !matches!(wrong, Wrong::Swapped | Wrong::Header);
            let report = capture(shared(&storage), &archive).await.unwrap();
            assert!(!by_length || report.blobs_added > 5, "{case}: it is stored again for other programs");
            let made = Made { id: report.id.unwrap(), files: archive.expected() };
            assert_comes_back(shared(&storage), &made, &case).await;
            let latest = check(shared(&storage), Selection::Latest, false).await.unwrap();
            assert_eq!(latest.ok, by_length, "{case}: {:#?}", latest.problems);
            let repository = Repository::open(shared(&storage)).await.unwrap();
            repair_index(&repository, RepairOptions::default(), &context()).await.unwrap();
            assert_sound(shared(&storage), &case).await;
        }
    });
}

#[test]
fn a_pack_that_may_not_be_read_gives_way_to_one_that_may() {
    runtime().block_on(async {
        let (storage, _archive, made) = repository_of(1).await;
        second_place(&storage, Wrong::Offset).await;
        let copy = pack_key(&PackId::from_bytes([2; 16]));
        let faults = FaultStorage::new(shared(&storage));
        for _ in 0..50 {
            let copy = copy.to_string();
            let denied = Fault::Before(StorageErrorKind::Denied);
            faults.at_match(0, denied, move |_, object| object == copy);
        }
        assert_comes_back(Arc::new(faults), &made[0], "unreadable").await;
    });
}

#[test]
fn a_blob_that_the_index_places_in_no_pack_that_holds_it_is_stored_again() {
    runtime().block_on(async {
        let (storage, archive, _) = repository_of(1).await;
        let index_key = keys_of(&storage, "indexes/").remove(0);
        let mut entries = index::decode(&storage.read(&index_key).await.unwrap()).unwrap();
        let wrong = entries.iter().position(|entry| entry.flags == BlobFlags::RAW).unwrap();
        entries[wrong].offset += 1;
        put(&storage, &index_key, index::encode(&entries));
        let report = capture(shared(&storage), &archive).await.unwrap();
        let made = Made { id: report.id.unwrap(), files: archive.expected() };
        assert_comes_back(shared(&storage), &made, "an offset").await;
    });
}

/// Takes an object away when the capture is about to end.
struct Thief {
    storage: MemoryStorage,
    takes: Key,
}

impl Progress for Thief {
    fn begin(&self, stage: Stage, _: Unit, _: Option<u64>) {
        if stage == Stage::Seal {
            self.storage.remove(&self.takes).now_or_never().unwrap().unwrap();
        }
    }

    fn advance(&self, _: Stage, _: u64) {}

    fn step(&self, _: Stage, _: &str) {}

    fn end(&self, _: Stage) {}

    fn remark(&self, _: &str) {}
}

#[test]
fn what_vanishes_while_a_create_works_makes_no_snapshot() {
    runtime().block_on(async {
        for folder in ["packs/", "indexes/", "snapshots/"] {
            let (storage, archive, _) = repository_of(1).await;
            let takes = keys_of(&storage, folder).remove(0);
            archive.change();
            let thief = Thief { storage: storage.clone(), takes: takes.clone() };
            let context = Context { progress: Arc::new(thief), ..context() };
            let repository = Repository::open(shared(&storage)).await.unwrap();
            let options = CreateOptions { writer_version: "test".into(), ..CreateOptions::default() };
            let before = keys_of(&storage, "snapshots/");
            let made = create(&repository, Arc::new(Msgvault), &archive.paths(), options, &context).await;
            let error = made.unwrap_err();
            assert!(error.to_string().starts_with("no snapshot was made: it needs"), "{folder}: {error}");
            assert!(keys_of(&storage, "snapshots/").len() <= before.len(), "{folder}");
            assert!(keys_of(&storage, "locks/").is_empty());
            // Nothing keeps the next one from being made, and it is whole.
            let report = capture(shared(&storage), &archive).await.unwrap();
            let made = Made { id: report.id.unwrap(), files: archive.expected() };
            assert_comes_back(shared(&storage), &made, folder).await;
        }
    });
}

#[test]
fn paranoid_makes_no_snapshot_on_rot() {
    runtime().block_on(async {
        let (storage, archive, _) = repository_of(1).await;
        let options = || CreateOptions { paranoid: true, ..CreateOptions::default() };
        archive.change();
        let sound = capture_with(shared(&storage), &archive, options()).await.unwrap();
        let made = Made { id: sound.id.unwrap(), files: archive.expected() };
        assert_comes_back(shared(&storage), &made, "read back").await;
        let before = keys_of(&storage, "snapshots/").len();
        let pack = keys_of(&storage, "packs/").remove(0);
        let mut bytes = storage.read(&pack).await.unwrap().to_vec();
        bytes[10] ^= 1;
        put(&storage, &pack, bytes);
        archive.change();
        let error = capture_with(shared(&storage), &archive, options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error:?}");
        assert!(error.to_string().contains(pack.name().split('.').next().unwrap()), "{error}");
        assert_eq!(keys_of(&storage, "snapshots/").len(), before);
        assert!(keys_of(&storage, "locks/").is_empty());
    });
}
