//! The danger: a copy that is no copy. It lacks what nobody misses before the day it is needed, carries damage on, or
//! shows a snapshot that it cannot bring back; or making it harms one of the two places.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use packvault::engine::copy::{CopyOptions, copy};
use packvault::engine::list::{list, list_all};
use packvault::engine::report::CopyReport;
use packvault::format::{RepositoryKey, SnapshotId};
use packvault::profiles;
use packvault::repo::Repository;
use packvault::repo::config::NewKey;
use packvault::{ErrorKind, Result};
use packvault_sample::{ContentKind, SampleOptions};
use packvault_storage::{
    ErrorKind as StorageErrorKind, Fault, FaultStorage, MemoryStorage, Operation, Storage,
};

use crate::support::anatomy::{Role, dissect, pack_key};
use crate::support::memory_repo::*;
use crate::support::scenes::forget_all_but_the_last;

async fn empty(kind: Kind) -> MemoryStorage {
    let storage = MemoryStorage::new();
    make_repository(&storage, kind).await.unwrap();
    storage
}

async fn copy_with(
    from: Arc<dyn Storage>,
    to: Arc<dyn Storage>,
    options: &CopyOptions,
) -> Result<CopyReport> {
    let (source, target) = (opened(from).await?, opened(to).await?);
    copy(&source, &target, profiles::unnamed(), options, &context()).await
}

async fn copied(from: &MemoryStorage, to: &MemoryStorage) -> CopyReport {
    copy_with(shared(from), shared(to), &CopyOptions::default()).await.unwrap()
}

/// Returns the objects of a folder by their names.
fn objects_of(storage: &MemoryStorage, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let objects = storage.objects().into_iter().map(|(key, bytes)| (key.to_string(), bytes.to_vec()));
    objects.filter(|(name, _)| name.starts_with(folder)).collect()
}

fn names_of(storage: &MemoryStorage, folder: &str) -> BTreeSet<String> {
    objects_of(storage, folder).into_keys().collect()
}

async fn rows(storage: &MemoryStorage) -> String {
    format!("{:#?}", list_all(&opened(shared(storage)).await.unwrap()).await.unwrap())
}

fn only(id: &str) -> CopyOptions {
    CopyOptions { snapshots: vec![SnapshotId::parse(id).unwrap()], ..CopyOptions::default() }
}

#[test]
fn a_copy_lists_what_its_source_lists_and_brings_back_the_same_however_either_is_sealed() {
    runtime().block_on(async {
        for from in KINDS {
            let (source, _archive, made) = repository_of_kind(from, 4).await;
            for to in KINDS {
                let case = format!("{from:?} to {to:?}");
                let target = empty(to).await;
                let before = source.objects();
                let report = copied(&source, &target).await;
                assert_eq!(report.copied.len(), 4, "{case}");
                assert!(report.is_whole() && report.warnings.is_empty(), "{case}: {report:#?}");
                assert_eq!(rows(&target).await, rows(&source).await, "{case}");
                assert_eq!(names_of(&target, "packs/"), names_of(&source, "packs/"), "{case}");
                assert_eq!(names_of(&target, "snapshots/"), names_of(&source, "snapshots/"), "{case}");
                if from == Kind::Plain && to == Kind::Plain {
                    assert_eq!(objects_of(&target, "packs/"), objects_of(&source, "packs/"));
                    assert_eq!(objects_of(&target, "snapshots/"), objects_of(&source, "snapshots/"));
                }
                assert_eq!(source.objects(), before, "{case}: nothing stays behind in the source");
                assert!(names_of(&target, "locks/").is_empty() && target.unfinished_uploads() == 0);
                assert_sound(shared(&target), &case).await;
                for made in &made {
                    assert_comes_back(shared(&target), made, &case).await;
                }
                let objects = target.objects();
                let again = copied(&source, &target).await;
                assert_eq!((again.there, again.copied.len(), again.packs_written), (4, 0, 0), "{case}");
                assert_eq!(target.objects(), objects, "{case}: the second copy has nothing to do");
            }
        }
    });
}

#[test]
fn a_copy_under_another_key_goes_there_and_back() {
    runtime().block_on(async {
        let (source, _archive, made) = repository_of_kind(Kind::Encrypted, 2).await;
        let (between, own) = (MemoryStorage::new(), foreign_key());
        let new = NewKey { key: &own, keep: Box::new(|_| Box::pin(async { Ok(()) })) };
        packvault::engine::init::init_with(&between, false, Some(new)).await.unwrap();
        let open = async |key: fn() -> RepositoryKey, storage: &MemoryStorage| {
            Repository::open_with(shared(storage), async |_| Ok(Some(key()))).await.unwrap()
        };
        let (first, second) = (open(repository_key, &source).await, open(foreign_key, &between).await);
        let run = async |from: &Repository, to: &Repository| {
            copy(from, to, profiles::unnamed(), &CopyOptions::default(), &context()).await.unwrap()
        };
        assert!(run(&first, &second).await.is_whole());
        let mut differ = objects_of(&between, "packs/").into_iter().zip(objects_of(&source, "packs/"));
        assert!(differ.all(|(one, other)| one.0 == other.0 && one.1 != other.1), "it is sealed anew");
        let back = empty(Kind::Plain).await;
        assert!(run(&second, &opened(shared(&back)).await.unwrap()).await.is_whole());
        for made in &made {
            assert_comes_back(shared(&back), made, "there and back").await;
        }
    });
}

#[test]
fn large_blobs_pass_in_pieces_and_arrive_whole() {
    runtime().block_on(async {
        let options = SampleOptions {
            messages: 10,
            attachments: 2,
            large: vec![(9_500_000, ContentKind::Random)],
            ..SampleOptions::default()
        };
        for (from, to) in [
            (Kind::Plain, Kind::Encrypted),
            (Kind::Encrypted, Kind::Encrypted),
            (Kind::Encrypted, Kind::Plain),
        ] {
            let (source, archive) = (MemoryStorage::new(), Archive::make(&options));
            let made = fill_kind(from, &source, &archive, 1).await;
            let target = empty(to).await;
            assert!(copied(&source, &target).await.is_whole());
            assert_sound(shared(&target), "large").await;
            assert_comes_back(shared(&target), &made[0], "large").await;
        }
    });
}

#[test]
fn one_snapshot_brings_those_it_is_built_on_and_the_next_copy_only_what_is_new() {
    runtime().block_on(async {
        let (source, archive, made) = repository_of(3).await;
        let target = empty(Kind::Plain).await;
        let options = CopyOptions { dry_run: true, ..only(&made[2].id) };
        let dry = copy_with(shared(&source), shared(&target), &options).await.unwrap();
        assert_eq!((dry.copied.len(), names_of(&target, "packs/").len()), (3, 0), "a dry run writes nothing");
        assert!(dry.packs_written > 0 && dry.bytes_written > 0);
        let report = copy_with(shared(&source), shared(&target), &only(&made[2].id)).await.unwrap();
        assert_eq!(report.copied.len(), 3, "it is a delta on the two before");
        archive.change();
        capture(shared(&source), &archive).await.unwrap();
        let packs = names_of(&target, "packs/");
        let report = copied(&source, &target).await;
        assert_eq!((report.copied.len(), report.there), (1, 3));
        let new = names_of(&target, "packs/").difference(&packs).count() as u64;
        assert_eq!(new, report.packs_written);
        let missing = "20200101T000000Z-00000000000000000000000000000000";
        let error = copy_with(shared(&source), shared(&target), &only(missing)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn a_forgotten_snapshot_travels_as_a_link_and_a_mirror_forgets_what_its_source_forgot() {
    runtime().block_on(async {
        let (source, archive, mut made) = repository_of(3).await;
        let (kept, mirror) = (empty(Kind::Encrypted).await, empty(Kind::Plain).await);
        copied(&source, &kept).await;
        copied(&source, &mirror).await;
        forget_all_but_the_last(shared(&source), false, &context()).await.unwrap();
        let late = empty(Kind::Plain).await;
        let report = copied(&source, &late).await;
        assert_eq!(report.copied.iter().filter(|copied| copied.forgotten).count(), 2);
        assert_eq!(rows(&late).await, rows(&source).await);
        assert_comes_back(shared(&late), &made[2], "on links").await;

        let listed = async |storage: &MemoryStorage| {
            list(&opened(shared(storage)).await.unwrap()).await.unwrap().len()
        };
        copied(&source, &kept).await;
        assert_eq!(listed(&kept).await, 3, "what the source forgets stays in a copy");
        // One that was made there directly is newer than all of the source.
        archive.change();
        let own = capture(shared(&mirror), &archive).await.unwrap();
        made.push(Made { id: own.id.unwrap(), files: archive.expected() });
        let options = CopyOptions { mirror: true, ..CopyOptions::default() };
        let report = copy_with(shared(&source), shared(&mirror), &options).await.unwrap();
        assert_eq!(report.forgotten, [made[0].id.clone(), made[1].id.clone()]);
        assert_eq!(listed(&mirror).await, 2);
        assert_sound(shared(&mirror), "after the mirror").await;
        for made in &made[2..] {
            assert_comes_back(shared(&mirror), made, "after the mirror").await;
        }
        let nothing = empty(Kind::Plain).await;
        let options = CopyOptions { adopt: true, ..options };
        let report = copy_with(shared(&nothing), shared(&mirror), &options).await.unwrap();
        assert!(
            report.forgotten.is_empty() && listed(&mirror).await == 2,
            "an emptied source takes nothing along"
        );
    });
}

#[test]
fn damage_in_the_source_is_named_and_does_not_travel_and_the_rest_does() {
    runtime().block_on(async {
        for (from, to) in [(Kind::Plain, Kind::Encrypted), (Kind::Encrypted, Kind::Plain)] {
            let (whole, _archive, made) = repository_of_kind(from, 4).await;
            let repo = dissect(&whole);
            for role in
                [Role::PageBlob, Role::PageMap, Role::PageHashes, Role::List, Role::Attachment, Role::Tree]
            {
                let needs = &repo.snapshots[3].needs;
                let of_role = |id: &&packvault::format::BlobId| {
                    needs[*id].contains(&role) && repo.blobs[*id].entry.stored_bytes > 0
                };
                let Some(blob) = needs.keys().find(of_role) else { panic!("no {role:?}") };
                let place = &repo.blobs[blob];
                let source = copy_of(&whole);
                let mut bytes = objects_of(&whole, "packs/")[pack_key(&place.pack).as_str()].clone();
                bytes[place.entry.offset as usize + place.entry.stored_bytes as usize / 2] ^= 1;
                source.put_raw(&pack_key(&place.pack), bytes, std::time::SystemTime::now());
                let suffer = repo.sufferers([blob]);
                let case = format!("{from:?} to {to:?}, {role:?} needed by {}", suffer.len());
                let target = empty(to).await;
                let report = copied(&source, &target).await;
                let left: BTreeSet<String> = report.not_copied.iter().cloned().collect();
                assert!(left.is_superset(&suffer), "{case}: {report:#?}");
                // A manifest that is built on one that suffers has to wait, whatever it needs itself.
                let told = format!("{:?}", report.problems);
                assert!(told.contains(&blob.to_string()), "{case}: {told}");
                assert!(!report.is_whole(), "{case}");
                if !names_of(&target, "snapshots/").is_empty() {
                    assert_sound(shared(&target), &case).await;
                }
                assert!(!names_of(&target, "packs/").contains(pack_key(&place.pack).as_str()), "{case}");
                for made in made.iter().filter(|made| !left.contains(&made.id)) {
                    assert_comes_back(shared(&target), made, &case).await;
                }
                // Once the source is whole again, the rest follows.
                let report = copied(&whole, &target).await;
                assert!(report.is_whole(), "{case}: {report:#?}");
                assert_sound(shared(&target), &case).await;
                for made in &made {
                    assert_comes_back(shared(&target), made, &case).await;
                }
            }
        }
    });
}

#[test]
fn an_interrupted_copy_goes_on_with_the_packs_that_are_there() {
    runtime().block_on(async {
        let (source, _archive, made) = repository_of(3).await;
        let target = empty(Kind::Encrypted).await;
        let faults = FaultStorage::new(shared(&target));
        faults.at_match(0, Fault::Before(StorageErrorKind::Io), |asked, key| {
            asked == Operation::Create && key.starts_with("indexes/")
        });
        let stopped = copy_with(shared(&source), Arc::new(faults), &CopyOptions::default()).await;
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Io);
        let packs = objects_of(&target, "packs/");
        assert!(!packs.is_empty() && names_of(&target, "snapshots/").is_empty());
        let report = copied(&source, &target).await;
        assert_eq!((report.copied.len(), report.packs_written), (3, 0));
        assert_eq!(objects_of(&target, "packs/"), packs);
        for made in &made {
            assert_comes_back(shared(&target), made, "gone on").await;
        }
    });
}

#[test]
fn a_pack_of_the_target_that_is_another_one_is_left_and_what_is_needed_lies_elsewhere() {
    runtime().block_on(async {
        let (source, _archive, made) = repository_of(2).await;
        let target = empty(Kind::Plain).await;
        let first = names_of(&source, "packs/").into_iter().next().unwrap();
        target.put_raw(&key(&first), "something else", std::time::SystemTime::now());
        let report = copied(&source, &target).await;
        assert!(report.is_whole(), "{report:#?}");
        assert!(
            report.warnings.iter().any(|text| text.contains("was left as it is")),
            "{:?}",
            report.warnings
        );
        assert_eq!(objects_of(&target, "packs/")[&first], b"something else");
        for made in &made {
            assert_comes_back(shared(&target), made, "elsewhere").await;
        }
    });
}

#[test]
fn a_source_that_cannot_be_written_is_read_without_a_lock_and_that_is_said() {
    runtime().block_on(async {
        let (source, _archive, _) = repository_of(1).await;
        let target = empty(Kind::Plain).await;
        let faults = FaultStorage::new(shared(&source));
        for _ in 0..20 {
            faults.at_match(0, Fault::Before(StorageErrorKind::Denied), |asked, key| {
                asked == Operation::Create && key.starts_with("locks/")
            });
        }
        let report = copy_with(Arc::new(faults), shared(&target), &CopyOptions::default()).await.unwrap();
        assert_eq!(report.copied.len(), 1);
        assert!(report.warnings.iter().any(|text| text.contains("without a lock")), "{:?}", report.warnings);
    });
}
